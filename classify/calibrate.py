"""``spineline classify calibrate``: temperature, combination of classifiers, threshold of v5.

Temperature scaling divides a head's logits by one number, which changes neither the predicted class
nor the order of classes. Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
The temperature maximises the likelihood of the labels, on predictions of networks that had not seen
them. For several classifiers, it is fitted to their mean; see [spineline.classify.combined][].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from torch import Tensor

from spineline.classify.combined import (
    Combination,
    MemberKind,
    answering,
    given_shares,
    has_head,
    heads_together,
    mean_probabilities,
    tempered,
    two_classes,
    with_temperature,
)
from spineline.classify.network.layers import MIN_TEMPERATURE, NetworkConfig
from spineline.classify.network.weights_file import read_weights, save_combined, save_weights
from spineline.classify.recipe import Head
from spineline.classify.settings import ClassifyCalibrate
from spineline.datasets.common.arrays import BoolArray, Float32Array, FloatArray, IntArray
from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.files import check_output
from spineline.datasets.common.log import LOG
from spineline.datasets.common.yaml_files import read_yaml
from spineline.datasets.crops.grades_csv import read_grades
from spineline.datasets.labels import SEVEN_NAMES, Kind, kind_of_level
from spineline.datasets.metrics.grades import V5_THRESHOLD, calibration_error
from spineline.datasets.metrics.kind_masks import masked_seven
from spineline.weights import WeightsFile, names_in_list, resolve_classifiers

_SHARE_STEPS = 20_000
_STEPS = 60  # halvings of the range of inverse temperatures


@dataclass(frozen=True, slots=True)
class Graded:
    """Out-of-fold predictions of one head.

    Attributes:
        log_p: (N, C) log-probabilities, -inf for excluded classes.
        true: (N,) class of the label.
        fold: (N,) fold of the network that made the prediction.
    """

    log_p: FloatArray
    true: IntArray
    fold: IntArray


@dataclass(frozen=True, slots=True)
class Calibration:
    """The effect of a temperature on one head.

    Attributes:
        temperature: fitted on all predictions.
        by_fold: temperatures fitted without each fold; empty if the folds are unknown.
        ece_before: expected calibration error of the predictions as they are.
        ece_after: expected calibration error with each fold's temperature fitted on the other
            folds; if the folds are unknown, on the predictions that it was fitted on.
        n: number of predictions.
    """

    temperature: float
    by_fold: tuple[float, ...]
    ece_before: float
    ece_after: float
    n: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """The probability from which v5 is called, and its effect on the predictions.

    Attributes:
        value: the threshold.
        sensitivity, specificity: on the predictions that it was chosen on; None if undefined.
        cross_fitted: both rates with each fold's threshold chosen on the other folds; None if the
            folds are unknown.
    """

    value: float
    sensitivity: float | None
    specificity: float | None
    cross_fitted: tuple[float | None, float | None] | None


@dataclass(frozen=True, slots=True)
class CalibrateResult:
    """The output of ``classify calibrate``.

    Attributes:
        out: the weights file.
        heads: calibration of ``seven`` and ``binary``, as far as the weights have these heads.
        shares: by head, the shares of several classifiers.
        threshold: of v5, if one was requested.
    """

    out: Path
    heads: dict[str, Calibration]
    shares: Mapping[str, tuple[float, ...]] | None = None
    threshold: Threshold | None = None


_LoadedMember = tuple[dict[str, Tensor], NetworkConfig]
_Rows = list[dict[str, str]]


def calibrate(settings: ClassifyCalibrate) -> CalibrateResult:
    """Fit a temperature for each head and write the weights with it.

    A head whose calibration error would not fall keeps its probabilities. For several classifiers,
    their mean is calibrated, and one file holds all of them.

    Raises:
        AnnotationError: predictions that cannot be read, lack the head, or cover other structures
            than those of another classifier.
        ConfigError: ``out`` is not a ``.safetensors`` file, or the keys contradict each other.
        WeightsError: the weights cannot be used.
        OutputExistsError: ``out`` exists.
    """
    if settings.out.suffix != ".safetensors":
        raise ConfigError(f"out={settings.out}: wanted a file that ends in .safetensors")
    check_output(settings.out, overwrite=settings.overwrite)
    files = resolve_classifiers(settings.model, trust=settings.trust)
    members = [read_weights(file.path, trust=settings.trust) for file in files]
    for file, (_, config) in zip(files, members, strict=True):
        _check_untempered(settings.predictions, file, config)
    rows = _rows_of_members(settings.predictions, len(files))
    if len(members) > 1 or settings.tau or settings.specificity is not None:
        return _calibrate_combined(settings, members, rows)
    if settings.shares != "equal" or settings.kinds:
        name = "shares" if settings.shares != "equal" else "kinds"
        given = settings.shares if name == "shares" else ",".join(settings.kinds)
        raise ConfigError(f"{name}={given}: of several models; one was given")
    state, config = members[0]
    found: dict[str, Calibration] = {}
    for head in config.outputs():
        found[head] = calibration(_graded(rows[0], head, settings.predictions[0]))
        _log_calibration(head, found[head])
    kept = _kept(found)
    config = replace(
        config,
        temperature_seven=kept.get("seven", 1.0),
        temperature_binary=kept.get("binary", 1.0),
    )
    save_weights(settings.out, state, config, half=settings.half)
    LOG.info("%s written", settings.out)
    return CalibrateResult(settings.out, found)


def _check_untempered(
    predictions: Sequence[Path], file: WeightsFile, config: NetworkConfig
) -> None:
    """Refuse predictions that these weights made with a temperature, which would be lost.

    Raises:
        ConfigError: ``run.yaml`` beside the predictions records such a temperature.
    """
    if config.temperature_seven == config.temperature_binary == 1:
        return
    for place in predictions:
        record = (place if place.is_dir() else place.parent) / "run.yaml"
        try:
            same = read_yaml(record)["weights"]["sha256"] == file.sha256
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no record of how they were made
        if same:
            msg = (
                f"predictions={place}: were made with the temperature that {file.name} holds "
                "already; give those of networks without one, as kfold classify writes them, or "
                "classify val of the weights that classify train wrote"
            )
            raise ConfigError(msg)


def _kept(found: Mapping[str, Calibration]) -> dict[str, float]:
    """The temperatures that reduce the calibration error."""
    return {name: c.temperature for name, c in found.items() if c.ece_after < c.ece_before}


def _rows_of_members(predictions: Sequence[Path], models: int) -> list[_Rows]:
    """The rows of each model's predictions, in the same order of structures.

    Raises:
        AnnotationError: not readable, or structures, labels or folds that differ between models.
        ConfigError: several models without one file for each.
    """
    if not predictions:
        raise ConfigError("predictions=: names no file; wanted the predictions.csv of each model")
    if models == 1:
        return [read_grades(predictions)]
    if len(predictions) != models:
        msg = (
            f"predictions=…: {len(predictions)} files for {models} models; give one for each "
            "model, in their order"
        )
        raise ConfigError(msg)
    by_place = [_by_structure(read_grades([place]), place) for place in predictions]
    first = by_place[0]
    for place, other in zip(predictions[1:], by_place[1:], strict=True):
        odd = next(iter(sorted(set(first) ^ set(other))), None)
        if odd is not None:
            where = place if odd in first else predictions[0]
            msg = (
                f"{where}: has no line of image {odd[0]!r:.60}, {odd[1]}, which the other model's "
                "predictions have; make both with one folds.json (kfold classify folds=…)"
            )
            raise AnnotationError(msg)
        for key, row in first.items():
            unlike = [n for n in ("seven", "binary", "fold") if row[n] != other[key][n]]
            if unlike:
                msg = (
                    f"{place}: image {key[0]!r:.60}, {key[1]}: {unlike[0]} is "
                    f"{other[key][unlike[0]]!r:.20}, in {predictions[0]} {row[unlike[0]]!r:.20}; "
                    "make both of the same data with one folds.json (kfold classify folds=…)"
                )
                raise AnnotationError(msg)
    return [[each[key] for key in first] for each in by_place]


def _by_structure(rows: _Rows, place: Path) -> dict[tuple[str, str], dict[str, str]]:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        key = row["image"], row["level"]
        if key in found:
            raise AnnotationError(f"{place}: image {key[0]!r:.60}, {key[1]}: occurs twice")
        found[key] = row
    return found


def _calibrate_combined(
    settings: ClassifyCalibrate, members: Sequence[_LoadedMember], rows: Sequence[_Rows]
) -> CalibrateResult:
    """Write all members to one file, with the calibration of their mean."""
    heads = [config.head for _, config in members]
    tables = {
        name: [
            _graded(own, name, file, masked=True) if has_head(head, name) else None
            for own, head, file in zip(rows, heads, settings.predictions, strict=False)
        ]
        for name in heads_together(heads)
    }
    of: list[Kind] = [kind_of_level(row["level"]) for row in rows[0]]
    shares, vertebra = _shares(
        settings.shares, tables, heads, _kinds(settings.kinds, len(heads)), of
    )
    combination = Combination(shares, tau=settings.tau, vertebra=vertebra)
    found: dict[str, Calibration] = {}
    means: dict[str, Graded] = {}
    for name, of_members in tables.items():
        kinds = of if name == "seven" else [kind for kind in of if kind == "disc"]
        means[name] = _mean_of(of_members, combination.shares_of(name, kinds))
        found[name] = calibration(means[name])
        _log_shares(name, of_members, combination, means[name])
        _log_calibration(name, found[name])
    temperature = _kept(found)
    counts = _class_counts(settings.tau, means)
    threshold = _v5_threshold(settings.specificity, means, temperature, rows[0])
    combination = replace(
        combination,
        temperature=temperature,
        counts=counts,
        threshold=V5_THRESHOLD if threshold is None else threshold.value,
    )
    cold = [
        (state, replace(config, temperature_seven=1.0, temperature_binary=1.0))
        for state, config in members
    ]
    save_combined(settings.out, cold, combination, half=settings.half)
    LOG.info("%s written: %d combined classifiers", settings.out, len(cold))
    return CalibrateResult(settings.out, found, shares, threshold)


def _mean_of(members: Sequence[Graded | None], shares: FloatArray) -> Graded:
    """The mean of the members' predictions by shares (members, N)."""
    first = next(each for each in members if each is not None)
    p = [None if each is None else np.exp(each.log_p) for each in members]
    with np.errstate(divide="ignore"):
        return replace(first, log_p=np.log(mean_probabilities(p, shares)))


