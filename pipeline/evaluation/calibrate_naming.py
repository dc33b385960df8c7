"""``spineline naming calibrate``: fit the probability of names to one's own networks or scanner.

The default coefficients were fitted to the networks and images of the default bundle. Other
networks and other images have other scores, so that too many namings are marked as a guess, or too
few. Here, each labelled spine is named by networks that did not see it, unchanged and under the
changes of the stress set. Without these, hardly any naming of a good network is wrong, and a fit
would find nothing. The coefficients are stored in the level reader's file.

The namings come from a pipeline with the default coefficients. Other coefficients change which
images get a second look, so that a naming may differ slightly with them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import AnnotationError, ConfigError, first_line
from spineline.datasets.common.files import (
    check_output,
    read_json,
    staged_folder,
    write_bytes,
    write_json,
)
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.dataset import load_dataset
from spineline.datasets.images import read_uint8_image
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
    StressRow,
    calibration_gap,
    fit_coefficients,
    is_judged,
    named_spines,
    outcome_shares,
    reliability_png,
    row_from_json,
    with_coefficients,
)
from spineline.pipeline.evaluation.settings import NamingCalibrate
from spineline.pipeline.evaluation.stress_set import STRESSES, LabelledSpine
from spineline.pipeline.inference.bundles import is_exported
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.naming import COEFFICIENTS, NamingCoefficients
from spineline.pipeline.inference.pipeline import NAMING_PROBABILITY, Pipeline, bundle_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.run.engine_local import torch_threads
from spineline.weights import WeightsFile, names_in_list, weights_record

NAMER_FILE = "namer.safetensors"
ROWS_FILE = "rows.json"

_OF_NAMINGS = ("seed", "window", "confidence", "candidate_confidence", "iou")
"""Keys that decide how spines are named."""

Networks = tuple[WeightsFile, WeightsFile]
"""Detector and level reader."""

_LEAST_OF_EACH = 10  # right namings, and wrong ones, to fit three coefficients to
_GROUPS = 3  # of patients, without folds: each is judged by coefficients fitted to the others
_LEAST_LEVELS = 8  # labelled levels of a spine; the stress set cuts off up to four


@dataclass(frozen=True, slots=True)
class NamingCalibrateResult:
    """The output of ``naming calibrate``.

    Attributes:
        out: the folder written.
        namer: the level reader with the coefficients.
        coefficients: fitted to all spines.
        metrics: ``default`` (its coefficients) and ``fitted`` (to others), each for ``plain`` and
            ``all`` images, as in ``metrics.json``.
        failures: images of the data that cannot be used, with the reason.
    """

    out: Path
    namer: Path
    coefficients: NamingCoefficients
    metrics: Mapping[str, Any]
    failures: tuple[str, ...] = ()


def calibrate(settings: NamingCalibrate) -> NamingCalibrateResult:
    """Fit the probability of names, and store it in the level reader's file.

    Raises:
        ConfigError: there is no level reader of one's own, a key has no effect, or the folds or
            the rows are not of this data.
        AnnotationError: the data cannot be read, or have too few right or wrong namings.
        ImageReadError: an image cannot be read.
        OutputExistsError: ``out`` exists.
        WeightsError: a network cannot be used.
    """
    settings.refuse_unused()
    check_output(settings.out, overwrite=settings.overwrite)
    networks = _networks(settings, "weights=…")
    folds = read_fold_weights(settings.folds) if settings.folds else ()
    _check_folds(settings, folds)
    models = [fold.applied(settings) for fold in folds] or [settings]
    of_fold = [_networks(each, f"folds=…, fold {n}") for n, each in enumerate(models)]
    groups, failures = labelled_spines(settings, folds)
    made_with = _made_with(settings, of_fold)
    if settings.rows is None:
        rows = [_named(model, spines) for model, spines in zip(models, groups, strict=True)]
    else:
        rows = _read_rows(settings.rows, made_with, groups)
    parts = rows if folds else _in_groups([row for part in rows for row in part])
    whole = [row for part in parts for row in part]
    coefficients = checked_fit(whole, "")
    others = [
        checked_fit(
            [row for m, part in enumerate(parts) if m != n for row in part],
            f" without {'fold' if folds else 'group'} {n}",
        )
        for n in range(len(parts))
    ]
    least = settings.min_naming_probability
    judged = [
        with_coefficients(row, each, least)
        for each, part in zip(others, parts, strict=True)
        for row in part
    ]
    metrics = {
        "default": _metrics([with_coefficients(row, COEFFICIENTS, least) for row in whole]),
        "fitted": _metrics(judged),
    }
    namer = settings.out / NAMER_FILE
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_bytes(stage / NAMER_FILE, calibrated_bytes(networks, coefficients))
        write_json(
            stage / "metrics.json",
            {"coefficients": asdict(coefficients), "min_naming_probability": least, **metrics},
        )
        named = [[asdict(row) for row in part] for part in rows]
        write_json(stage / ROWS_FILE, {**made_with, "rows": named})
        write_bytes(stage / "reliability.png", reliability_png(judged))
        if folds:
            _write_folds(stage, settings.out, folds, list(zip(of_fold, others, strict=True)))
        used = {
            "weights": weights_record(networks),
            **({"folds": [weights_record(each) for each in of_fold]} if folds else {}),
        }
        write_run_record(stage, "naming calibrate", settings, **used)
    for name, found in metrics.items():
        LOG.info("%s coefficients: %s", name, _in_words(found))
    LOG.info("written to %s; give namer=%s with detector %s", settings.out, namer, networks[0].name)
    for failure in failures:
        LOG.error("left out: %s", failure)
    return NamingCalibrateResult(settings.out, namer, coefficients, metrics, failures)


def _check_folds(settings: NamingCalibrate, folds: Sequence[FoldWeights]) -> None:
    """Refuse folds that cannot show how sure the networks are.

    Raises:
        ConfigError: fewer than two folds, one without a level reader of its own, or no networks
            that the coefficients are for.
    """
    if not folds:
        return
    if len(folds) < 2:
        raise ConfigError("folds=…: one fold; wanted two or more, each judged by the others")
    for n, fold in enumerate(folds):
        if not {"namer", "weights"} & set(fold.models):
            msg = f"folds=…, fold {n}: names no level reader that did not see its studies"
            raise ConfigError(f"{msg}; make the folds with kfold pipeline")
    if settings.weights == "default" and settings.detector is None and settings.namer == "bundle":
        msg = "folds=…: say which networks the probability is for, those trained on all of the data"
        raise ConfigError(f"{msg}: weights=DETECTOR,CLASSIFIER,NAMER")


def labelled_spines(
    settings: NamingCalibrate, folds: Sequence[FoldWeights]
) -> tuple[list[list[LabelledSpine]], tuple[str, ...]]:
    """The spines of the data with enough labelled levels, by fold, and images that were left out.

    Without folds, there is one list.

    Raises:
        AnnotationError: the data cannot be read, or no spine, or no fold, has enough levels.
        ConfigError: a study is in no fold.
        ImageReadError: an image cannot be read.
    """
    data, part = load_dataset(settings.data), settings.part
    records = [*data.records["train"], *data.records["val"]]
    where = "its train and val parts"
    if not folds:
        where = "any part" if part == "all" else f"its {part} part"
        records = [r for name in PARTS if part in (name, "all") for r in data.records[name]]
    known = [record for record in records if len(_points(record)) >= _LEAST_LEVELS]
    if not known:
        msg = f"data={settings.data}: no spine with at least {_LEAST_LEVELS} labelled levels in "
        raise AnnotationError(f"{msg}{where}" if folds else f"{msg}{where}; see part=")
    if len(known) < len(records):
        msg = "%d of %d images are left out: fewer than %d labelled levels"
        LOG.warning(msg, len(records) - len(known), len(records), _LEAST_LEVELS)
    place = fold_by_study(known, folds, has_keys=False) if folds else {}
    groups: list[list[LabelledSpine]] = [[] for _ in folds] or [[]]
    for record in known:
        image = read_uint8_image(data.image_path(record))
        patient = record.patient_id or record.study_id
        spine = LabelledSpine(record.image_id, patient, "data", image, _points(record))
        groups[place[record.study_id][0] if folds else 0].append(spine)
    empty = next((n for n, group in enumerate(groups) if not group), None)
    if empty is not None:
        msg = f"folds=…: no spine of fold {empty} is in data={settings.data}"
        raise AnnotationError(f"{msg}; give the data that the folds were made of")
    patients = {spine.patient for group in groups for spine in group}
    if not folds and len(patients) < _GROUPS:
        msg = f"data={settings.data}: {len(patients)} patients with labelled spines in {where}"
        raise AnnotationError(f"{msg}, wanted at least {_GROUPS}: each is judged by the others")
    return groups, data.failures


def _points(record: ImageRecord) -> dict[str, tuple[float, float]]:
    return {s.level: s.point_xy for s in record.structures if s.level in LEVELS}


def _named(settings: NamingCalibrate, spines: Sequence[LabelledSpine]) -> list[StressRow]:
    """The namings of spines, by networks with the default coefficients, whatever is in the file."""
    pipeline = replace(Pipeline.from_settings(settings), decoding=DecodeSettings())
    with nullcontext() if settings.threads is None else torch_threads(settings.threads):
        return named_spines(pipeline, spines, seed=settings.seed)


def _made_with(settings: NamingCalibrate, networks: Sequence[Networks]) -> dict[str, Any]:
    """What the rows of an earlier run must have been made with: networks, by fold, and keys."""
    hashes = [{"detector": d.sha256, "namer": n.sha256} for d, n in networks]
    return {"networks": hashes, **{name: getattr(settings, name) for name in _OF_NAMINGS}}


def _read_rows(
    path: Path, made_with: Mapping[str, Any], groups: Sequence[Sequence[LabelledSpine]]
) -> list[list[StressRow]]:
    """The rows of an earlier run for the spines of each fold.

    Raises:
        ConfigError: the file cannot be read, or belongs to other networks, spines or another seed.
    """
    try:
        content = read_json(path)
        rows = [[row_from_json(row) for row in part] for part in content["rows"]]
        earlier = {name: content[name] for name in made_with}
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"rows={path}: not a {ROWS_FILE} of naming calibrate ({first_line(error)})"
        raise ConfigError(msg) from error
    wanted = [(spine.name, stress) for part in groups for spine in part for stress in STRESSES]
    if earlier != made_with or [(row.spine, row.stress) for part in rows for row in part] != wanted:
        keys = ", ".join(_OF_NAMINGS)
        msg = f"rows={path}: made with other data, networks or folds, or another value of {keys}"
        raise ConfigError(f"{msg}; leave rows= out to name the spines anew")
    return rows


def checked_fit(rows: Sequence[StressRow], without: str) -> NamingCoefficients:
    """Coefficients fitted to rows, if they allow a fit; ``without`` says what was left out.

    Raises:
        AnnotationError: too few right or wrong namings, or a fit without meaning.
    """
    judged = [row.names_right for row in rows if is_judged(row)]
    right, wrong = sum(judged), len(judged) - sum(judged)
    named = f"{right} right and {wrong} wrong namings{without}"
    if min(right, wrong) < _LEAST_OF_EACH:
        msg = f"{named}, of changed images too: wanted at least {_LEAST_OF_EACH} of each to fit a"
        raise AnnotationError(f"{msg} probability; label more spines")
    found = fit_coefficients(rows)
    try:
        return NamingCoefficients.from_json(asdict(found))
    except ValueError as error:
        msg = f"the fit to {named} has no meaning ({error})"
        raise AnnotationError(f"{msg}; label more spines") from error


def calibrated_bytes(networks: Networks, coefficients: NamingCoefficients) -> bytes:
    """The content of the level reader with coefficients for the detector."""
    detector, namer = networks
    described, tensors = read_described(namer.path)
    values = {"coefficients": asdict(coefficients), "detector": detector.sha256}
    text = json.dumps({**described, NAMING_PROBABILITY: values})
    return pack_described(tensors, text, half=False)  # as precise as they are


def _networks(settings: ModelSettings, where: str) -> Networks:
    """Detector and level reader that settings name.

    Raises:
        ConfigError: there is no level reader, or it is in an exported bundle.
    """
    if is_exported(settings.weights):
        msg = f"{where}: {settings.weights} is an exported bundle; calibrate the networks that it"
        raise ConfigError(f"{msg} was made of, and export them again")
    bundle = bundle_of(settings)
    if bundle.namer is None:
        msg = (
            f"{where}: without a level reader, whose file would hold the probability; give namer=…"
        )
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
        models = {key: _seen_from(out, value, key) for key, value in fold.models.items()}
        own.append(replace(fold, models={**models, "namer": name}))
    write_fold_weights(stage / FOLD_WEIGHTS_FILE, own)


def _seen_from(out: Path, value: Any, key: str) -> Any:
    """A fold's key; files in it relative to the folder that will hold the folds file."""
    if key not in FOLD_PLACES or value is None:
        return value
    parts = []
    for part in names_in_list(value):
        path = Path(part).resolve()
        try:
            parts.append(os.path.relpath(path, out.resolve()) if path.is_file() else part)
        except ValueError:  # another drive of Windows
            parts.append(str(path))
    return ",".join(parts)


