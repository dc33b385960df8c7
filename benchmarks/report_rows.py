"""The report's rows, each with a documented command, from the source to a table of docs/results.md.

    python benchmarks/report_rows.py annotations=LABELS.json images=FRAMES out=OUT page=PAGE.md

`python benchmarks/report_rows.py help` lists the keys. The steps, each with its command:

1. `convert report kfold=3`, once with levels and once with the seven classes as the boxes' classes,
  so that all rows are scored on the same folds;
2. `kfold detect` and `kfold classify` for every row in `rows=`, and `pipeline val` for the chain;
  `dry=true` only prints these commands;
3. a section of the page: published, reproduced, best of ours; rows that have not been run are
  marked.

`size=small`, the default, uses smaller networks, smaller images and fewer epochs, for a CPU, and
the table marks such rows. `size=full` uses the report's (`device=0`). Both may be in one OUT: the
table prefers the full one. The same command continues a stopped run without repeating finished
parts; an empty `rows=` only writes the page.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from harness import FoldsSettings, figure_text, parse_words, recorded_command
from pages import check_name, folded, read_sections, write_section

from spineline.converters.convert import convert_report
from spineline.converters.settings import ConvertReport
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, close_match, key, parse_settings
from spineline.datasets.common.tables import aligned_text, markdown_table
from spineline.datasets.metrics.tree import flatten
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.evaluation.tables import machine
from spineline.pipeline.evaluation.val import val
from spineline.pipeline.kfold.kfold import kfold_classify, kfold_detect
from spineline.pipeline.kfold.settings import KfoldClassify, KfoldDetect

SIZES = ("full", "small")
LEVEL, SEVEN = "level", "seven"

Words = dict[str, str]
"""Keys and values of a command, as typed."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Rows that one command produces.

    Attributes:
        name: of the group of rows, and of the folder below OUT/SIZE.
        title: in words.
        command: ``kfold detect``, ``kfold classify`` or ``pipeline val``.
        labels: classes of the boxes of its data.
        full: keys at the report's size.
        small: keys for a CPU.
        sizes: description of the two sizes, for the table.
        figure: dotted key of the metric; each row of the chain has its own.
        rows: variant, title and published value, as the report gives it.
        alone: no metric of the pipeline means the same.
        note: what the report leaves open, or does differently.
    """

    name: str
    title: str
    command: str
    labels: str
    full: Words
    small: Words
    sizes: tuple[str, str]
    figure: str = ""
    rows: tuple[tuple[str, str, str], ...] = ()
    alone: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the report.

    Attributes:
        name: its name in ``rows=``.
        title: in words.
        experiment: name of its experiment.
        variant: of the cross-validation; empty for the chain.
        figure: dotted key of the metric.
        published: as the report gives it.
        best: dotted key of the corresponding metric of the pipeline; empty if there is none.
    """

    name: str
    title: str
    experiment: str
    variant: str
    figure: str
    published: str
    best: str | None


# The rows

