"""Speed of each runtime, torch, ONNX Runtime and OpenVINO, in one run.

    python benchmarks/runtimes.py [n=20] [weights=default] [formats=onnx,openvino] [source=…] …

`python benchmarks/runtimes.py help` lists the keys. Phantom studies, or those of ``source=``, are
read into memory, and each runtime's results are compared with torch's. Then the runtimes run in
turn:

- *models loaded*: `Pipeline.analyse` of every study, one after the other, in this process: all
  networks, suppression, decoding, crops and grades, without reading and writing;
- *from a cold start*: `spineline pipeline predict` of one study in its own process, from start to
  end. Only the torch arm imports torch there.

Values are ratios to torch; set OMP_NUM_THREADS for another number of threads.
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
from spineline.pipeline.export.export import Agreement, check_agreement
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import Frame, load_frame

AT_ONCE = 10
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
Each runtime (`runtime=`) runs the same pipeline. *Models loaded* is `Pipeline.analyse` of one study
after the other, from the frame to named and graded structures. *Cold start* is the whole command on
one study, in its own process. Brackets give the smallest and largest value of the rounds; below 1
is faster than torch. The last two columns are the largest differences from torch's answers on these
studies; levels are the same. If the load average exceeds the number of cores, other programs were
running too. Times are then far longer than on an idle machine, ratios are more reliable, and
processor time is least affected.
{harness.ABOUT}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings(harness.BenchSettings):
    n: int = key("phantom studies, where there is no source", default=20, minimum=1)
    source: Path | None = key("studies or frames instead of phantoms", default=None)
    weights: str = key("bundle, or DETECTOR,CLASSIFIER", default="default")
    formats: tuple[str, ...] = key("beside torch", default=FORMS, choices=FORMS)
    cold: bool = key("also time commands from a cold start", default=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """The data, all turns by runtime, and the agreement of each with torch."""

    data: str
    loaded: Mapping[str, Sequence[harness.Turn]]
    cold: Mapping[str, Sequence[harness.Turn]]
    agreement: Mapping[str, Agreement]
    studies: int


def measure(settings: RuntimeSettings, folder: Path) -> Measured:
    """Compare on phantoms or a source, and run the runtimes in turn."""
    logging.getLogger("spineline").setLevel(logging.ERROR)
    studies = settings.source or folder / "studies"
    if settings.source is None:
        data = harness.draw_cohort(studies, settings.n, seed=settings.seed)
    frames = [load_frame(case) for case in find_cases(studies)]
    if settings.source is not None:
        data = f"{len(frames)} studies of {studies.name}"
    names = ("torch", *settings.formats)
    pipelines = {name: Pipeline.load(settings.weights, runtime=name) for name in names}
    agreement = {
        name: agreement_on(pipelines["torch"], pipelines[name], frames) for name in settings.formats
    }
    loaded = harness.take_turns(
        {name: analysing(pipeline, frames) for name, pipeline in pipelines.items()},
        settings.repeats,
    )
    one = min(studies.iterdir())
    commands = {
        name: command(name, settings.weights, one, folder / f"cold-{name}") for name in names
    }
    cold = harness.take_turns(commands, settings.repeats) if settings.cold else {}
    return Measured(data, loaded, cold, agreement, len(frames))


def agreement_on(torch: Pipeline, other: Pipeline, frames: Sequence[Frame]) -> Agreement:
    """The worst disagreement of two pipelines, in batches as large as memory allows."""
    parts = [
        check_agreement(torch, other, frames[start : start + AT_ONCE])
        for start in range(0, len(frames), AT_ONCE)
    ]
    return Agreement(
        len(frames),
        sum(part.structures for part in parts),
        max(part.points_px for part in parts),
        max(part.probability for part in parts),
    )


def analysing(pipeline: Pipeline, frames: Sequence[Frame]) -> Callable[[], None]:
    """Analyse one study after the other, as the command does on the CPU."""

    def run() -> None:
        for frame in frames:
            pipeline.analyse([frame])

    return run


def command(runtime: str, weights: str, study: Path, out: Path) -> Callable[[], None]:
    """The command on one study, in its own process."""
    words = [f"weights={weights}", f"runtime={runtime}", f"source={study}", f"out={out}"]
    return harness.process(*harness.CLI, "pipeline", "predict", *words, "overwrite=true")


def rows_of(measured: Measured) -> list[tuple[str, ...]]:
    """A row for each runtime."""
    rows = []
    torch = measured.loaded["torch"]
    for name, turns in measured.loaded.items():
        cold, agreement = measured.cold.get(name, ()), measured.agreement.get(name)
        rows.append(
            (
                TITLES[name],
                f"{harness.median(turns) / measured.studies * 1e3:.1f}",
                *(str(harness.ratio(turns, torch, clock)) for clock in harness.CLOCKS),
                f"{harness.median(cold):.2f}" if cold else "",
                str(harness.ratio(cold, measured.cold["torch"])) if cold else "",
                f"{agreement.points_px:.1g}" if agreement else "",
                f"{agreement.probability:.1g}" if agreement else "",
            )
        )
    return rows


def found_in(settings: RuntimeSettings, measured: Measured) -> harness.BenchResult:
    """The result for all runtimes."""
    packages = dict.fromkeys(["torch", *(PACKAGES[form] for form in settings.formats)])
    return harness.BenchResult(
        title="Runtimes",
        about=ABOUT,
        data=f"{measured.data}; {settings.weights} weights",
        packages=tuple(packages),
        threads=default_threads(),
        tables=(markdown_table(HEADS, rows_of(measured)),),
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