def _class_counts(tau: float, means: Mapping[str, Graded]) -> tuple[int, ...]:
    """Number of labels of each of the seven classes; empty if tau is 0."""
    if not tau:
        return ()
    if "seven" not in means:
        raise ConfigError(f"tau={tau:g}: no model has a seven-class head to adjust")
    counts = np.bincount(means["seven"].true, minlength=len(SEVEN_NAMES))
    return tuple(counts.tolist())


def _v5_threshold(
    specificity: float | None,
    means: Mapping[str, Graded],
    temperature: Mapping[str, float],
    rows: _Rows,
) -> Threshold | None:
    """The threshold of v5 at the calibrated mean; None if no specificity is required."""
    if specificity is None:
        return None
    if "binary" not in means:
        raise ConfigError(f"specificity={specificity:g}: no model has a binary head")
    v5 = with_temperature(np.exp(means["binary"].log_p), temperature.get("binary", 1.0))[:, 1]
    vertebrae = [int(row["fold"]) for row in rows if kind_of_level(row["level"]) == "vertebra"]
    return _threshold(v5, means["binary"], vertebrae, specificity)


def _kinds(asked: Sequence[str], models: int) -> list[MemberKind]:
    """The kinds that each model grades; empty if all models grade both."""
    known: dict[str, MemberKind] = {name: name for name in get_args(MemberKind)}
    unknown = [word for word in asked if word not in known]
    if unknown or (asked and len(asked) != models):
        msg = f"kinds={','.join(asked):.60}: wanted {', '.join(known)} for each of {models} models"
        raise ConfigError(msg)
    return [known[word] for word in asked] if set(asked) != {"both"} else []