_REPORT_DETECT = {"hyp": "report", "imgsz": "800", "batch": "16", "epochs": "200"}
_SMALL_YOLO = {
    "hyp": "lumbar", "imgsz": "256", "epochs": "40", "close_mosaic": "16", "plots": "false",
    "progressive": "0", "amp": "false", "lr0": "0.001",
}  # fmt: skip
_SMALL_HEAD = {
    "hyp": "report", "model": "resnet18", "channels": "1", "epochs": "20", "batch": "128",
    "plots": "false",
}  # fmt: skip
_UNKNOWN_RULE = (
    "The report does not say how it scored this, or at which sizes. The table shows mAP at IoU 0.5 "
    "of the seven classes, at the sizes of the report's YOLOv5."
)
_HEAD_SIZES = (
    "ResNet-50, 3 channels, 100 epochs, batch 512",
    "ResNet-18, 1 channel, 20 epochs, batch 128 unless the row says otherwise",
)
_AT_LABELS = "Crops at the labelled points, every class of both kinds allowed"

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "regions", "YOLOv5 regions", "kfold detect", LEVEL,
        {"model": "yolov5x", "download": "true", **_REPORT_DETECT, "mixup": "0"},
        {"model": "yolov5n", **_SMALL_YOLO},
        ("YOLOv5x from its COCO weights, 800 px, 200 epochs, batch 16, recipe report "
         "without mixup except where the row has it",
         "YOLOv5n from scratch, 256 px, 40 epochs, recipe lumbar"),
        "level_accuracy_8px",
        (("original", "original", "0.849"), ("label_smoothing", "label smoothing", "0.860"),
         ("mixup", "mixup", "0.878")),
        note="YOLOv5 has the anchor-free head of the ultralytics package.",
    ),
    Experiment(
        "frcnn", "End to end on the seven classes: Faster R-CNN", "kfold detect", SEVEN,
        {"model": "fasterrcnn", "imgsz": "800", "epochs": "200"},
        {"model": "fasterrcnn", "backbone": "mobilenet_v3_large", "channels": "1", "rois": "64",
         "proposals": "300", "imgsz": "320", "batch": "4", "epochs": "40", "plots": "false"},
        ("ResNet-50, 800 px, 200 epochs, batch 8, from scratch",
         "MobileNetV3-large, 1 channel, 320 px, 40 epochs, batch 4, from scratch"),
        "coco.map50", (("original", "", "0.438"),), alone=True, note=_UNKNOWN_RULE,
    ),
    Experiment(
        "yolov3", "End to end on the seven classes: YOLOv3", "kfold detect", SEVEN,
        {"model": "yolov3", **_REPORT_DETECT, "mixup": "0"},
        {"model": "yolov3-tiny", **_SMALL_YOLO},
        ("YOLOv3, 800 px, 200 epochs, batch 16, recipe report without mixup, from scratch",
         "YOLOv3-tiny, 256 px, 40 epochs, recipe lumbar, from scratch"),
        "coco.map50", (("original", "", "0.512"),), alone=True,
        note=f"{_UNKNOWN_RULE} YOLOv3 has the anchor-free head of the ultralytics package.",
    ),
    Experiment(
        "unet", "Point regression by a U-Net", "kfold detect", LEVEL,
        {"model": "unet", "encoder": "resnet50", "imgsz": "512", "epochs": "200"},
        {"model": "unet", "epochs": "40", "plots": "false"},
        ("ResNet-50 encoder, 512 px, 200 epochs, batch 8, from scratch",
         "ResNet-18 encoder, 256 px, 40 epochs, batch 8, from scratch"),
        "level_accuracy_8px",
        (("onehot", "one-hot", "0.184 (test, one for both)"),
         ("gaussian", "Gaussian", "0.184 (test, one for both)")),
        note="One value is published for both kinds of heat maps; the sizes are ours.",
    ),
    Experiment(
        "binary", "Binary head", "kfold classify", LEVEL,
        {"hyp": "report", "head": "binary"},
        {**_SMALL_HEAD, "head": "binary"},
        _HEAD_SIZES, "binary.accuracy",
        (("resize", "resize", "0.978"), ("normalise", "+ normalise", "0.973"),
         ("noise_normalise_rotation", "+ noise and rotation", "0.998")),
        note=f"{_AT_LABELS}. Always answering \"not V5\" is right nearly as often; see the AUC in "
        "`kfold.md`.",
    ),
    Experiment(
        "seven", "Seven-class head", "kfold classify", LEVEL,
        {"hyp": "report", "head": "seven"},
        {**_SMALL_HEAD, "head": "seven"},
        _HEAD_SIZES, "seven.accuracy",
        (("resize", "resize", "0.596"), ("normalise", "normalise", "0.607"),
         ("rotation", "rotation", "0.619"), ("colour_jitter", "colour jitter", "0.601")),
        note=f"{_AT_LABELS}.",
    ),
    Experiment(
        "large_batch", "Seven-class head", "kfold classify", LEVEL,
        {"hyp": "report", "head": "seven"},
        {**_SMALL_HEAD, "head": "seven", "epochs": "60"},
        ("ResNet-50, 3 channels, 100 epochs, batch 1024",
         "ResNet-18, 1 channel, 60 epochs, batch 1024"),
        "seven.accuracy", (("batch_1024", "batch 1024", "0.588"),),
        note=f"{_AT_LABELS}. A fold has about 1,090 training crops, so an epoch with this batch "
        "size is two steps, the second with some 60 or 70 crops.",
    ),
    Experiment(
        "noisy", "Seven-class head", "kfold classify", LEVEL,
        {"hyp": "report", "head": "seven"},
        {**_SMALL_HEAD, "head": "seven", "epochs": "2"},
        (_HEAD_SIZES[0], "ResNet-18, 1 channel, 2 epochs, batch 128"), "seven.accuracy",
        (("noise", "noise", "0.658"),
         ("noise_normalise_rotation", "noise + normalise + rotation", "0.654")),
        note=f"{_AT_LABELS}. With the noisy copies, an epoch has twelve to thirteen times as many "
        "crops and steps.",
    ),
    Experiment(
        "networks", "Other networks, seven classes", "kfold classify", LEVEL,
        {"hyp": "report", "head": "seven"},
        {"hyp": "report", "head": "seven", "channels": "1", "epochs": "20", "batch": "128",
         "jitter": "false", "balance": "none", "plots": "false"},
        ("3 channels, 100 epochs, batch 512, normalise + rotation + noise",
         "1 channel, 20 epochs, batch 128, normalise + rotation"),
        "seven.accuracy",
        (("original", "ResNet-50", "0.654"), ("vgg16", "VGG-16", "worse, not given"),
         *((f"resnet{n}", f"ResNet-{n}", "worse, not given") for n in (18, 34, 101))),
        note=f"{_AT_LABELS}. ResNet-50 is listed for comparison.",
    ),
    Experiment(
        "heads", "Classifier of the chain", "kfold classify", LEVEL,
        {"hyp": "report", "head": "both"},
        {**_SMALL_HEAD, "head": "both"},
        _HEAD_SIZES,
    ),
    Experiment(
        "chain", "The chain", "pipeline val", LEVEL,
        {},
        {},
        ("detector `regions-mixup` and a classifier with both heads, at full size",
         "detector `regions-mixup` and a classifier with both heads, at the small size"),
        rows=(("recall", "recall", "0.667"), ("precision", "precision", "0.402"),
              ("ap", "AP", "0.657")),
        note="Every study is scored by the networks of the fold that left it out, with the most "
        "confident box of each level; the published precision counts several boxes per level. The "
        "two heads, which the report lists separately, share a trunk here.",
    ),
)  # fmt: skip
AT: dict[str, Experiment] = {experiment.name: experiment for experiment in EXPERIMENTS}

