"""Healthy and sick discs by both detector families, three folds by patient, from source to table.

    python benchmarks/health_folds.py annotations=LABELS.json images=FRAMES out=OUT page=PAGE.md

`python benchmarks/health_folds.py help` lists the keys. What it does, each by its command:

1. `convert report labels=health kinds=disc kfold=3`: v1 is healthy, any other tag sick;
2. `detect train model=fasterrcnn hyp=cervical` and `model=yolov8n hyp=lumbar` on each fold, from
   scratch; the weights of the last epoch are taken, so that nothing is chosen on what is scored;
3. `detect val` of each fold, and all of them pooled as `kfold detect` does: every patient by the
   network that was trained without that patient;
4. a section of the page.

The sizes are small by default, for a CPU: some hours on two cores. `full=true` takes the recipes as
they are (ResNet-50, three channels, 384 pixels, batch 8, 200 epochs; YOLOv8n for 100), which wants
a GPU (`device=0`). A run that was stopped goes on when the same line is given again. Folds and runs
that were made by hand are taken with `folds=FOLDER`, `fasterrcnn=RUN0,RUN1,RUN2` and `yolo=…`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from spineline.converters.convert import convert_report
from spineline.converters.settings import ConvertReport
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.pages import write_section
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, describe, key, parse_settings
from spineline.datasets.common.tables import aligned_text, markdown_table
from spineline.detect.settings import DetectTrain, DetectVal
from spineline.detect.train import train
from spineline.detect.val import val
from spineline.pipeline.evaluation.tables import command_line, machine
from spineline.pipeline.kfold.folds import Folds, make_folds
from spineline.pipeline.kfold.out_of_fold import pool_detections
from spineline.pipeline.kfold.settings import KfoldDetect

MODELS = ("fasterrcnn", "yolo")
TITLES = {"fasterrcnn": "Faster R-CNN", "yolo": "YOLOv8n"}
SMALL: dict[str, dict[str, Any]] = {
    "fasterrcnn": {
        "backbone": "mobilenet_v3_large",
        "channels": 1,
        "rois": 64,
        "proposals": 300,
        "batch": 4,
        "epochs": 24,
    },
    "yolo": {"epochs": 60, "close_mosaic": 24},
}
FULL: dict[str, dict[str, Any]] = {"fasterrcnn": {"epochs": 200}, "yolo": {"epochs": 100}}
BASE: dict[str, dict[str, Any]] = {
    "fasterrcnn": {"model": "fasterrcnn", "hyp": "cervical"},
    "yolo": {"model": "yolov8n", "hyp": "lumbar"},
}
RULES = {
    "seed": "older project's",
    "one_to_one": "one-to-one",
    "one_to_one.class_agnostic": "one-to-one, any class",
}
FIGURES = ("precision", "recall", "f1", "average_precision")
HEADS = ("model", "scored", "rule", "precision", "recall", "F1", "AP")
PUBLISHED = (
    "older project",
    "109 cervical images",
    RULES["seed"],
    "0.773",
    "0.817",
    "0.795",
    "0.42",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings(Settings):
    out: Path = key("folder for everything that is made")
    annotations: Path | None = key("the report's labels", default=None)
    images: Path | None = key("the report's frames", default=None)
    folds: Path | None = key("folds that are converted already", default=None)
    fasterrcnn: tuple[Path, ...] = key("finished run folders, one per fold", default=())
    yolo: tuple[Path, ...] = key("finished run folders, one per fold", default=())
    models: tuple[str, ...] = key("what to train and score", default=MODELS, choices=MODELS)
    full: bool = key("the recipes as they are, for a GPU", default=False)
    epochs: int | None = key("of every training, instead", default=None, minimum=1)
    imgsz: int | None = key("of every training, instead", default=None, minimum=32)
    k: int = key("folds", default=3, minimum=2)
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    draws: int = key("bootstrap draws", default=1000, minimum=1)
    seed: int = key("of folds, trainings and bootstrap", default=0, minimum=0)
    page: Path | None = key("Markdown page to write a section of", default=None)
    section: str = key("name of that section", default="health-discs")


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model has to show.

    Attributes:
        model: one of [MODELS][].
        runs: run folder of each fold.
        folds: content of ``metrics.json`` of each fold.
        pooled: ``{value, ci95, n}`` of all folds as one, by dotted key.
        commands: that scored the folds.
    """

    model: str
    runs: tuple[Path, ...]
    folds: tuple[Mapping[str, Any], ...]
    pooled: Mapping[str, Any]
    commands: tuple[str, ...]


# Making