def _shares(
    asked: str,
    tables: Mapping[str, Sequence[Graded | None]],
    heads: Sequence[Head],
    kinds: Sequence[MemberKind],
    of: Sequence[Kind],
) -> tuple[dict[str, tuple[float, ...]], tuple[float, ...]]:
    """Shares by head, and the shares for vertebrae if they differ.

    Args:
        asked: the key ``shares``.
        tables: predictions by head and member.
        heads: of the members.
        kinds: the kinds that each member grades; empty if all members grade both.
        of: the kinds of the structures in the predictions of ``seven``.
    """
    if asked not in ("equal", "fit"):
        try:
            numbers = [float(part) for part in names_in_list(asked)]
        except ValueError as error:
            msg = f"shares={asked:.60}: not an allowed value (equal, fit, or a number for each "
            raise ConfigError(f"{msg}model)") from error
        return given_shares(numbers, heads, kinds)
    shares, vertebra = given_shares([1.0] * len(heads), heads, kinds)
    if asked == "equal":
        return shares, vertebra

    def fitted(name: str, kind: Kind | None) -> tuple[float, ...]:
        rows = np.array([kind in (None, each) for each in of], dtype=np.bool_)
        answers = [True] * len(heads) if kind is None else answering(kinds, len(heads), kind)
        members = [each if may else None for each, may in zip(tables[name], answers, strict=True)]
        return fit_shares([_of_rows(m, rows) if m and name == "seven" else m for m in members])

    shares = {name: fitted(name, "disc" if kinds else None) for name in shares}
    return shares, fitted("seven", "vertebra") if vertebra else ()


