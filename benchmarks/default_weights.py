"""Make the default bundle: its data, its folds, and every training.

    python benchmarks/default_weights.py labels=LABELS.json frames=FRAMES external=SPIDER out=OUT

LABELS.json and FRAMES are the report's; SPIDER holds ``points.json`` (a list of
``{image, patient, points: {level: [x, y]}}``) and ``images``: slices of the SPIDER set (CC BY 4.0).
The patients in `TEST_PATIENTS` are used neither for training nor for choices.

Published metrics come from networks of three folds of the report's studies by patient, each with
SPIDER's training part. The bundled networks are trained on all studies with the same part. The
combined classifiers and their class adjustment are chosen for each fold on folds of its training
studies only (`benchmarks/grade_choice.py`); the most frequent choice is bundled. The bundled
detector started from its predecessor (``start=``), whose hash is on its card. A step with existing
output is skipped, so a stopped run can be continued. `spineline weights add` and
`spineline weights graphs` then register the results.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import CLI, parse_words

from spineline.datasets.common.files import link_or_copy, read_json, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, key
from spineline.pipeline.evaluation.fold_weights import FOLD_WEIGHTS_SCHEMA

TEST_PATIENTS = (
    "p022", "p041", "p057", "p078", "p107", "p136", "p152", "p166", "p209", "p239",
)  # fmt: skip
"""Test patients of SPIDER: 47 of its 135 slices. No weights, threshold or temperature saw them."""

WHOLE = ("progressive=0", "amp=false", "lr0=0.001")
BASE = ("epochs=18", "close_mosaic=0", "lrf=0.6", *WHOLE)
FOLD = ("epochs=45", "close_mosaic=20", *WHOLE)
FINAL = ("epochs=26", "close_mosaic=12", *WHOLE)
"""Keys of the detectors' trainings besides ``hyp=lumbar``: whole images in float32 throughout."""

RECIPES = ("lumbar", "lumbar_linear", "lumbar_efficientnet")
"""Candidates for the combined classifiers; the last needs the extra ``pretrained``."""

DISCS = ("lumbar_efficientnet",)
"""Recipes that may grade discs only: the most expensive, and least needed for vertebrae."""

SPECIFICITY = 0.96
"""Specificity on out-of-fold predictions that sets the threshold of Schmorl's nodes.

It was chosen after 0.95 had given 0.949 on the outer folds.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSettings(Settings):
    labels: Path = key("the report's JSON")
    frames: Path = key("the report's frames")
    external: Path = key("folder of points.json and images of the SPIDER set")
    out: Path = key("folder for everything that is made")
    start: Path | None = key(
        "detector that the last training starts from; none: the one of SPIDER alone, as the folds",
        default=None,
    )
    seed: int = key("of folds and trainings", default=0, minimum=0)


def main(words: list[str]) -> None:
    """Make data and folds, then train one network after the other."""
    settings = parse_words(words, WeightsSettings)
    if settings is None:
        return
    out = settings.out
    out.mkdir(parents=True, exist_ok=True)
    write_sources(settings)
    for fold in ("base", "0", "1", "2", "all"):
        once(out / f"data-{fold}", "convert", "report", f"annotations={out / 'labels.json'}",
             f"images={out / 'frames'}", f"split={out / f'split-{fold}.json'}")  # fmt: skip
    detector("base", settings, *BASE)
    base = out / "detector-base" / "weights" / "last.safetensors"
    for fold in ("0", "1", "2"):
        detector(fold, settings, *FOLD, f"weights={base}")
        level_reader(fold, settings)
    combined_classifiers(settings)
    write_json(out / "fold_weights.json", fold_weights(out))
    keys = FOLD if settings.start is None else FINAL
    detector("all", settings, *keys, f"weights={settings.start or base}")
    level_reader("all", settings)


def write_sources(settings: WeightsSettings) -> None:
    """Write the labels of both sets in the report's format, and a manifest of each split."""
    out, rows = settings.out, json.loads((settings.external / "points.json").read_text("utf-8"))
    report = json.loads(settings.labels.read_text("utf-8"))
    spider = [spider_entry(row) for row in rows]
    write_json(out / "labels.json", [*report, *spider])
    frames = out / "frames"
    frames.mkdir(exist_ok=True)
    images = [settings.external / "images" / str(row["image"]) for row in rows]
    for file in (*sorted(settings.frames.iterdir()), *images):
        if not (frames / file.name).exists():
            link_or_copy(file, frames / file.name)
    once(out / "folds", "convert", "report", f"annotations={settings.labels}",
         f"images={settings.frames}", "kfold=3", f"seed={settings.seed}", "to=coco")  # fmt: skip
    test = sorted(e["id"] for e in spider if e["id"][:4] in TEST_PATIENTS)
    train = sorted(e["id"] for e in spider if e["id"][:4] not in TEST_PATIENTS)
    folds = [read_json(out / "folds" / f"fold{n}" / "split.json") for n in range(3)]
    every = sorted({*folds[0]["train"], *folds[0]["val"]})
    parts: dict[str, tuple[list[str], list[str]]] = {
        "base": (train, []),
        "all": (every + train, []),
    }
    parts |= {str(n): (fold["train"] + train, fold["val"]) for n, fold in enumerate(folds)}
    for name, (training, val) in parts.items():
        rest = sorted({*every, *test} - {*training, *val})
        write_json(out / f"split-{name}.json", {"train": training, "val": val, "test": rest})


def spider_entry(row: dict[str, Any]) -> dict[str, Any]:
    """A slice of SPIDER as an entry of the report's JSON, without grades."""
    points = [{"class": "null", "coord": point} for point in row["points"].values()]
    return {"id": Path(str(row["image"])).stem, "point": points}