def converted(settings: HealthSettings) -> Path:
    """The folder of the folds, converted where it is not there."""
    if settings.folds is not None:
        return settings.folds
    data = settings.out / "data"
    if not data.exists():
        if settings.annotations is None or settings.images is None:
            raise ConfigError("wanted annotations=… and images=…, or folds=…")
        convert_report(
            ConvertReport(
                annotations=settings.annotations,
                images=settings.images,
                out=data,
                labels="health",
                kinds=("disc",),
                kfold=settings.k,
                seed=settings.seed,
            )
        )
    return data


def train_keys(settings: HealthSettings, model: str, fold: Path, out: Path) -> DetectTrain:
    """The keys of one training."""
    sizes = FULL[model] if settings.full else SMALL[model]
    given = {"epochs": settings.epochs, "imgsz": settings.imgsz}
    if settings.imgsz is not None and model == "fasterrcnn":
        given["crop"] = max(settings.imgsz * 330 // 384, 32)
    own = BASE[model] | sizes | {k: v for k, v in given.items() if v is not None}
    return DetectTrain(
        **own,
        data=fold,
        out=out,
        device=settings.device,
        seed=settings.seed,
        val=False,
        plots=False,
    )


def trained_runs(settings: HealthSettings, model: str, folds: Sequence[Path]) -> tuple[Path, ...]:
    """Finished runs of a model, trained or gone on with where they are not."""
    given: tuple[Path, ...] = getattr(settings, model)
    if given:
        if len(given) != len(folds):
            raise ConfigError(
                f"{model}=: names {len(given)} runs, and there are {len(folds)} folds"
            )
        return given
    runs = []
    for number, fold in enumerate(folds):
        keys = train_keys(settings, model, fold, settings.out / f"{model}-{number}")
        if not keys.out.exists():
            train(keys)
        elif not is_finished(keys.out):
            train(DetectTrain(out=keys.out, resume=True, device=settings.device))
        runs.append(keys.out)
    return tuple(runs)


def is_finished(run: Path) -> bool:
    """Whether a run folder has a line for every epoch, and weights."""
    return trained_epochs(run) == wanted_epochs(run) and weights_of(run).is_file()


def wanted_epochs(run: Path) -> int:
    """How many epochs a run was to have."""
    return int(read_run(run)["trained_with"]["epochs"])


def trained_epochs(run: Path) -> int:
    """How many epochs a run has, by the lines of its results."""
    results = run / "results.csv"
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    return max(len(lines) - 1, 0)


def read_run(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    return content


def weights_of(run: Path) -> Path:
    """The weights of the last epoch."""
    return run / "weights" / "last.safetensors"


def score(settings: HealthSettings, model: str, folds: Folds, runs: Sequence[Path]) -> Scored:
    """Each fold by the network that did not see it, and all of them as one."""
    out = settings.out / f"val-{model}"
    found, commands = [], []
    for folder, run in zip(folds.folders, runs, strict=True):
        keys = DetectVal(
            model=str(weights_of(run)),
            data=folder,
            out=out / folder.name,
            device=settings.device,
            draws=settings.draws,
            seed=settings.seed,
            overwrite=True,
        )
        found.append(val(keys).metrics)
        rest = command_line("detect val", replace(keys, model=None))
        model_word = f"model={run.name}/weights/{weights_of(run).name}"
        commands.append(rest.replace("detect val", f"detect val {model_word}"))
    scores = [out / folder.name for folder in folds.folders]
    pooled = pool_detections(scores, folds, out, draws=settings.draws, seed=settings.seed)
    return Scored(model, tuple(runs), tuple(found), pooled, tuple(commands))


# Telling


def rows_of(scored: Scored) -> list[tuple[str, ...]]:
    """The rows of one model: its folds and all as one by each rule, intervals for all as one."""
    title = TITLES[scored.model]
    rows: list[tuple[str, ...]] = []
    for rule, words in RULES.items():
        if "." not in rule:  # the third rule is told of all folds as one alone
            for n, metrics in enumerate(scored.folds):
                cells = [number_text(metrics[rule][name]) for name in FIGURES]
                rows.append((title, f"fold{n}", words, *cells))
        pooled = [scored.pooled[f"{rule}.{name}"] for name in FIGURES]
        cells = [number_text(metric, interval=True) for metric in pooled]
        rows.append((title, "all as one", words, *cells))
    return rows


def number_text(figure: Mapping[str, Any], *, interval: bool = False) -> str:
    """``0.812``, or ``0.812 (0.790 – 0.830)``; ``not defined`` where it is not."""
    if figure["value"] is None:
        return "not defined"
    low, high = figure["ci95"]
    value = f"{figure['value']:.3f}"
    return f"{value} ({low:.3f} – {high:.3f})" if interval and low is not None else value


def training_commands(runs: Sequence[Path]) -> list[str]:
    """What each run folder says that it was trained by, and whether it was stopped before its end.

    Keys at their defaults are left out.
    """
    commands = []
    for run in runs:
        record = read_run(run)
        keys = parse_settings(DetectTrain, record["settings"], where=str(run / "run.yaml"))
        command = command_line(str(record["command"]).removeprefix("spineline "), keys)
        done, wanted = trained_epochs(run), wanted_epochs(run)
        stopped = "" if done == wanted else f", stopped after {done} of {wanted} epochs"
        commands.append(f"`{command}`{stopped}")
    return commands


ABOUT = """\
Real T2 frames of the Tianchi spinal-disease set, discs alone: v1 is healthy, any other tag sick.
Folds are by patient; networks are trained from scratch, and the weights of the last epoch are
taken, so nothing is chosen on what is scored. The network that scores a patient was trained without
that patient.

The older project's figures are of other data, cervical discs with labels of their own, and its rule
names things its own way: its "precision" is about the share of labels that were found; its
"recall", of the boxes that lie on a label, about the share that has the label's class (see
`detect/evaluation/seed_metrics.py`). One-to-one is COCO's matching at IoU 0.5, precision and recall
at confidence 0.5; of any class: a disc counts as found whatever it is called.
"""


def section_text(settings: HealthSettings, data: Path, models: Sequence[Scored]) -> str:
    """The section of the page."""
    folds, pooled = models[0].folds, models[0].pooled
    rows = [PUBLISHED, *(row for scored in models for row in rows_of(scored))]
    sizes = "The recipes in full." if settings.full else small_note(data, models)
    images, patients = (sum(metrics[word] for metrics in folds) for word in ("images", "studies"))
    labels = pooled["one_to_one.recall"]["n"]
    lines = [
        "## Discs, healthy or sick",
        "",
        ABOUT,
        markdown_table(HEADS, rows),
        "",
        f"In brackets: 95 % interval, bootstrap over patients. {sizes}",
        "",
        f"- Data: {images} images of {patients} patients, {labels} discs, {len(folds)} folds",
        f"- Seed: {settings.seed} of folds and bootstrap; of a training {settings.seed} too, where "
        "its line does not say another",
        f"- Machine: {machine()}",
        "",
        "Made by, in this order:",
        "",
        *(f"- {command}" for command in commands_of(data, models)),
    ]
    return "\n".join(lines) + "\n"


def small_note(data: Path, models: Sequence[Scored]) -> str:
    source = read_run(data)["settings"]
    names = " ".join(f"{name}={Path(source[name]).name}" for name in ("annotations", "images"))
    epochs = " and ".join(
        f"{trained_epochs(scored.runs[0])} epochs of {TITLES[scored.model]}" for scored in models
    )
    return (
        f"Small runs for a CPU ({epochs}; a small backbone): not the best that either network can "
        f"do. In full: `python benchmarks/health_folds.py full=true device=0 {names} out=OUT`."
    )


def commands_of(data: Path, models: Sequence[Scored]) -> list[str]:
    """Conversion, trainings and scoring."""
    record = read_run(data)
    keys = parse_settings(ConvertReport, record["settings"], where=str(data / "run.yaml"))
    name = str(record["command"]).removeprefix("spineline ")
    commands = [f"`{command_line(name, replace(keys, out=data))}`"]
    for scored in models:
        commands += [*training_commands(scored.runs)]
        commands += [f"`{command}`" for command in scored.commands]
    return commands


def main(words: list[str]) -> None:
    if words == ["help"]:
        print(aligned_text([(k.name, k.type, k.default, k.help) for k in describe(HealthSettings)]))
        return
    values = dict(word.partition("=")[::2] for word in words)
    settings = parse_settings(HealthSettings, values, where="command line")
    log = logging.getLogger("spineline")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    data = converted(settings)
    folds = make_folds(KfoldDetect(data=data, out=settings.out / "folds"))
    models = [
        score(settings, model, folds, trained_runs(settings, model, folds.folders))
        for model in settings.models
    ]
    rows = [PUBLISHED, *(row for scored in models for row in rows_of(scored))]
    print(aligned_text([HEADS, *rows]))
    if settings.page is not None:
        write_section(
            settings.page, settings.section, section_text(settings, data, models), title="Results"
        )


if __name__ == "__main__":
    run_script(main)
