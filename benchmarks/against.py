"""Compare this checkout with another version of the project in one run.

    python benchmarks/against.py BASE [only=start,cohort,memory,convert,train,finetune] …

`python benchmarks/against.py help` lists the keys. BASE is a commit, for which a temporary worktree
is made, or a folder with a checkout. The same commands run on the same files with both versions,
each in its own process that finds only its checkout (`PYTHONPATH`):

- *start*: `pipeline predict` of one phantom study, from the start of the process to its end;
- *cohort*: the time per study. It is the time of the same command over `n` studies, minus that of
  one study in the same round, divided by `n - 1`. It is measured with `slices=1` and `slices=auto`;
  an older base knows only one slice;
- *memory*: the peak of that command's process tree by PSS, with `slices=1`;
- *convert*: `convert report` to YOLO, VOC and COCO, and supervision's converters on its records;
- *train*: `pipeline train recipe=best`, whole, in rounds of its own. Fewer epochs of the detector
  would not show the time, because the other networks are trained beside it;
- *finetune*: `pipeline train recipe=finetune` likewise, relative to the base's time from scratch.

The tables also show what the same version gets right: the levels of phantoms, whose truth is known,
the difference between the results, and files that differ.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cohort_memory
import convert_speed
import harness
import training_speed

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table

HERE = Path(__file__).resolve().parents[1]
PACKAGES = ("converters", "datasets", "detect", "classify", "pipeline", "weights")
GROUPS = ("start", "cohort", "memory", "convert", "train", "finetune")
CLI = ("-P", "-m", "spineline.pipeline.cli")
SUPERVISE = """
import sys
from pathlib import Path
import convert_speed
convert_speed.supervise(Path(sys.argv[1]), Path(sys.argv[2]), images=True)
"""
ABOUT = f"""\
*Now* is this checkout, and *base* the other version. Each value is for whole commands in their own
processes. The time of a cohort's study is the time of the command over all studies minus that over
one, divided by the number of the others. Trainings have rounds of their own.
*Wanted* is the target ratio to the base, by wall-clock or processor time (cpu). For supervision, it
is its time divided by ours.
{harness.ABOUT}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstSettings(harness.BenchSettings):
    base: str = key("commit, or folder of a checkout, to compare with")
    python: Path | None = key("Python with the base's packages; none = this one", default=None)
    only: tuple[str, ...] = key("what to measure", default=GROUPS, choices=GROUPS)
    n: int = key("studies of the cohort", default=100, minimum=2)
    source: Path | None = key("folder of study folders; none draws phantoms", default=None)
    annotations: Path | None = key("their ground truth, as for pipeline val", default=None)
    frames: int = key("frames to convert", default=2000, minimum=1)
    supervision: bool = key("also time supervision's converters", default=True)
    data: Path | None = key("converted dataset to train on; none draws phantoms", default=None)
    studies: int = key("phantom studies to train on, a third of them to validate", default=24)
    trainings: int = key("rounds of whole trainings", default=1, minimum=1)