def detector(fold: str, settings: WeightsSettings, *words: str) -> None:
    """Train the detector of a fold, and strip it."""
    out, run = settings.out, settings.out / f"detector-{fold}"
    once(run, "detect", "train", "model=yolov8n", f"data={out / f'data-{fold}'}", "hyp=lumbar",
         "val=false", "plots=false", f"seed={settings.seed}", *words,
         made=run / "weights" / "last.safetensors")  # fmt: skip
    strip(run / "weights" / "last.safetensors", out / f"detector-{fold}.safetensors")


def level_reader(fold: str, settings: WeightsSettings) -> None:
    """Train the level reader of a fold."""
    out, reader = settings.out, settings.out / f"reader-{fold}"
    once(reader, "naming", "train", f"data={out / f'data-{fold}'}", f"seed={settings.seed}")
    shutil.copyfile(reader / "namer.safetensors", out / f"reader-{fold}.safetensors")


def combined_classifiers(settings: WeightsSettings) -> None:
    """Choose, train and calibrate the classifiers of each fold and of the bundle."""
    out, choices = settings.out, []
    trained = cross_validated("all", out / "folds", settings)
    for n in range(3):
        split, data = out / f"split-inner-{n}.json", out / f"data-inner-{n}"
        training = read_json(out / "folds" / f"fold{n}" / "split.json")
        write_json(split, {"train": training["train"], "val": [], "test": training["val"]})
        once(data, "convert", "report", f"annotations={settings.labels}",
             f"images={settings.frames}", f"split={split}", "to=coco")  # fmt: skip
        inner = cross_validated(str(n), data, settings)
        chosen = chosen_of(inner, out / f"choice-{n}")
        choices.append(chosen)
        members = {r: trained[r] / f"fold{n}" / "weights" / "last.safetensors" for r in inner}
        calibrated(members, inner, chosen, out / f"classifier-{n}.safetensors")
    members = {}
    for recipe in RECIPES:
        run = out / f"classifier-all-{recipe}"
        once(run, "classify", "train", f"data={out / 'data-all'}", f"hyp={recipe}", "threads=1",
             f"seed={settings.seed}", made=run / "weights" / "last.safetensors")  # fmt: skip
        members[recipe] = run / "weights" / "last.safetensors"
    chosen = commonest(choices)
    calibrated(members, trained, chosen, out / "classifier-all.safetensors")


def commonest(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The members and kinds that most folds chose, and the median tau."""
    pairs = ((tuple(each["members"]), tuple(each["kinds"])) for each in choices)
    members, kinds = Counter(pairs).most_common(1)[0][0]
    tau = statistics.median(float(each["tau"]) for each in choices)
    return {"members": members, "kinds": kinds, "tau": tau}


def cross_validated(name: str, data: Path, settings: WeightsSettings) -> dict[str, Path]:
    """Cross-validate each recipe: the folder of its folds and out-of-fold predictions."""
    found = {}
    for recipe in RECIPES:
        run = settings.out / f"kfold-{name}-{recipe}"
        words = ("variants=original", f"seed={settings.seed}", "threads=1", "plots=false")
        once(
            run, "kfold", "classify", f"data={data}", f"hyp={recipe}", *words, made=run / "kfold.md"
        )
        found[recipe] = run / "original"
    return found


def chosen_of(predictions: dict[str, Path], out: Path) -> dict[str, Any]:
    """The choice of `benchmarks/grade_choice.py` for some predictions."""
    words = [f"{recipe}={folder}" for recipe, folder in predictions.items()]
    script = Path(__file__).with_name("grade_choice.py")
    line = [sys.executable, str(script), f"predictions={','.join(words)}",
            f"discs={','.join(DISCS)}", f"out={out}"]  # fmt: skip
    subprocess.run(line, check=True)
    chosen: dict[str, Any] = read_json(out / "choice.json")["chosen"]
    return chosen


def calibrated(
    members: dict[str, Path], predictions: dict[str, Path], chosen: dict[str, Any], out: Path
) -> None:
    """Combine the chosen members in one file, calibrated on out-of-fold predictions."""
    names = chosen["members"]
    once(out, "classify", "calibrate", f"model={','.join(str(members[n]) for n in names)}",
         f"predictions={','.join(str(predictions[n]) for n in names)}", "shares=equal",
         f"kinds={','.join(chosen['kinds'])}", f"tau={chosen['tau']}",
         f"specificity={SPECIFICITY}", "half=true")  # fmt: skip


def fold_weights(out: Path) -> dict[str, Any]:
    """The networks by fold with the studies they did not see, for ``pipeline val folds=``."""
    folds = [
        {
            "studies": read_json(out / f"split-{n}.json")["val"],
            "detector": f"detector-{n}.safetensors",
            "classifier": f"classifier-{n}.safetensors",
            "namer": f"reader-{n}.safetensors",
        }
        for n in range(3)
    ]
    return {"schema": FOLD_WEIGHTS_SCHEMA, "folds": folds}


def strip(weights: Path, out: Path) -> None:
    """Store trained weights in 16 bits, as in the bundle."""
    once(out, "weights", "strip", f"weights={weights}")


def once(out: Path, *words: str, made: Path | None = None) -> None:
    """Run a command that writes ``out``, unless its final output exists."""
    if (made or out).exists():
        return
    words = (*words, "overwrite=true") if out.exists() else words
    LOG.info("spineline %s out=%s", " ".join(words), out)
    subprocess.run([sys.executable, *CLI, *words, f"out={out}"], check=True)


if __name__ == "__main__":
    run_script(main)
