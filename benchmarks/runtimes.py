"""How fast each runtime is: torch, ONNX Runtime and OpenVINO, side by side in one run.

    python benchmarks/runtimes.py [n=20] [weights=default] [formats=onnx,openvino] …

`python benchmarks/runtimes.py help` lists the keys. The weights are exported to each format by
`spineline pipeline export`, and phantom studies are read into memory. Then the runtimes take turns:

- *models loaded*: `Pipeline.analyse` of every study, one after the other, in this process: both
  networks, the namer, suppression, decoding, crops and grades, without reading and writing;
- *from a cold start*: `spineline pipeline predict` of one study, a process of its own from its
  start to its end. Only torch imports torch there.

The figures of a section are ratios to torch; set OMP_NUM_THREADS for another number of threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness

from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.networks.runtimes import FORMS, PACKAGES, default_threads
from spineline.pipeline.export.export import Agreement, export
from spineline.pipeline.export.settings import PipelineExport
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.sources import Frame, find_cases, load_frame

TITLES = {
    "torch": "torch",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
}
HEADS = (
    "runtime",
    "models loaded, ms a study",
    "by torch",
    "by torch, processor time",
    "cold start, s",
    "by torch",
    "largest difference: point, px",
    "probability",
)
ABOUT = f"""\
The same pipeline run by each runtime (`pipeline export`). *Models loaded* is `Pipeline.analyse` of
one study after the other, from the frame to named and graded structures; *cold start* is the whole
command on one study, a process of its own. Least and largest of the rounds in brackets; below 1 is
faster than torch. The last two columns are what `pipeline export` found when it compared each with
torch. Where the load average is above the number of cores, other programs ran beside it: times are
then many times what they are alone, ratios say more, and processor time is disturbed least.
{harness.ABOUT}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings(harness.BenchSettings):
    n: int = key("phantom studies", default=20, minimum=1)
    weights: str = key("bundle, or DETECTOR,CLASSIFIER", default="default")
    formats: tuple[str, ...] = key("beside torch", default=FORMS, choices=FORMS)
    cold: bool = key("also time commands from a cold start", default=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was drawn, all turns by runtime, and how well each export agrees with the original."""

    data: str
    loaded: Mapping[str, Sequence[harness.Turn]]
    cold: Mapping[str, Sequence[harness.Turn]]
    agreement: Mapping[str, Agreement]


def measure(settings: RuntimeSettings, folder: Path) -> Measured:
    """Export, draw, and let the runtimes take turns."""
    logging.getLogger("spineline").setLevel(logging.ERROR)
    studies = folder / "studies"
    data = harness.draw_cohort(studies, settings.n, seed=settings.seed)
    agreement, weights = {}, {"torch": settings.weights}
    for form in settings.formats:
        keys = PipelineExport(out=folder / form, weights=settings.weights, format=form)
        agreement[form] = export(keys).agreement
        weights[form] = str(folder / form)
    frames = [load_frame(case) for case in find_cases(studies)]
    loaded = harness.take_turns(
        {name: analysing(Pipeline.load(w, trust=True), frames) for name, w in weights.items()},
        settings.repeats,
    )
    one = min(path for path in studies.iterdir() if path.is_dir())
    commands = {name: command(w, one, folder / f"cold-{name}") for name, w in weights.items()}
    cold = harness.take_turns(commands, settings.repeats) if settings.cold else {}
    return Measured(data, loaded, cold, agreement)


def analysing(pipeline: Pipeline, frames: Sequence[Frame]) -> Callable[[], None]:
    """One study after the other, as a command does on the CPU."""

    def run() -> None:
        for frame in frames:
            pipeline.analyse([frame])

    return run


def command(weights: str, study: Path, out: Path) -> Callable[[], None]:
    """The command on one study, in a process of its own."""
    keys = {"weights": weights, "source": study, "out": out, "trust": "true", "overwrite": "true"}
    words = [f"{name}={value}" for name, value in keys.items()]
    return harness.process(*harness.CLI, "pipeline", "predict", *words)


def rows_of(measured: Measured, studies: int) -> list[tuple[str, ...]]:
    """A row for each runtime."""
    rows = []
    torch = measured.loaded["torch"]
    for name, turns in measured.loaded.items():
        cold, agreement = measured.cold.get(name, ()), measured.agreement.get(name)
        rows.append(
            (
                TITLES[name],
                f"{harness.median(turns) / studies * 1e3:.1f}",
                *(str(harness.ratio(turns, torch, clock)) for clock in harness.CLOCKS),
                f"{harness.median(cold):.2f}" if cold else "",
                str(harness.ratio(cold, measured.cold["torch"])) if cold else "",
                f"{agreement.points_px:.1g}" if agreement else "",
                f"{agreement.probability:.1g}" if agreement else "",
            )
        )
    return rows


def found_in(settings: RuntimeSettings, measured: Measured) -> harness.BenchResult:
    """What there is to say of all runtimes."""
    packages = dict.fromkeys(["torch", *(PACKAGES[form] for form in settings.formats)])
    return harness.BenchResult(
        title="Runtimes",
        about=ABOUT,
        data=f"{measured.data}; {settings.weights} weights, exported",
        packages=tuple(packages),
        threads=default_threads(),
        tables=(markdown_table(HEADS, rows_of(measured, settings.n)),),
        report={
            "loaded": harness.turns_json(measured.loaded),
            "cold": harness.turns_json(measured.cold),
            **harness.ratios_json(measured.loaded, "torch", "ratios"),
        },
    )


def work(settings: RuntimeSettings, folder: Path) -> harness.BenchResult:
    return found_in(settings, measure(settings, folder))


def main(words: list[str]) -> None:
    harness.run_bench(words, RuntimeSettings, work, "runtimes")


if __name__ == "__main__":
    run_script(main)