def _in_groups(rows: Sequence[StressRow]) -> list[list[StressRow]]:
    """Rows in `_GROUPS` groups by patient."""
    patients = sorted({row.patient for row in rows})
    return [
        [row for row in rows if patients.index(row.patient) % _GROUPS == n] for n in range(_GROUPS)
    ]


def _metrics(rows: Sequence[StressRow]) -> dict[str, dict[str, float | None]]:
    """Shares of outcomes and calibration error of the unchanged and of all images.

    A value that is not defined, because nothing was named, is None.
    """
    plain = [row for row in rows if row.stress == "plain"]
    found = {
        name: {**outcome_shares(group), "ece": calibration_gap(group)}
        for name, group in (("plain", plain), ("all", rows))
    }
    return {
        name: {key: v if math.isfinite(v) else None for key, v in values.items()}
        for name, values in found.items()
    }


def _in_words(found: Mapping[str, Mapping[str, float | None]]) -> str:
    plain, every = (
        {key: "-" if v is None else f"{v:.3f}" for key, v in found[name].items()}
        for name in ("plain", "all")
    )
    return (
        f"unchanged images named {plain['coverage']}, of these right {plain['right_of_named']}; "
        f"all images named {every['coverage']}, of these right {every['right_of_named']}, wrong "
        f"without a warning {every['wrong_silent']}, calibration error {every['ece']}"
    )
