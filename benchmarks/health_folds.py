"""Healthy and sick discs by both detector families, over three folds by patient.

    python benchmarks/health_folds.py annotations=LABELS.json images=FRAMES out=OUT page=PAGE.md

`python benchmarks/health_folds.py help` lists the keys. The steps, each with its command:

1. `convert report labels=health kinds=disc kfold=3`: v1 is healthy, any other tag sick;
2. `kfold detect model=fasterrcnn hyp=cervical` and `model=yolov8n hyp=lumbar`: trained on each fold
  from scratch. The weights of the last epoch are used, so that nothing is chosen on the scored
  data. Every patient is scored by a network that was trained without that patient;
3. a section of the page.

The sizes are small by default, for a CPU: some hours on two cores. `full=true` uses the recipes
unchanged (ResNet-50, three channels, 384 pixels, batch 8, 200 epochs; YOLOv8n for 100), which needs
a GPU (`device=0`). The same command continues a stopped run. `folds=FOLDER` uses folds that are
already converted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from harness import FoldsSettings, figure_text, parse_words, recorded_command
from pages import folded, write_section

from spineline.converters.convert import convert_report
from spineline.converters.settings import ConvertReport
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import aligned_text, markdown_table
from spineline.pipeline.evaluation.tables import command_line, machine
from spineline.pipeline.kfold.kfold import kfold_detect
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
FULL: dict[str, dict[str, Any]] = {
    "fasterrcnn": {"epochs": 200},
    "yolo": {"epochs": 100, "close_mosaic": 40},
}
BASE: dict[str, dict[str, Any]] = {
    "fasterrcnn": {"model": "fasterrcnn", "hyp": "cervical"},
    "yolo": {"model": "yolov8n", "hyp": "lumbar", "progressive": 0.0, "amp": False, "lr0": 0.001},
}
RULES = {
    "seed": "older project's",
    "one_to_one": "one-to-one",
    "one_to_one.class_agnostic": "one-to-one, any class",
}
FIGURES = ("precision", "recall", "f1", "average_precision")
HEADS = ("model", "scored", "rule", "precision", "recall", "F1", "AP")
OLDER = ("0.773", "0.817", "0.795", "0.42")
PUBLISHED = ("older project", "109 cervical images", RULES["seed"], *OLDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings(FoldsSettings):
    folds: Path | None = key("folds that are converted already", default=None)
    models: tuple[str, ...] = key("what to train and score", default=MODELS, choices=MODELS)
    full: bool = key("the recipes as they are, for a GPU", default=False)
    section: str = key("name of that section of page", default="health-discs")


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a model.

    Attributes:
        model: one of [MODELS][].
        studies: in each fold.
        figures: each metric's folds and pooled value, by dotted key.
        command: that made them.
    """

    model: str
    studies: Sequence[int]
    figures: Mapping[str, Any]
    command: str


# Work


def make_folds(settings: HealthSettings) -> Path:
    """The folder of the folds, converted if it does not exist."""
    if settings.folds is not None:
        return settings.folds
    data = settings.out / "data"
    if not data.exists():
        if settings.annotations is None or settings.images is None:
            raise ConfigError("wanted annotations=… and images=…, or folds=…")
        convert_report(
            ConvertReport(
                **{name: getattr(settings, name) for name in ("annotations", "images", "seed")},
                out=data,
                labels="health",
                kinds=("disc",),
                kfold=settings.k,
            )
        )
    return data