def _of_rows(graded: Graded, rows: BoolArray) -> Graded:
    return Graded(graded.log_p[rows], graded.true[rows], graded.fold[rows])


def fit_shares(members: Sequence[Graded | None]) -> tuple[float, ...]:
    """Fit shares that maximise the likelihood of the labels under the mean of probabilities.

    The shares are not negative and add up to 1. The mean log-likelihood of a mixture is concave in
    its weights. A step of expectation maximisation (Dempster et al., 1977) never lowers it and
    stays within the simplex.

    Args:
        members: predictions of the same structures; None for a member without the head.
    """
    own = [n for n, each in enumerate(members) if each is not None]
    likelihood = np.stack([_likelihood(each) for each in members if each is not None], axis=1)
    likelihood = likelihood[likelihood.max(axis=1) > 0]
    weights = np.full(len(own), 1 / len(own))
    for _ in range(_SHARE_STEPS if len(likelihood) else 0):
        parts = likelihood * weights
        better = (parts / parts.sum(axis=1, keepdims=True)).mean(axis=0)
        settled = np.abs(better - weights).max() < 1e-9
        weights = better
        if settled:
            break
    rounded = np.round(weights, 4)
    rounded /= rounded.sum()
    return tuple(float(rounded[own.index(n)]) if n in own else 0.0 for n in range(len(members)))


def _likelihood(graded: Graded) -> FloatArray:
    """(N,) predicted probability of each label."""
    return np.exp(graded.log_p[np.arange(len(graded.true)), graded.true])


def _log_loss(graded: Graded) -> float:
    """Mean log loss over the labels whose class is not excluded."""
    likelihood = _likelihood(graded)
    return float(-np.log(likelihood[likelihood > 0]).mean()) if (likelihood > 0).any() else math.nan


def _log_shares(
    name: str, members: Sequence[Graded | None], combination: Combination, mean: Graded
) -> None:
    """Log the log loss of each member and of the mean."""
    if len(members) == 1:
        return
    vertebra = combination.vertebra if name == "seven" else ()
    LOG.info(
        "%s: shares %s%s; log loss of the members %s, of their mean %.4f",
        name,
        _listed(combination.shares[name]),
        f" (of vertebrae {_listed(vertebra)})" if vertebra else "",
        ", ".join("-" if each is None else f"{_log_loss(each):.4f}" for each in members),
        _log_loss(mean),
    )


def _listed(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.4f}" for share in shares)


