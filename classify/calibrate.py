"""``spineline classify calibrate``: a temperature, so that probabilities are honest.

Temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017): a head's
logits are divided by one number, which changes neither the answer nor the order of classes. It is
the one that makes the labels likeliest, on predictions of networks that had not seen them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.classify.model import MIN_TEMPERATURE, read_weights, save_weights
from spineline.classify.settings import ClassifyCalibrate
from spineline.datasets.common.arrays import FloatArray, IntArray
from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.files import check_output
from spineline.datasets.common.log import LOG
from spineline.datasets.crops.grades_csv import read_grades
from spineline.datasets.labels import SEVEN_NAMES, kind_of_level
from spineline.datasets.metrics.grades import calibration_error
from spineline.weights import resolve

_STEPS = 60  # halvings of the range of inverse temperatures


@dataclass(frozen=True, slots=True)
class Graded:
    """Out-of-fold predictions of one head.

    Attributes:
        log_p: (N, C) logarithms of probabilities, -inf for classes that are ruled out.
        true: (N,) the label's class.
        fold: (N,) of the network that made them.
    """

    log_p: FloatArray
    true: IntArray
    fold: IntArray


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a temperature does to one head.

    Attributes:
        temperature: fitted on all predictions.
        by_fold: those fitted without each fold; empty where folds are not told apart.
        ece_before: expected calibration error as the predictions are.
        ece_after: with each fold's temperature fitted on the others; on the predictions that it
            was fitted on where folds are not told apart.
        n: predictions counted.
    """

    temperature: float
    by_fold: tuple[float, ...]
    ece_before: float
    ece_after: float
    n: int


@dataclass(frozen=True, slots=True)
class CalibrateResult:
    """What ``classify calibrate`` made.

    Attributes:
        out: the weights file.
        heads: by head, ``seven`` and ``binary`` as far as the weights have them.
    """

    out: Path
    heads: dict[str, Calibration]


def calibrate(settings: ClassifyCalibrate) -> CalibrateResult:
    """Fit a temperature for each head and write the weights with it.

    A head whose calibration error would not fall keeps its probabilities.

    Raises:
        AnnotationError: predictions that cannot be read, or have no such head.
        ConfigError: ``out`` is no ``.safetensors`` file.
        WeightsError: the weights cannot be used.
        OutputExistsError: ``out`` exists.
    """
    if settings.out.suffix != ".safetensors":
        raise ConfigError(f"out={settings.out}: wanted a file that ends in .safetensors")
    check_output(settings.out, overwrite=settings.overwrite)
    weights = resolve(settings.model, task="classify", trust=settings.trust)
    state, config = read_weights(weights.path, trust=settings.trust)
    rows = read_grades(settings.predictions)
    found: dict[str, Calibration] = {}
    for head in config.outputs():
        found[head] = calibration(_graded(rows, head, settings.predictions[0]))
        _tell(head, found[head])
    kept = {name: c.temperature for name, c in found.items() if c.ece_after < c.ece_before}
    config = replace(
        config,
        temperature_seven=kept.get("seven", 1.0),
        temperature_binary=kept.get("binary", 1.0),
    )
    save_weights(settings.out, state, config, half=settings.half)
    LOG.info("%s written", settings.out)
    return CalibrateResult(settings.out, found)


def _tell(head: str, found: Calibration) -> None:
    how = "cross-fitted" if found.by_fold else "fitted and scored on the same predictions"
    more = "" if found.ece_after < found.ece_before else "; not better, left at 1"
    LOG.info(
        "%s: temperature %.4f, ECE %.4f before, %.4f after (%s, n %d)%s",
        head, found.temperature, found.ece_before, found.ece_after, how, found.n, more,
    )  # fmt: skip


def _graded(rows: Sequence[Mapping[str, str]], head: str, file: Path) -> Graded:
    """The predictions of one head; those of v5 are of discs alone."""
    columns = [f"p_{name}" for name in SEVEN_NAMES] if head == "seven" else ["p_v5"]
    if head == "binary":
        rows = [row for row in rows if kind_of_level(row["level"]) == "disc"]
    try:
        p = np.array([[float(row[name]) for name in columns] for row in rows], dtype=np.float64)
        true = np.array([int(row[head]) for row in rows], dtype=np.int64)
        fold = np.array([int(row["fold"]) for row in rows], dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        msg = f"{file}: has no probabilities of head {head} ({error})"
        raise AnnotationError(msg) from error
    if not len(p) or not np.isfinite(p).all() or (p < 0).any() or (p > 1).any():
        raise AnnotationError(f"{file}: head {head} has no predictions, or such as are no numbers")
    if head == "binary":
        p = np.concatenate([1 - p, p], axis=1)
    if true.min() < 0 or true.max() >= p.shape[1]:
        raise AnnotationError(f"{file}: a code of {head} is out of 0 … {p.shape[1] - 1}")
    with np.errstate(divide="ignore"):
        return Graded(np.log(p), true, fold)


def calibration(graded: Graded) -> Calibration:
    """The temperature of a head, and what it does to the calibration error."""
    folds = sorted(set(graded.fold.tolist()))
    temperature = fit_temperature(graded.log_p, graded.true)
    by_fold: tuple[float, ...] = ()
    applied = np.full(len(graded.true), temperature)
    if len(folds) > 1:
        others = [graded.fold != fold for fold in folds]
        by_fold = tuple(fit_temperature(graded.log_p[o], graded.true[o]) for o in others)
        for own, value in zip(others, by_fold, strict=True):
            applied[~own] = value
    before, after = (
        _head_ece(tempered(graded.log_p, t), graded.true) for t in (np.ones(1), applied)
    )
    return Calibration(temperature, by_fold, before, after, len(graded.true))


def _head_ece(p: FloatArray, true: IntArray) -> float:
    """ECE of the answer's probability, or with two classes of that of the second."""
    stated, happened = p.max(axis=1), p.argmax(axis=1) == true
    if p.shape[1] == 2:
        stated, happened = p[:, 1], true == 1
    return float(calibration_error(np.ones((1, 1)), np.zeros_like(true), stated, happened)[0])


def tempered(log_p: FloatArray, temperature: npt.ArrayLike) -> FloatArray:
    """(N, C) probabilities whose logarithms are divided by temperatures (N,) or (1,)."""
    scaled = log_p / np.asarray(temperature, dtype=np.float64)[:, None]
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def fit_temperature(log_p: FloatArray, true: IntArray) -> float:
    """The temperature that makes the labels likeliest, within the range that weights may have.

    The mean negative log-likelihood is convex in the inverse temperature; its slope there is the
    expected less the found logarithm, and is halved in on.

    Args:
        log_p: (N, C), -inf for classes that are ruled out.
        true: (N,) labels; those that are ruled out are not counted.
    """
    counted = np.isfinite(log_p[np.arange(len(true)), true])
    log_p, true = log_p[counted], true[counted]
    found = log_p[np.arange(len(true)), true]
    finite = np.where(np.isfinite(log_p), log_p, 0.0)
    low, high = MIN_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(_STEPS):
        middle = float(np.sqrt(low * high))
        expected = (tempered(log_p, [1 / middle]) * finite).sum(axis=1)
        low, high = (middle, high) if (expected - found).sum() < 0 else (low, middle)
    return round(1 / float(np.sqrt(low * high)), 4)
