"""``spineline classify predict``: grades of crops stored as image files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spineline.classify.combined import CombinedClassifier
from spineline.classify.grades import Grades
from spineline.classify.model import Classifier, load_classifier
from spineline.classify.settings import ClassifyPredict
from spineline.datasets.common.arrays import PixelArray
from spineline.datasets.common.errors import AnnotationError, ConfigError, SpinelineError
from spineline.datasets.common.files import check_output, staged_folder, write_json, write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.images import IMAGE_SUFFIXES, read_uint8_image
from spineline.datasets.labels import (
    BINARY_NAMES,
    LEVELS,
    SEVEN_NAMES,
    kind_of_level,
    level_index,
)
from spineline.datasets.metrics.grades import V5_THRESHOLD
from spineline.weights import resolve_classifiers, weights_record

_LEVEL_AT_END = re.compile(
    rf"_({'|'.join(sorted(LEVELS, key=len, reverse=True))})(_[A-Za-z0-9-]+)?$"
)


@dataclass(frozen=True, slots=True)
class ClassifyPredictResult:
    """The output of ``classify predict``.

    Attributes:
        out: the folder written.
        predictions: one entry per crop, as in ``predictions.json``.
        failures: files that could not be read, with the reason.
    """

    out: Path
    predictions: tuple[dict[str, Any], ...]
    failures: tuple[str, ...]


def predict(settings: ClassifyPredict) -> ClassifyPredictResult:
    """Grade crops; files of another size than the network's are resized.

    With several classifiers, the files must show the crop of the one with the widest margin. The
    others get the central part of it.

    Raises:
        AnnotationError: there is no crop, or none that can be read.
        ConfigError: the classifiers' crops are rotated differently.
        WeightsError: the weights cannot be used.
        OutputExistsError: ``out`` exists.
    """
    check_output(settings.out, overwrite=settings.overwrite)
    files = find_crops(settings.source)
    weights = resolve_classifiers(settings.model, trust=settings.trust)
    classifier = load_classifier(
        [file.path for file in weights], device=settings.device, trust=settings.trust
    )
    specs = classifier.crops if isinstance(classifier, CombinedClassifier) else (classifier.crop,)
    shares = _shown_shares(specs)
    names, images, failures = _read_all(settings.source, files)
    for failure in failures:
        LOG.error("left out: %s", failure)
    if not names:
        raise AnnotationError(f"source={settings.source}: no crop can be read ({failures[0]})")
    crops = [
        np.stack([_resized(_middle(image, share), spec.size) for image in images])
        for spec, share in zip(specs, shares, strict=True)
    ]
    entries = _grade(classifier, names, crops, settings)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_json(stage / "predictions.json", {"predictions": entries, "failures": failures})
        write_text(stage / "predictions.csv", graded_crops_csv(entries))
        write_run_record(stage, "classify predict", settings, weights=weights_record(weights))
    LOG.info("%d crops graded, written to %s", len(entries), settings.out)
    return ClassifyPredictResult(settings.out, tuple(entries), tuple(failures))


def find_crops(source: Path) -> list[Path]:
    """The image files of a folder at any depth, sorted; or the single file.

    Raises:
        AnnotationError: there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise AnnotationError(f"source={source}: no such file or folder")
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise AnnotationError(f"source={source}: no {', '.join(IMAGE_SUFFIXES)} file in it")
    return files


def level_of_name(name: str) -> str | None:
    """The level at the end of a crop's file name, as ``data crops`` names files.

    >>> level_of_name("017-000_L4-L5.png"), level_of_name("017-000_L4_up-noise2.png")
    ('L4-L5', 'L4')
    >>> level_of_name("scan.png") is None
    True
    """
    match = _LEVEL_AT_END.search(Path(name).stem)
    return match.group(1) if match else None


def _read_all(source: Path, files: Sequence[Path]) -> tuple[list[str], list[PixelArray], list[str]]:
    names: list[str] = []
    images: list[PixelArray] = []
    failures: list[str] = []
    for path in files:
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        try:
            images.append(read_uint8_image(path))
            names.append(name)
        except SpinelineError as error:
            failures.append(str(error))
    return names, images, failures


def _shown_shares(specs: Sequence[CropSpec]) -> list[float]:
    """The central fraction of a file's side that each classifier sees."""
    aligns = sorted({spec.align for spec in specs})
    if len(aligns) > 1:
        msg = (
            "model=…: one classifier wants crops turned along the spine and another upright, "
            "which files of crops cannot both be; use classify val or pipeline predict"
        )
        raise ConfigError(msg)
    widest = max(spec.margin for spec in specs)
    if any(spec.margin != widest for spec in specs):
        LOG.info(
            "crops are taken to show %g times the box; classifiers of a smaller margin see the "
            "middle",
            widest,
        )
    return [spec.margin / widest for spec in specs]


def _middle(image: PixelArray, share: float) -> PixelArray:
    if share == 1:
        return image
    rows, columns = (max(round(side * share), 1) for side in image.shape)
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[top : top + rows, left : left + columns]


def _resized(image: PixelArray, size: int) -> PixelArray:
    if image.shape == (size, size):
        return image
    import cv2

    shrinks = max(image.shape) > size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), dtype=np.uint8)


def _grade(
    classifier: Classifier | CombinedClassifier,
    names: Sequence[str],
    crops: Sequence[PixelArray],
    settings: ClassifyPredict,
) -> list[dict[str, Any]]:
    levels = [level_of_name(name) for name in names]
    kinds = [kind_of_level(level) if level else None for level in levels]
    known = kinds if settings.mask_kind else None
    places = np.array([level_index(level) for level in levels], dtype=np.int64)
    if isinstance(classifier, CombinedClassifier):
        grades = classifier.grade(crops, known, levels=places, batch=settings.batch)
    else:
        grades = classifier.grade(crops[0], known, levels=places, batch=settings.batch)
    return [
        {"file": name, "level": level, "kind": kind, **_entry(grades, n)}
        for n, (name, level, kind) in enumerate(zip(names, levels, kinds, strict=True))
    ]


def _entry(grades: Grades, n: int) -> dict[str, Any]:
    """The grades of one crop, in the form of the pipeline's ``result.json``."""
    entry: dict[str, Any] = {}
    seven_given, binary_given = grades.seven_given, grades.binary_given
    if grades.seven is not None and seven_given is not None:
        row = [float(p) for p in grades.seven[n]]
        probabilities = dict(zip(SEVEN_NAMES, row, strict=True))
        entry["seven"] = {
            "class": SEVEN_NAMES[int(seven_given[n])],
            "probabilities": probabilities,
        }
    if grades.binary is not None and binary_given is not None:
        entry["binary"] = {
            "class": BINARY_NAMES[int(binary_given[n])],
            "probability": float(grades.binary[n]),
            **({} if grades.threshold == V5_THRESHOLD else {"threshold": grades.threshold}),
        }
    return entry


def graded_crops_csv(entries: Sequence[dict[str, Any]]) -> str:
    """The text of ``predictions.csv``; cells without that head or level are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "level", "kind", "seven", *SEVEN_NAMES, "binary", "v5"])
    for entry in entries:
        seven, binary = entry.get("seven", {}), entry.get("binary", {})
        probabilities = seven.get("probabilities", {})
        writer.writerow(
            [entry["file"], entry["level"] or "", entry["kind"] or "", seven.get("class", "")]
            + [f"{probabilities[n]:.6f}" if probabilities else "" for n in SEVEN_NAMES]
            + [binary.get("class", ""), f"{binary['probability']:.6f}" if binary else ""]
        )
    return text.getvalue()
