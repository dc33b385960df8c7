"""``spineline naming calibrate``: fit the probability of names to one's own networks.

The coefficients of the default bundle were fitted on its networks. Networks of other data or of
shorter trainings have other scores, so that too many of their namings are marked as a guess, or too
few. Here, each labelled spine is named by networks that did not see it, unchanged and under the
changes of the stress set. Without these, hardly any naming of a good network is wrong, and a fit
would find nothing. The coefficients are stored in the level reader's file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.files import (
    check_output,
    staged_folder,
    write_bytes,
    write_json,
)
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.dataset import load_dataset
from spineline.datasets.images import read_uint8_image, window_to_uint8
from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.tensors import pack_described, read_described
from spineline.datasets.splits import PARTS
from spineline.datasets.types import ImageRecord
from spineline.pipeline.evaluation.fold_weights import (
    FOLD_PLACES,
    FOLD_WEIGHTS_FILE,
    FoldWeights,
    fold_by_study,
    read_fold_weights,
    write_fold_weights,
)
from spineline.pipeline.evaluation.naming_stress import (
    Row,
    calibration_gap,
    counted,
    fitted,
    look,
    reliability_png,
    with_coefficients,
)
from spineline.pipeline.evaluation.settings import NamingCalibrate
from spineline.pipeline.evaluation.stress_set import STRESSES, LabelledSpine
from spineline.pipeline.inference.naming import COEFFICIENTS, NamingCoefficients
from spineline.pipeline.inference.pipeline import NAMING_PROBABILITY, Pipeline, bundle_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.weights import WeightsFile, names_in_list, weights_record

NAMER_FILE = "namer.safetensors"

_LEAST = 10  # right namings, and wrong ones, to fit three coefficients to
_PARTS = 3  # groups of spines for an error of coefficients fitted to others, without folds
Networks = tuple[WeightsFile, WeightsFile]
"""Detector and level reader."""

_LEVELS = 8  # labelled levels of a spine; the stress set cuts off up to four


@dataclass(frozen=True, slots=True)
class NamingCalibrateResult:
    """The output of ``naming calibrate``.

    Attributes:
        out: the folder written.
        namer: the level reader with the coefficients.
        coefficients: fitted to all spines.
        metrics: ``before`` and ``after`` for ``plain`` and ``all`` images, as in ``metrics.json``.
    """

    out: Path
    namer: Path
    coefficients: NamingCoefficients
    metrics: Mapping[str, Any]


def calibrate(settings: NamingCalibrate) -> NamingCalibrateResult:
    """Fit the probability of names, and store it in the level reader's file.

    Raises:
        ConfigError: there is no level reader, or the folds are not of this data.
        AnnotationError: the data cannot be read, or have too few right or wrong namings.
        OutputExistsError: ``out`` exists.
    """
    check_output(settings.out, overwrite=settings.overwrite)
    networks = _networks(settings, "the networks")
    folds = read_fold_weights(settings.folds) if settings.folds else ()
    models = [fold.applied(settings) for fold in folds] or [settings]
    of_fold = [_networks(each, f"fold {n}") for n, each in enumerate(models)]
    groups = labelled_spines(settings, folds)
    rows: list[list[Row]] = []
    for model, spines in zip(models, groups, strict=True):
        pipeline = replace(Pipeline.from_settings(model), classifier=None)
        tasks = [(spine, stress) for spine in spines for stress in STRESSES]
        shown = progress(tasks, description="spines under each change")
        rows.append([look(pipeline, *task, seed=settings.seed) for task in shown])
    whole = [row for part in rows for row in part]
    coefficients = fit_coefficients(whole)
    parts = rows if folds else _in_parts(whole)
    others = [
        fit_coefficients([row for m, part in enumerate(parts) if m != n for row in part])
        for n in range(len(parts))
    ]
    least = settings.min_naming_probability
    before = [with_coefficients(row, COEFFICIENTS, least) for row in whole]
    after = [
        with_coefficients(row, each, least)
        for each, part in zip(others, parts, strict=True)
        for row in part
    ]
    metrics = {"before": _metrics(before), "after": _metrics(after)}
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_bytes(stage / NAMER_FILE, calibrated_bytes(networks, coefficients))
        write_json(
            stage / "metrics.json",
            {"coefficients": asdict(coefficients), "min_naming_probability": least, **metrics},
        )
        write_bytes(stage / "reliability.png", reliability_png(after))
        if folds:
            _write_folds(stage, settings.out, folds, list(zip(of_fold, others, strict=True)))
        write_run_record(stage, "naming calibrate", settings, weights=weights_record(networks))
    for when, found in metrics.items():
        LOG.info("%s: %s", when, _in_words(found))
    LOG.info("written to %s; give the networks as before, with namer=%s", settings.out, NAMER_FILE)
    namer = settings.out / NAMER_FILE
    return NamingCalibrateResult(settings.out, namer, coefficients, metrics)


def labelled_spines(
    settings: NamingCalibrate, folds: Sequence[FoldWeights]
) -> list[list[LabelledSpine]]:
    """The spines of the data with enough labelled levels, by fold; one list without folds.

    Raises:
        AnnotationError: the data cannot be read, or no spine has enough levels.
        ConfigError: a study is in no fold.
    """
    data, part = load_dataset(settings.data), settings.part
    records = [*data.records["train"], *data.records["val"]]
    where = "its train and val parts"
    if not folds:
        where = "any part" if part == "all" else f"its {part} part"
        records = [r for name in PARTS if part in (name, "all") for r in data.records[name]]
    known = [record for record in records if len(_points(record)) >= _LEVELS]
    if not known:
        msg = f"data={settings.data}: no spine with at least {_LEVELS} labelled levels in {where}"
        raise AnnotationError(msg if folds else f"{msg}; see part=")
    place = fold_by_study(known, folds) if folds else {}
    groups: list[list[LabelledSpine]] = [[] for _ in folds] or [[]]
    for record in known:
        image = window_to_uint8(read_uint8_image(data.image_path(record)))
        patient = record.patient_id or record.study_id
        spine = LabelledSpine(record.image_id, patient, "data", image, _points(record))
        groups[place[record.study_id][0] if folds else 0].append(spine)
    return groups


def _points(record: ImageRecord) -> dict[str, tuple[float, float]]:
    return {s.level: s.point_xy for s in record.structures if s.level in LEVELS}


def fit_coefficients(rows: Sequence[Row]) -> NamingCoefficients:
    """Coefficients fitted to rows, if they allow a fit.

    Raises:
        AnnotationError: too few right or wrong namings, or a fit without meaning.
    """
    judged = [row.names_right for row in rows if row.evidence]
    right, wrong = sum(judged), len(judged) - sum(judged)
    if min(right, wrong) < _LEAST:
        msg = f"{right} right and {wrong} wrong namings, of changed images too: wanted at least"
        raise AnnotationError(f"{msg} {_LEAST} of each to fit a probability; label more spines")
    found = fitted(rows)
    try:
        return NamingCoefficients.from_json(asdict(found))
    except ValueError as error:
        msg = f"the fit to {right} right and {wrong} wrong namings has no meaning ({error})"
        raise AnnotationError(f"{msg}; label more spines") from error


def calibrated_bytes(networks: Networks, coefficients: NamingCoefficients) -> bytes:
    """The content of the level reader with coefficients for the detector."""
    detector, namer = networks
    described, tensors = read_described(namer.path)
    values = {"coefficients": asdict(coefficients), "detector": detector.sha256}
    return pack_described(tensors, json.dumps({**described, NAMING_PROBABILITY: values}), half=True)


def _networks(settings: ModelSettings, what: str) -> Networks:
    """Detector and level reader that settings name.

    Raises:
        ConfigError: there is no level reader.
    """
    bundle = bundle_of(settings)
    if bundle.namer is None:
        msg = f"{what}: without a level reader, whose file would hold the probability; give namer=…"
        raise ConfigError(f"{msg}, or weights=DETECTOR,CLASSIFIER,NAMER")
    return bundle.detector, bundle.namer


def _write_folds(
    stage: Path,
    out: Path,
    folds: Sequence[FoldWeights],
    fitted_to: Sequence[tuple[Networks, NamingCoefficients]],
) -> None:
    """The folds with level readers whose coefficients were fitted to the other folds."""
    own = []
    for n, (fold, (networks, coefficients)) in enumerate(zip(folds, fitted_to, strict=True)):
        name = f"fold{n}.safetensors"
        write_bytes(stage / name, calibrated_bytes(networks, coefficients))
        models = {key: _from(out, value, key) for key, value in fold.models.items()}
        own.append(replace(fold, models={**models, "namer": name}))
    write_fold_weights(stage / FOLD_WEIGHTS_FILE, own)


def _from(out: Path, value: Any, key: str) -> Any:
    """A fold's key; files in it relative to the folder that will hold the folds file."""
    if key not in FOLD_PLACES or value is None:
        return value
    parts = ((part, Path(part)) for part in names_in_list(value))
    return ",".join(os.path.relpath(path, out) if path.is_file() else part for part, path in parts)


def _in_parts(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in `_PARTS` groups by patient, for coefficients that did not see what they are put to.

    Raises:
        AnnotationError: fewer patients than groups.
    """
    patients = sorted({row.patient for row in rows})
    if len(patients) < _PARTS:
        msg = f"{len(patients)} patients with labelled spines, wanted at least {_PARTS}"
        raise AnnotationError(f"{msg}: each is judged by coefficients fitted to others")
    return [
        [row for row in rows if patients.index(row.patient) % _PARTS == n] for n in range(_PARTS)
    ]


def _metrics(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The counts of the unchanged and of all images, and the calibration error."""
    plain = [row for row in rows if row.stress == "plain"]
    return {
        name: {**counted(group), "ece": calibration_gap(group)}
        for name, group in (("plain", plain), ("all", rows))
    }


def _in_words(found: Mapping[str, Mapping[str, float]]) -> str:
    plain, every = found["plain"], found["all"]
    return (
        f"named {plain['coverage']:.3f} of the images, {plain['right_of_named']:.3f} of them right"
        f"; with changed ones {every['coverage']:.3f} and {every['right_of_named']:.3f}, wrong "
        f"without a warning {every['wrong_silent']:.4f}, calibration error {every['ece']:.3f}"
    )