def _threshold(
    v5: FloatArray, discs: Graded, vertebrae: Sequence[int], specificity: float
) -> Threshold:
    """The threshold of v5 over all structures, and its effect.

    Args:
        v5: (N,) probabilities of the discs.
        discs: labels and folds of the discs.
        vertebrae: folds of the vertebrae, which count as true negatives.
        specificity: required minimum.
    """
    score = np.concatenate([v5.astype(np.float32), np.zeros(len(vertebrae), np.float32)])
    true = np.concatenate([discs.true == 1, np.zeros(len(vertebrae), dtype=np.bool_)])
    fold = np.concatenate([discs.fold, np.array(vertebrae, dtype=np.int64)])
    value = threshold_at(score, true, specificity)
    folds = sorted(set(fold.tolist()))
    cross: tuple[float | None, float | None] | None = None
    if len(folds) > 1:
        called = np.zeros(len(score), dtype=np.bool_)
        for own in folds:
            other = fold != own
            called[~other] = score[~other] >= threshold_at(score[other], true[other], specificity)
        cross = _rates(called, true)
    found = Threshold(value, *_rates(score >= value, true), cross)
    LOG.info(
        "binary: v5 from %.4f on; sensitivity %s, specificity %s on the predictions%s",
        value,
        *(_shown(rate) for rate in (found.sensitivity, found.specificity)),
        "" if cross is None else f"; {_shown(cross[0])} and {_shown(cross[1])} cross-fitted",
    )
    return found


def _rates(called: BoolArray, true: BoolArray) -> tuple[float | None, float | None]:
    """Sensitivity and specificity; None where there is nothing to count."""
    return (
        float(called[true].mean()) if true.any() else None,
        float((~called[~true]).mean()) if (~true).any() else None,
    )


def _shown(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.4f}"


def threshold_at(score: Float32Array, positive: BoolArray, specificity: float) -> float:
    """The lowest threshold that keeps a specificity; scores at or above it are called.

    Args:
        score: (N,) probabilities; 0 is never called.
        positive: (N,) labels.
        specificity: minimum share of negatives that are not called.

    Raises:
        AnnotationError: there is no negative, or too many negatives have probability 1.
    """
    negatives = np.sort(score[~positive])
    if not len(negatives):
        raise AnnotationError("predictions=…: hold no structure without v5 to be specific about")
    above = np.nextafter(score.max(initial=0), np.float32(2), dtype=np.float32)
    candidates = np.append(np.unique(score[score > 0]), above)
    kept = np.searchsorted(negatives, candidates, side="left") / len(negatives)
    value = float(candidates[np.argmax(kept >= specificity)])
    if value > 1:
        msg = f"specificity={specificity:g}: too many structures without v5 have probability 1"
        raise AnnotationError(f"predictions=…: {msg}")
    return value


def _log_calibration(head: str, found: Calibration) -> None:
    how = "cross-fitted" if found.by_fold else "fitted and scored on the same predictions"
    more = "" if found.ece_after < found.ece_before else "; not better, left at 1"
    LOG.info(
        "%s: temperature %.4f, ECE %.4f before, %.4f after (%s, n %d)%s",
        head, found.temperature, found.ece_before, found.ece_after, how, found.n, more,
    )  # fmt: skip


def _graded(
    rows: Sequence[Mapping[str, str]], head: str, file: Path, *, masked: bool = False
) -> Graded:
    """The predictions of one head; for v5, those of discs only.

    With ``masked``, classes of the other kind are excluded.
    """
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
        raise AnnotationError(f"{file}: head {head} has no predictions, or some are not numbers")
    if head == "binary":
        p = two_classes(p[:, 0])
    elif masked:
        p = masked_seven([kind_of_level(row["level"]) for row in rows], p)
    if true.min() < 0 or true.max() >= p.shape[1]:
        raise AnnotationError(f"{file}: a code of {head} is out of 0 … {p.shape[1] - 1}")
    with np.errstate(divide="ignore"):
        return Graded(np.log(p), true, fold)


def calibration(graded: Graded) -> Calibration:
    """Fit the temperature of a head, and measure its effect on the calibration error."""
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
    """ECE of the predicted class's probability; with two classes, of the second class's."""
    stated, happened = p.max(axis=1), p.argmax(axis=1) == true
    if p.shape[1] == 2:
        stated, happened = p[:, 1], true == 1
    return float(calibration_error(np.ones((1, 1)), np.zeros_like(true), stated, happened)[0])


def fit_temperature(log_p: FloatArray, true: IntArray) -> float:
    """The temperature that maximises the likelihood of the labels, within the allowed range.

    The mean negative log-likelihood is convex in the inverse temperature. Its slope is the expected
    minus the observed log-probability, and its root is found by bisection.

    Args:
        log_p: (N, C), -inf for excluded classes.
        true: (N,) labels; those of excluded classes are ignored.
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