@dataclass(frozen=True, slots=True)
class Checkout:
    """One of the two versions.

    Attributes:
        name: ``base`` or ``now``.
        layout: folder with its packages as they are installed.
        python: that runs it.
        commit: in short, or ``unknown``.
    """

    name: str
    layout: Path
    python: str
    commit: str

    def command(self, *words: object) -> Callable[[], None]:
        """A command of spineline, such as ``pipeline predict source=…``."""
        return self.run(*CLI, *words)

    def run(self, *words: object) -> Callable[[], None]:
        """A call that runs Python with this checkout."""
        path = os.pathsep.join((str(self.layout), str(HERE / "benchmarks")))
        return harness.process(*words, python=self.python, environment={"PYTHONPATH": path})

    def says(self, code: str, *words: object) -> str:
        """The output of a Python program that runs with this checkout."""
        command = [self.python, "-P", "-c", code, *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(self.layout)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SpinelineError(f"{self.name}: {done.stderr.strip()[-500:]}")
        return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table.

    Attributes:
        name: what is measured.
        unit: of the values: ``s``, ``ms``, ``MiB``.
        over, under: turns of numerator and denominator, one per round. For memory, both clocks are
            MiB.
        wanted: the target ratio; a maximum, or a minimum if ``at_least``.
        clock: of the target.
        beside: what this version gets right.
        at_least: whether the target is a minimum.
    """

    name: str
    unit: str
    over: Sequence[harness.Turn]
    under: Sequence[harness.Turn]
    wanted: float
    clock: harness.Clock = "wall_s"
    beside: str = ""
    at_least: bool = False

    def ratio(self, clock: harness.Clock) -> harness.Ratio:
        """Median, minimum and maximum of the rounds."""
        return harness.ratio(self.over, self.under, clock)

    @property
    def reached(self) -> bool:
        """Whether the median meets the target."""
        value = self.ratio(self.clock).value
        return value >= self.wanted if self.at_least else value <= self.wanted

    def row(self) -> tuple[str, ...]:
        """The cells of the table."""
        scale, digits = {"ms": (1e3, 1), "s": (1.0, 2), "MiB": (1.0, 0)}[self.unit]
        medians = (
            harness.median(turns, clock) * scale
            for clock in harness.CLOCKS
            for turns in (self.under, self.over)
        )
        times = ["not told" if math.isnan(each) else f"{each:.{digits}f}" for each in medians]
        ratios = [str(self.ratio(clock)) for clock in harness.CLOCKS]
        if self.unit == "MiB":
            times[2:], ratios[1:] = ["", ""], [""]
        sign, by = "≥" if self.at_least else "≤", "" if self.clock == "wall_s" else " cpu"
        wanted = f"{sign} {self.wanted:g}{by}: {'yes' if self.reached else 'no'}"
        return (f"{self.name}, {self.unit}", *times[:2], ratios[0], *times[2:], ratios[1], wanted)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        ratios = {clock: self.ratio(clock).to_json() for clock in harness.CLOCKS}
        return {
            "unit": self.unit,
            "wanted": self.wanted,
            "at_least": self.at_least,
            "clock": self.clock,
            "reached": self.reached,
            "ratio": ratios,
            "beside": self.beside,
            "turns": harness.turns_json({"base": self.under, "now": self.over}),
        }


HEADS = (
    "figure", "base", "now", "now by base", "base, cpu", "now, cpu", "now by base, cpu", "wanted",
)  # fmt: skip


# The two checkouts


def layout_of(checkout: Path, folder: Path) -> Path:
    """A folder with a checkout's packages as they are installed.

    Raises:
        ConfigError: it is not a checkout.
    """
    missing = [package for package in PACKAGES if not (checkout / package).is_dir()]
    if missing:
        msg = f"base={checkout}: no checkout of this project, it has no folder {missing[0]!r}"
        raise ConfigError(msg)
    (folder / "spineline").mkdir(parents=True)
    for package in PACKAGES:
        (folder / "spineline" / package).symlink_to((checkout / package).resolve())
    return folder


def git(*words: object, folder: Path | None = None) -> str:
    """The output of git in a folder, or in this checkout; empty if it fails."""
    command = ["git", "-C", str(folder or HERE), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def checkouts(settings: AgainstSettings, folder: Path) -> Iterator[tuple[Checkout, Checkout]]:
    """The base and this checkout; the worktree of a commit is removed at the end.

    Raises:
        ConfigError: the base is neither a folder nor a commit.
    """
    root, made = Path(settings.base), False
    if not root.is_dir():
        commit = git("rev-parse", "--verify", "--quiet", f"{settings.base}^{{commit}}")
        if not commit:
            msg = f"base={settings.base}: neither a folder nor a commit of this repository; "
            raise ConfigError(msg + "give a commit that git log shows, or a checkout's folder")
        root, made = folder / "worktree", True
        git("worktree", "add", "--detach", root, commit)
    python = str(settings.python or sys.executable)
    try:
        yield (
            Checkout("base", layout_of(root, folder / "layout-base"), python, commit_of(root)),
            Checkout("now", layout_of(HERE, folder / "layout-now"), sys.executable, commit_of()),
        )
    finally:
        if made:
            git("worktree", "remove", "--force", root)


def commit_of(folder: Path | None = None) -> str:
    """A checkout's short commit, with a plus if files differ from it."""
    commit = git("rev-parse", "--short=12", "HEAD", folder=folder) or "unknown"
    return commit + ("+" if git("status", "--porcelain", folder=folder) else "")


# Predicting


def predicting(settings: AgainstSettings, folder: Path, both: Sequence[Checkout]) -> list[Figure]:
    """Cold start, time per study of a cohort, and memory."""
    base, now = both
    cohort, one = folder / "cohort", folder / "one"
    gather_cohort(settings, cohort)
    one.mkdir()
    first = min(cohort.iterdir())
    (one / first.name).symlink_to(first, target_is_directory=True)

    def predict(checkout: Checkout, source: Path, **more: object) -> list[str]:
        name = "-".join([checkout.name, source.name, *map(str, more.values())])
        keys = {"source": source, "out": folder / f"out-{name}", "overwrite": "true", **more}
        return ["pipeline", "predict", *(f"{name}={value}" for name, value in keys.items())]

    whole = {
        "base": (base, predict(base, cohort, **slices_of(base, 1))),
        "slices=1": (now, predict(now, cohort, slices=1)),
        "slices=auto": (now, predict(now, cohort, slices="auto")),
    }
    arms = {f"one {c.name}": c.command(*predict(c, one)) for c in both}
    if "cohort" in settings.only:
        arms |= {name: checkout.command(*words) for name, (checkout, words) in whole.items()}
    figures, beside = [], levels_right(settings, folder, both)
    if {"start", "cohort"} & set(settings.only):
        turns = harness.take_turns(arms, settings.repeats)
        figures += [Figure("start", "s", turns["one now"], turns["one base"], 0.35, beside=beside)]
    if "cohort" in settings.only:
        under = per_study(turns["base"], turns["one base"], settings.n)
        for name, wanted in (("slices=1", 0.55), ("slices=auto", 1.0)):
            over = per_study(turns[name], turns["one now"], settings.n)
            outs = [folder / f"out-base-cohort{'-1' if slices_of(base, 1) else ''}"]
            outs.append(folder / f"out-now-cohort-{name.partition('=')[2]}")
            words = "; ".join(filter(None, (beside, difference(*outs))))
            title = f"cohort `{name}`, a study"
            figures.append(Figure(title, "ms", over, under, wanted, "cpu_s", words))
    if "memory" in settings.only:
        peaks = {
            name: functools.partial(peak_mb, checkout, words)
            for name, (checkout, words) in whole.items()
            if name != "slices=auto"
        }
        found = harness.take_turns(peaks, settings.repeats, warm=0, measure=lambda peak: peak())
        both_peaks = found["slices=1"], found["base"]
        figures += [Figure("memory `slices=1`", "MiB", *both_peaks, 0.6, beside=beside)]
    return figures


def gather_cohort(settings: AgainstSettings, cohort: Path) -> None:
    """The studies to predict: links to those of a source, or phantoms that are drawn here.

    Raises:
        ConfigError: the source holds fewer study folders than are wanted.
    """
    if settings.source is None:
        harness.draw_cohort(cohort, settings.n, seed=settings.seed)
        return
    studies = sorted(each for each in settings.source.iterdir() if each.is_dir())
    if len(studies) < settings.n:
        msg = f"source={settings.source}: {len(studies)} study folders, n={settings.n} wanted; "
        raise ConfigError(msg + f"give n={len(studies)} or another source=")
    cohort.mkdir()
    for study in studies[: settings.n]:
        (cohort / study.name).symlink_to(study.resolve(), target_is_directory=True)


def slices_of(checkout: Checkout, slices: int) -> dict[str, int]:
    """The key ``slices``, if the checkout knows it."""
    code = "from spineline.pipeline import Pipeline; print(Pipeline.load.__doc__)"
    known = "slices" in checkout.says(code) or checkout.name == "now"
    return {"slices": slices} if known else {}


def per_study(
    whole: Sequence[harness.Turn], one: Sequence[harness.Turn], n: int
) -> list[harness.Turn]:
    """The cost of each further study of a cohort, round by round; NaN if it is undefined.

    >>> per_study([harness.Turn(9.0, 12.0)], [harness.Turn(4.0, 5.0)], 6)
    [Turn(wall_s=1.0, cpu_s=1.4)]
    """

    def each(whole_s: float, one_s: float) -> float:
        return (whole_s - one_s) / (n - 1) if whole_s > one_s else math.nan

    return [
        harness.Turn(each(a.wall_s, b.wall_s), each(a.cpu_s, b.cpu_s))
        for a, b in zip(whole, one, strict=True)
    ]


def peak_mb(checkout: Checkout, words: Sequence[str], every: float = 0.1) -> harness.Turn:
    """The largest PSS of a command's process tree, in MiB."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.layout)}
    peak = 0.0
    with subprocess.Popen(
        [checkout.python, *CLI, *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            peak = max(peak, cohort_memory.memory_of(process.pid)[2])
            time.sleep(every)
    if process.returncode:
        raise SpinelineError(f"{checkout.name}: {' '.join(words)}: status {process.returncode}")
    return harness.Turn(peak, peak)


def levels_right(settings: AgainstSettings, folder: Path, both: Sequence[Checkout]) -> str:
    """The share of levels that each checkout finds, in words; empty without ground truth."""
    studies, truth = folder / "cohort", settings.annotations
    if settings.source is None:
        studies, truth = (
            folder / "cohort-drawn" / name for name in ("studies", "annotations.json")
        )
    if truth is None:
        return ""
    shares = []
    for checkout in both:
        out = folder / f"val-{checkout.name}"
        keys = (f"source={studies}", f"annotations={truth}")
        checkout.command("pipeline", "val", *keys, f"out={out}", "draws=10")()
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        shares.append(metrics["level_accuracy_6mm"]["value"])
    return f"levels right within 6 mm: base {shares[0]:.3f}, now {shares[1]:.3f}"


def difference(base: Path, now: Path) -> str:
    """The difference between the results of two runs over the same studies, in words."""
    same, count, farthest = 0, 0, 0.0
    for path in sorted(base.glob("*/result.json")):
        levels = [points_of(root / path.parent.name) for root in (base, now)]
        count += len(levels[0])
        for level in levels[0].keys() & levels[1].keys():
            same += 1
            (x, y), (a, b) = levels[0][level], levels[1][level]
            farthest = max(farthest, ((x - a) ** 2 + (y - b) ** 2) ** 0.5)
    return f"{same} of {count} levels of the base, {farthest:.2g} px apart at most"


def points_of(folder: Path) -> dict[str, tuple[float, float]]:
    """The points of a study's result by level."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except OSError:
        return {}
    return {each["level"]: tuple(each["point_xy"]) for each in result["structures"]}


# Converting


def converting(settings: AgainstSettings, folder: Path, both: Sequence[Checkout]) -> list[Figure]:
    """Conversion of frames to three formats, by both versions and by supervision."""
    frames, annotations = convert_speed.draw_frames(folder, settings.frames, settings.seed)
    keys = (f"annotations={annotations}", f"images={frames}", "split=train")
    outs = {checkout.name: folder / f"converted-{checkout.name}" for checkout in both}
    arms = {
        checkout.name: harness.afresh(
            outs[checkout.name],
            checkout.command("convert", "report", *keys, f"out={outs[checkout.name]}"),
        )
        for checkout in both
    }
    if settings.supervision:
        records, out = folder / "records", folder / "supervised"
        both[1].command("convert", "report", *keys, f"out={records}")()
        supervise = both[1].run("-P", "-c", SUPERVISE, records, out)
        arms["supervision"] = harness.afresh(out, supervise)
    turns = harness.take_turns(arms, settings.repeats)
    words = files_apart(outs["base"], outs["now"])
    title = f"convert, {settings.frames} frames"
    figures = [Figure(title, "s", turns["now"], turns["base"], 0.6, beside=words)]
    if settings.supervision:
        title = "supervision (now) by `convert` (base)"
        figures.append(Figure(title, "s", turns["supervision"], turns["now"], 2.5, at_least=True))
    return figures


def files_apart(base: Path, now: Path) -> str:
    """The number of identical files in two folders and the names of different ones, in words."""
    names = sorted(p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file())
    differ = [
        name
        for name in names
        if not (now / name).is_file() or (now / name).read_bytes() != (base / name).read_bytes()
    ]
    shown = f"; not {', '.join(differ[:5])}" if differ else ""
    return f"{len(names) - len(differ)} of {len(names)} files the same to the byte{shown}"


# Training


def training(settings: AgainstSettings, folder: Path, both: Sequence[Checkout]) -> list[Figure]:
    """Whole trainings from scratch with both versions, and fine-tuning."""
    speed = training_speed.SpeedSettings(data=settings.data, n=settings.studies, seed=settings.seed)
    data = training_speed.prepare_data(speed, folder)
    base, now = both
    runs = {"base": (base, "best")}
    runs |= {"now": (now, "best")} if "train" in settings.only else {}
    runs |= {"finetune": (now, "finetune")} if "finetune" in settings.only else {}
    arms: dict[str, Callable[[], Any]] = {}
    for name, (checkout, recipe) in runs.items():
        out = folder / f"trained-{name}"
        words = f"data={data}", f"out={out}", f"recipe={recipe}"
        arms[name] = harness.afresh(out, checkout.command("pipeline", "train", *words))
    turns = harness.take_turns(arms, settings.trainings, warm=0)
    titles = {"now": ("train `recipe=best`", 0.33), "finetune": ("train `recipe=finetune`", 0.1)}
    rounds = f"whole trainings, {settings.trainings} rounds"
    return [
        Figure(title, "s", turns[name], turns["base"], wanted, beside=rounds)
        for name, (title, wanted) in titles.items()
        if name in turns
    ]


# Output


def work(settings: AgainstSettings, folder: Path) -> harness.BenchResult:
    groups = {
        predicting: {"start", "cohort", "memory"},
        converting: {"convert"},
        training: {"train", "finetune"},
    }
    figures: list[Figure] = []
    with checkouts(settings, folder) as both:
        for number, (measure, names) in enumerate(groups.items()):
            if names & set(settings.only):
                LOG.info("%s", ", ".join(sorted(names & set(settings.only))))
                place = folder / f"group{number}"
                place.mkdir()
                figures += measure(settings, place, both)
                shutil.rmtree(place)
        commits = {checkout.name: checkout.commit for checkout in both}
    beside = [f"- {figure.name}: {figure.beside}." for figure in figures if figure.beside]
    origin = f"studies of {settings.source.name}" if settings.source else "phantom studies"
    kept = f"{settings.n} {origin}, {settings.frames} frames"
    trained = settings.data.name if settings.data else f"{settings.studies} phantoms"
    return harness.BenchResult(
        title=f"Against {settings.base if commits['base'] == 'unknown' else commits['base']}",
        about=ABOUT,
        data=f"{kept}; trained on {trained}; now is {commits['now']}, base {commits['base']}",
        packages=("torch", "onnxruntime", "ultralytics", "supervision", "opencv-python"),
        tables=(markdown_table(HEADS, [f.row() for f in figures]), "\n".join(beside)),
        report={"commits": commits, "figures": {f.name: f.to_json() for f in figures}},
    )


def main(words: list[str]) -> None:
    words = [f"base={words[0]}", *words[1:]] if words and is_plain(words[0]) else words
    harness.run_bench(words, AgainstSettings, work, "against")


def is_plain(word: str) -> bool:
    """Whether an argument is not a key."""
    return "=" not in word and word != "help"


if __name__ == "__main__":
    run_script(main)