def kfold_keys(settings: HealthSettings, model: str, data: Path) -> KfoldDetect:
    """The keys of one model's cross-validation."""
    sizes = FULL[model] if settings.full else SMALL[model]
    given = {"epochs": settings.epochs, "imgsz": settings.imgsz}
    if settings.imgsz is not None and model == "fasterrcnn":
        given["crop"] = max(settings.imgsz * 330 // 384, 32)
    own = BASE[model] | sizes | {k: v for k, v in given.items() if v is not None}
    return KfoldDetect(
        **own,
        data=data,
        out=settings.out / model,
        **{name: getattr(settings, name) for name in ("device", "seed", "draws")},
        variants=("original",),
        plots=False,
    )


def score(settings: HealthSettings, model: str, data: Path) -> Scored:
    """Train and score a model on every fold, unless that is done."""
    keys = kfold_keys(settings, model, data)
    table = keys.out / "kfold.json"
    if not table.is_file() or json.loads(table.read_text(encoding="utf-8"))["failures"]:
        result = kfold_detect(replace(keys, resume=(keys.out / "run.yaml").is_file()))
        if result.failures:
            raise SpinelineError("; ".join(str(failure) for failure in result.failures))
    content = json.loads(table.read_text(encoding="utf-8"))
    figures = content["variants"]["original"]
    return Scored(model, content["studies"], figures, command_line("kfold detect", keys))


# Output


def rows_of(scored: Scored) -> list[tuple[str, ...]]:
    """The rows of one model: folds and pooled value by each rule, the latter with intervals."""
    title = TITLES[scored.model]
    rows: list[tuple[str, ...]] = []
    for rule, words in RULES.items():
        found = [scored.figures[f"{rule}.{name}"] for name in FIGURES]
        folds = () if "." in rule else range(len(scored.studies))
        for n in folds:  # the third rule has only a pooled value
            cells = [figure_text(figure["folds"][n]) for figure in found]
            rows.append((title, f"fold{n}", words, *cells))
        cells = [figure_text(f["pooled"]["value"], f["pooled"]["ci95"]) for f in found]
        rows.append((title, "all as one", words, *cells))
    return rows


ABOUT = """\
The data are the discs of real T2 frames of the Tianchi spinal-disease set. Discs with v1 are
healthy, and any other tag is sick. Folds are by patient. Networks are trained from scratch, and the
weights of the last epoch are used, so nothing is chosen on what is scored. Each patient is scored
by a network that was trained without that patient.

The older project's values are for other data: cervical discs with labels of their own. Its rule
also uses unusual names. Its "precision" is roughly the share of labels that were found. Its
"recall" is roughly the share of boxes on a label that have the label's class (see
`detect/evaluation/seed_metrics.py`). *One-to-one* is COCO's matching at IoU 0.5, with precision and
recall at confidence 0.5. *Of any class* means that a disc counts as found whatever its predicted
class.
"""


def section_text(settings: HealthSettings, data: Path, models: Sequence[Scored]) -> str:
    """The section of the page."""
    rows = [PUBLISHED, *(row for scored in models for row in rows_of(scored))]
    studies = models[0].studies
    record = data / "run.yaml"
    converted = recorded_command(record, ConvertReport, {"out": str(data)})
    sizes = "The recipes in full." if settings.full else small_note(settings, data, models)
    made = [
        f"- Data: {sum(studies)} patients, {models[0].figures['one_to_one.recall']['pooled']['n']} "
        f"discs, {len(studies)} folds",
        f"- Seed: {settings.seed} of folds, trainings and bootstrap",
        f"- Machine: {machine()}",
        "",
        "Commands, in this order:",
        "",
        *(f"- `{command}`" for command in (converted, *(m.command for m in models))),
    ]
    lines = [
        "## Discs, healthy or sick",
        "",
        ABOUT,
        markdown_table(HEADS, rows),
        "",
        f"Brackets give the 95 % interval, from a bootstrap over patients. {sizes}",
        "",
        *folded("Commands and data", made),
    ]
    return "\n".join(lines) + "\n"


def small_note(settings: HealthSettings, data: Path, models: Sequence[Scored]) -> str:
    """A note on the small sizes, and how to run the full ones."""
    epochs = " and ".join(
        f"{kfold_keys(settings, scored.model, data).epochs} epochs of {TITLES[scored.model]}"
        for scored in models
    )
    source = yaml.safe_load((data / "run.yaml").read_text(encoding="utf-8"))["settings"]
    names = " ".join(f"{key}={Path(source[key]).name}" for key in ("annotations", "images"))
    return (
        f"These are small runs for a CPU ({epochs}; a small backbone), not the best that either "
        f"network can do. The full run is `python benchmarks/health_folds.py full=true device=0 "
        f"{names} out=OUT`."
    )


def main(words: list[str]) -> None:
    settings = parse_words(words, HealthSettings)
    if settings is None:
        return
    log = logging.getLogger("spineline")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    data = make_folds(settings)
    models = [score(settings, model, data) for model in settings.models]
    rows = [PUBLISHED, *(row for scored in models for row in rows_of(scored))]
    print(aligned_text([HEADS, *rows]))
    if settings.page is not None:
        write_section(
            settings.page, settings.section, section_text(settings, data, models), title="Results"
        )


if __name__ == "__main__":
    run_script(main)