ROWS: tuple[Row, ...] = tuple(
    Row(
        f"{e.name}-{variant}" if words else e.name,
        f"{e.title}, {words}" if words else e.title,
        e.name,
        variant if e.figure else "",
        figure,
        published,
        None if e.alone else figure,
    )
    for e in EXPERIMENTS
    for variant, words, published in e.rows
    for figure in [e.figure or f"report.{variant}"]
)
"""In the report's order."""
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(row.experiment for row in ROWS))
NEEDS = {"chain": (("regions", "mixup"), ("heads", "noise_normalise_rotation"))}
"""Experiments, with the variant, whose networks another experiment uses."""

HEADS = ("row", "figure", "published", "reproduced", "folds", "n", "size", "best of ours")
RUN: dict[str, tuple[type[Settings], Callable[[Any], Any]]] = {
    "kfold detect": (KfoldDetect, kfold_detect),
    "kfold classify": (KfoldClassify, kfold_classify),
    "pipeline val": (PipelineVal, val),
    "convert report": (ConvertReport, convert_report),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsSettings(FoldsSettings):
    out: Path = key("folder for everything that is made, and that is read for the table")
    rows: tuple[str, ...] = key(
        "what to run: rows, such as regions-mixup, groups of rows, or all; none with rows=",
        default=GROUPS,
    )
    size: str = key("small: for a CPU; full: as the report", default="small", choices=SIZES)
    dry: bool = key("print the commands and run nothing", default=False)
    best: Path | None = key(
        "metrics.json of pipeline val: the best of ours (else best_section of page)", default=None
    )
    best_section: str = key(
        "section of page with the figures of the best of ours", default="out-of-fold"
    )
    section: str = key("name of that section of page", default="report-rows")


@dataclass(frozen=True, slots=True)
class Found:
    """The scores of a finished row.

    Attributes:
        size: ``full`` or ``small``, and the epochs and pixels of its command.
        figure: its value, ``ci95`` and n over all studies, each scored by networks that did not see
            it.
        folds: value of each fold; empty for the chain.
    """

    size: str
    figure: Mapping[str, Any]
    folds: tuple[float | None, ...] = ()


# Selection


def chosen_rows(words: Sequence[str]) -> tuple[Row, ...]:
    """The rows named directly, by their group or by ``all``, in the report's order.

    Raises:
        ConfigError: no such row.
    """
    names = [row.name for row in ROWS]
    if "all" in words:
        return ROWS
    for word in words:
        if word not in names and word not in GROUPS:
            hint = close_match(word, list(dict.fromkeys([*GROUPS, *names])))
            groups = "" if "allowed" in hint else f" (groups: {', '.join(GROUPS)})"
            raise ConfigError(f"rows={word}: no such row{hint}{groups}")
    return tuple(row for row in ROWS if row.name in words or row.experiment in words)


def chosen_variants(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """The variants of each experiment that the rows need, in order of dependence."""
    wanted: dict[str, set[str]] = {}
    for row in rows:
        for name, variant in (*NEEDS.get(row.experiment, ()), (row.experiment, row.variant)):
            wanted.setdefault(name, set()).add(variant)
    return {
        experiment.name: tuple(v for v in variants_of(experiment) if v in wanted[experiment.name])
        for experiment in EXPERIMENTS
        if experiment.name in wanted
    }


def variants_of(experiment: Experiment) -> tuple[str, ...]:
    """All variants of an experiment, in the report's order."""
    own = [row.variant for row in ROWS if row.experiment == experiment.name]
    needed = [v for needs in NEEDS.values() for name, v in needs if name == experiment.name]
    return tuple(dict.fromkeys([*own, *needed]))


# Commands


def convert_words(settings: RowsSettings, labels: str, root: str) -> Words:
    """The keys that convert the folds."""
    return {
        "annotations": str(settings.annotations or "LABELS.json"),
        "images": str(settings.images or "FRAMES"),
        "out": f"{root}/data/{labels}",
        "labels": labels,
        "kfold": str(settings.k),
        "seed": str(settings.seed),
    }


def experiment_words(
    settings: RowsSettings, experiment: Experiment, variants: Sequence[str], root: str
) -> Words:
    """The keys of an experiment's command at the size of the settings."""
    common = {"draws": str(settings.draws), "seed": str(settings.seed), "device": settings.device}
    out = f"{root}/{settings.size}/{experiment.name}"
    if experiment.command == "pipeline val":
        parts = [f"{root}/{settings.size}/{name}/{variant}" for name, variant in NEEDS["chain"]]
        return {
            "source": str(settings.images or "FRAMES"),
            "annotations": str(settings.annotations or "LABELS.json"),
            "out": out,
            "folds": ",".join(parts),
            "decode": "argmax",
            "namer": "none",
            **common,
            "device": settings.device.split(",")[0],
        }
    keys = experiment.full if settings.size == "full" else experiment.small
    instead = {"epochs": settings.epochs}
    if experiment.command == "kfold detect":
        instead["imgsz"] = settings.imgsz
    given = {name: str(value) for name, value in instead.items() if value is not None}
    if settings.epochs is not None and "close_mosaic" in keys:
        # the share of epochs without mosaic and mixup stays: in a short run there would be no other
        share = int(keys["close_mosaic"]) / int(keys["epochs"])
        given["close_mosaic"] = str(round(share * settings.epochs))
    data = f"{root}/data/{experiment.labels}"
    return {"data": data, "out": out, **keys, **given, "variants": ",".join(variants), **common}


def command_text(command: str, words: Mapping[str, str]) -> str:
    """The command as typed, without default keys except the variants."""
    cls = RUN[command][0]
    settings = parse_settings(cls, words, where=command)
    defaults = {spec.name: spec.default for spec in fields(cls)}
    shown = [
        f"{name}={shlex.quote(value)}"
        for name, value in words.items()
        if name == "variants" or defaults[name] != getattr(settings, name)
    ]
    return " ".join(["spineline", command, *shown])


def commands(
    settings: RowsSettings, wanted: Mapping[str, Sequence[str]], root: str
) -> list[tuple[str, str]]:
    """Conversions and experiments: the name and command of each, in the order to run them."""
    folds = list(dict.fromkeys(AT[name].labels for name in wanted))
    lines = [
        ("data", command_text("convert report", convert_words(settings, labels, root)))
        for labels in folds
    ]
    for name, variants in wanted.items():
        words = experiment_words(settings, AT[name], variants, root)
        lines.append((name, command_text(AT[name].command, words)))
    return lines


# Running


def run(settings: RowsSettings, rows: Sequence[Row]) -> list[str]:
    """Run what is not finished; a failed experiment does not stop the others.

    Returns:
        The failures, with reasons.
    """
    failures: list[str] = []
    for name, variants in chosen_variants(rows).items():
        try:
            found = run_experiment(settings, AT[name], variants)
        except SpinelineError as error:
            found = [str(error)]
        failures += [f"{name}: {text}" for text in found]
        for text in found:
            LOG.error("error: %s: %s", name, text)
        write_page(settings)
    return failures


def run_experiment(
    settings: RowsSettings, experiment: Experiment, variants: Sequence[str]
) -> list[str]:
    """Run an experiment unless it is finished; returns its failures."""
    folder = settings.out / settings.size / experiment.name
    resume = {}
    if experiment.command == "pipeline val":
        if (folder / "metrics.json").is_file():
            return []
        check_source(settings)
    else:
        before = finished_variants(folder)
        scored = read_json(folder / "kfold.json").get("variants", {})
        if set(variants) <= set(before) & set(scored):
            LOG.info("%s: finished already", experiment.name)
            return []
        # A cross-validation writes the table of the given variants: existing ones are added, so
        # that they stay in it.
        variants = [v for v in variants_of(experiment) if v in variants or v in before]
        make_data(settings, experiment.labels)
        if (folder / "run.yaml").is_file():
            resume = {"resume": "true"}
    words = experiment_words(settings, experiment, variants, str(settings.out)) | resume
    cls, function = RUN[experiment.command]
    LOG.info("%s", command_text(experiment.command, words))
    result = function(parse_settings(cls, words, where=experiment.name))
    return [str(failure) for failure in result.failures]


def make_data(settings: RowsSettings, labels: str) -> None:
    """Convert the folds unless they exist."""
    if (settings.out / "data" / labels).exists():
        return
    check_source(settings)
    cls, function = RUN["convert report"]
    words = convert_words(settings, labels, str(settings.out))
    function(parse_settings(cls, words, where="convert report"))


def check_source(settings: RowsSettings) -> None:
    """Refuse to continue without the source.

    Raises:
        ConfigError: it is not given.
    """
    if settings.annotations is None or settings.images is None:
        raise ConfigError("wanted annotations=… and images=…")


def finished_variants(folder: Path) -> tuple[str, ...]:
    """Variants with all existing folds scored, sorted."""
    folds = folder.parents[1] / "data"
    counts = {sum(p.is_dir() for p in path.glob("fold*")) for path in folds.glob("*")}
    found = [path.parents[2].name for path in sorted(folder.glob("*/fold*/val/metrics.json"))]
    return tuple(name for name in dict.fromkeys(found) if found.count(name) in counts)


def read_json(file: Path) -> dict[str, Any]:
    """The content of a file; empty if it does not exist."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


# Reading


def found_of(out: Path, row: Row) -> Found | None:
    """The scores of a row: at full size if available; None if it was not run."""
    for size in SIZES:
        folder = out / size / row.experiment
        if AT[row.experiment].command == "pipeline val":
            figure = flatten(read_json(folder / "metrics.json")).get(row.figure)
            if figure is not None:
                return Found(size, figure)
            continue
        scored = read_json(folder / "kfold.json").get("variants", {}).get(row.variant, {})
        if row.figure in scored:
            figure, given = scored[row.figure], sizes_given(folder, row.variant)
            words = (f", {given[name]} {word}" for name, word in GIVEN.items() if name in given)
            nothing = {"value": None, "ci95": (None, None), "n": None}
            return Found(size + "".join(words), figure["pooled"] or nothing, tuple(figure["folds"]))
    return None


GIVEN = {"epochs": "epochs", "imgsz": "px"}
"""Keys that may differ between variants of one experiment, with their units."""


def sizes_given(folder: Path, variant: str) -> Words:
    """The keys of GIVEN in the trainings of a variant, as typed."""
    records = sorted(folder.glob(f"{variant}/fold*/run.yaml"))
    if not records:
        return {}
    settings = yaml.safe_load(records[0].read_text(encoding="utf-8"))["settings"]
    return {name: str(settings[name]) for name in GIVEN if settings.get(name)}


_LINE = re.compile(r"^\| `([^`]+)` \| ([0-9.]+) \| ([^|]*?) \| \d+ \|", re.MULTILINE)


def best_figures(settings: RowsSettings) -> dict[str, str]:
    """The best of our metrics by key, as text with interval, from the file or from the page.

    Raises:
        ConfigError: the file cannot be read as a ``metrics.json``.
    """
    if settings.best is not None:
        try:
            flat = flatten(json.loads(settings.best.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"best={settings.best}: not a metrics.json ({error})") from error
        return {
            name: figure_text(figure["value"], figure["ci95"])
            for name, figure in flat.items()
            if not isinstance(figure["value"], list)
        }
    if settings.page is None or not settings.page.is_file():
        return {}
    text = read_sections(settings.page).get(settings.best_section, "")
    return {
        name: f"{float(value):.3f}" + (f" ({interval})" if interval else "")
        for name, value, interval in _LINE.findall(text)
    }


# Output


def cells_of(row: Row, found: Found | None, best: Mapping[str, str]) -> tuple[str, ...]:
    """The row's cells of the table."""
    ours = best.get(row.best, "") if row.best is not None else "–"
    if found is None:
        return (row.title, f"`{row.figure}`", row.published, "not run", "", "", "", ours)
    pooled = found.figure
    failed = None in found.folds and pooled["value"] is None
    value = "a fold failed" if failed else figure_text(pooled["value"], pooled["ci95"])
    folds = " / ".join("–" if fold is None else f"{fold:.3f}" for fold in found.folds)
    n = "" if pooled["n"] is None else str(pooled["n"])
    return (row.title, f"`{row.figure}`", row.published, value, folds, n, found.size, ours)


ABOUT = """\
*Published* values are the report's, by its own scoring and on its own split. *Reproduced* values
are for real T2 frames of the Tianchi spinal-disease set, with folds by patient. They cover all
studies, each scored by the network that was trained without it, with a 95 % interval from a
bootstrap over studies. The weights of the last epoch are scored, so nothing is chosen on what is
scored. *small* is a run for a CPU, smaller than the report's as described below the table, and says
nothing about what the row can reach. *full* is the report's size."""


def section_text(settings: RowsSettings) -> str:
    """The section of the page."""
    found = {row.name: found_of(settings.out, row) for row in ROWS}
    best = best_figures(settings)
    rows = [cells_of(row, found[row.name], best) for row in ROWS]
    lines = ["## The report's rows", "", ABOUT, "", markdown_table(HEADS, rows), ""]
    lines += [best_text(settings, best), ""]
    lines += [
        f"- {e.title} (`{e.name}`): full is {e.sizes[0]}; small is {e.sizes[1]}. {e.note}".rstrip()
        for e in EXPERIMENTS
        if e.rows
    ]
    lines.append("")
    shown = {
        (f.size.split(",")[0], row.experiment, row.variant)
        for row in ROWS
        if (f := found[row.name]) is not None
    }
    made = made_by(settings.out, shown)
    if made:
        lines += [*folded("Commands that made this", [*made, f"- Machine: {machine()}"]), ""]
    full = RowsSettings(out=settings.out, size="full", device="0", seed=settings.seed, k=settings.k)
    every = commands(full, chosen_variants(ROWS), "OUT")
    titles = {"data": "Folds", **{e.name: f"{e.title} (`{e.name}`)" for e in EXPERIMENTS}}
    each = [f"- {titles[name]}: `{text}`" for name, text in every]
    script = "python benchmarks/report_rows.py size=full device=0 annotations=LABELS.json"
    each += ["", f"All of them: `{script} images=FRAMES out=OUT page=docs/results.md`."]
    lines += folded("Each row in full: `OUT` is one folder, `device=0` a GPU", each)
    return "\n".join(lines) + "\n"


def best_text(settings: RowsSettings, best: Mapping[str, str]) -> str:
    """The source of the last column."""
    about = (
        "*Best of ours* is the whole pipeline, so crops are at predicted points, which is harder "
        "than at the labels. A dash means that the pipeline has no comparable metric."
    )
    if not best:
        return f"{about} It is not given here."
    if settings.best is None:
        return f"{about} From the section `{settings.best_section}` of this page, with its command."
    record = settings.best.parent / "run.yaml"
    if not record.is_file():
        return f"{about} From `{settings.best.name}`."
    return f"{about} By `{recorded_command(record, PipelineVal)}`."


def made_by(out: Path, shown: set[tuple[str, str, str]]) -> list[str]:
    """The commands behind the table, with seed and data, from their run folders.

    Args:
        shown: size, experiment and variant of every row with a value.
    """
    needed = {(size, *need) for size, experiment, _ in shown for need in NEEDS.get(experiment, ())}
    lines = []
    for experiment in EXPERIMENTS:
        for size in SIZES:
            folder = out / size / experiment.name
            chosen = [
                v for v in variants_of(experiment) if (size, experiment.name, v) in shown | needed
            ]
            if not chosen or not (folder / "run.yaml").is_file():
                continue
            seed = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))["seed"]
            studies = read_json(folder / "kfold.json").get("studies")
            data = f", folds of {', '.join(map(str, studies))} studies" if studies else ""
            for text in commands_recorded(folder, experiment, chosen):
                lines.append(f"- {experiment.name}, {size}, seed {seed}{data}: `{text}`")
    return lines


def commands_recorded(folder: Path, experiment: Experiment, variants: Sequence[str]) -> list[str]:
    """The commands that made a run folder: one for all variants trained at one size.

    A folder records only the last command that continued it, but each variant's trainings record
    their own.
    """
    cls = RUN[experiment.command][0]
    record = folder / "run.yaml"
    if experiment.command == "pipeline val":
        return [recorded_command(record, cls)]
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for variant in variants:
        groups.setdefault(tuple(sizes_given(folder, variant).items()), []).append(variant)
    return [
        recorded_command(
            record, cls, {**dict(given), "variants": ",".join(group), "resume": "false"}
        )
        for given, group in groups.items()
    ]


def write_page(settings: RowsSettings) -> None:
    """Write the section, if a page is given."""
    if settings.page is not None:
        write_section(settings.page, settings.section, section_text(settings), title="Results")


def main(words: list[str]) -> int:
    """Run, print the table, and write the page; 1 if something failed."""
    settings = parse_words(words, RowsSettings)
    if settings is None:
        return 0
    check_name(settings.section)
    rows = chosen_rows(settings.rows)
    if settings.dry:
        for _, text in commands(settings, chosen_variants(rows), str(settings.out)):
            print(text)
        return 0
    LOG.setLevel(logging.INFO)
    LOG.addHandler(logging.StreamHandler())
    best = best_figures(settings)  # before any work: it may be unreadable
    failures = run(settings, rows)
    write_page(settings)
    print(aligned_text([HEADS, *(cells_of(r, found_of(settings.out, r), best) for r in ROWS)]))
    for text in failures:
        print(f"failed: {text}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_script(main)
