"""Names of modified spines: whether they are right, or come with a warning, and how sure they are.

Every spine is analysed unchanged and under changes of `STRESSES`; the random draws depend on a
seed, the spine and the change. A spine is

- *abstained* if nothing was found, its frame was refused, or its naming is marked as a guess;
- *right* if more than half of the structures that lie on a labelled place have its name; if a
  vertebra was removed or inserted, *all* of them, counted from the sacrum;
- *wrong with a warning* if neither applies, and there is a warning of `WARNED`;
- *wrong without a warning* otherwise.

*Doubted* are the right ones with such a warning. A structure lies on a labelled place if the
level's centre is less than half the distance between neighbours away.

[fit_coefficients][] fits the probability of a naming to such rows, see
[spineline.pipeline.inference.naming][].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.log import progress
from spineline.datasets.common.plots import figure_png, new_figure
from spineline.datasets.common.remarks import Remark
from spineline.datasets.dicom.geometry import Reorientation
from spineline.datasets.images import window_to_uint8
from spineline.datasets.metrics.grades import calibration_error
from spineline.pipeline.evaluation.naming import BINS
from spineline.pipeline.evaluation.stress_set import (
    STRESSES,
    LabelledSpine,
    drawn_by,
    level_distance_px,
)
from spineline.pipeline.inference.naming import SURE, NamingCoefficients, NamingEvidence
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.sources.frame import Frame

WARNED = (
    "naming_in_doubt",
    "naming_abstained",
    "transitional_anatomy",
    "few_levels",
    "not_lumbar_t2",
    "suitability_in_doubt",
)
"""Warnings that names may be wrong."""

NO_SACRUM = "naming_in_doubt: sacrum"
"""Code in rows: the naming is in doubt because no sacrum was seen, whatever its probability."""

OUTCOMES = ("right", "abstained", "wrong_warned", "wrong_silent")

PENALTY = 0.001
"""Penalty on the squared coefficients, which keeps them finite if few namings are wrong."""


@dataclass(frozen=True, slots=True)
class StressRow:
    """The result of one spine under one change.

    Attributes:
        spine, patient, source: see `LabelledSpine`.
        stress: of `STRESSES`.
        levels: number of levels found.
        names_right: whether the names are right, abstained or not.
        abstained: nothing found, refused, or marked as a guess.
        codes: of the warnings in `WARNED`.
        probability: of the naming; None without one.
        evidence: inputs of the probability, by name.
    """

    spine: str
    patient: str
    source: str
    stress: str
    levels: int
    names_right: bool
    abstained: bool
    codes: tuple[str, ...]
    probability: float | None
    evidence: Mapping[str, float]

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        if self.abstained:
            return "abstained"
        if self.names_right:
            return "right"
        return "wrong_warned" if self.codes else "wrong_silent"


def named_spines(
    pipeline: Pipeline,
    spines: Sequence[LabelledSpine],
    *,
    stresses: Sequence[str] = (),
    seed: int,
) -> list[StressRow]:
    """The rows of spines under each change, or under those given; nothing is graded."""
    naming = replace(pipeline, classifier=None)
    tasks = [(spine, stress) for spine in spines for stress in stresses or STRESSES]
    shown = progress(tasks, description="spines under each change")
    return [name_changed_spine(naming, *task, seed=seed) for task in shown]


def row_from_json(content: Mapping[str, Any]) -> StressRow:
    """The row of which ``content`` is the `asdict`, as JSON gives it back.

    Raises:
        TypeError: it is none.
    """
    return StressRow(**{**content, "codes": tuple(content["codes"])})


def name_changed_spine(
    pipeline: Pipeline, spine: LabelledSpine, stress: str, *, seed: int
) -> StressRow:
    """The pipeline's result for a spine under a change of `STRESSES`."""
    changed = STRESSES[stress](spine, drawn_by(seed, spine.name, stress))
    as_is = pipeline.settings.window == "none"
    image = changed.image if as_is else window_to_uint8(changed.image)
    height, width = image.shape
    turn = Reorientation(False, False, False, (height, width))
    frame = Frame("stress", image, turn, width, height)
    analysis = pipeline.analyse([frame])[0]
    result = analysis.result
    codes = warned_codes(result.warnings)
    naming = result.naming
    refused = "not_lumbar_t2" in codes
    found = [(s.level, s.point_xy) for s in result.structures]
    return StressRow(
        spine=spine.name,
        patient=spine.patient,
        source=spine.source,
        stress=stress,
        levels=len(found),
        names_right=names_are_right(changed, found),
        abstained=refused or not found or result.abstained,
        codes=codes,
        probability=None if naming is None else naming.probability,
        evidence={} if naming is None or naming.evidence is None else asdict(naming.evidence),
    )


def warned_codes(warnings: Sequence[Remark]) -> tuple[str, ...]:
    """The codes in `WARNED`; `NO_SACRUM` for a doubt that does not come from the probability."""
    codes = (
        NO_SACRUM
        if warning.code == "naming_in_doubt" and "probability" not in dict(warning.parameters)
        else warning.code
        for warning in warnings
        if warning.code in WARNED
    )
    return tuple(dict.fromkeys(codes))


def names_are_right(spine: LabelledSpine, found: Sequence[tuple[str, tuple[float, float]]]) -> bool:
    """Whether names are right, by the rule in the module's docstring."""
    near = level_distance_px(spine) / 2
    right = wrong = 0
    for level, point in found:
        distance = {k: math.dist(point, xy) for k, xy in spine.points_xy.items()}
        nearest = min(distance, key=distance.__getitem__, default=level)
        if distance.get(nearest, math.inf) < near:
            right, wrong = right + (nearest == level), wrong + (nearest != level)
    return right > (wrong if spine.counted else 0) and (spine.counted or wrong == 0)


def outcome_shares(rows: Sequence[StressRow]) -> dict[str, float]:
    """Shares of the rows."""
    total = len(rows)
    outcomes = Counter(row.outcome for row in rows)
    of = {name: outcomes[name] / total for name in OUTCOMES}
    named = 1 - of["abstained"]
    doubted = sum(bool(row.codes) and row.outcome == "right" for row in rows) / total
    return {
        "spines": total,
        **of,
        "doubted": doubted,
        "coverage": named,
        "right_of_named": of["right"] / named if named else math.nan,
    }


def stated_probabilities(rows: Sequence[StressRow]) -> tuple[FloatArray, FloatArray]:
    """(N,) predicted probabilities, and whether those names are right."""
    known = [(row.probability, row.names_right) for row in rows if row.probability is not None]
    probability, right = np.array(known, dtype=np.float64).reshape(-1, 2).T
    return probability, right


def calibration_gap(rows: Sequence[StressRow]) -> float:
    """Expected calibration error of the predicted probabilities, with `BINS` bins."""
    probability, right = stated_probabilities(rows)
    one = np.zeros(len(probability), dtype=np.int64)
    return float(calibration_error(np.ones((1, 1)), one, probability, right, bins=BINS)[0])


def reliability_png(rows: Sequence[StressRow]) -> bytes:
    """Plot the share of right names by predicted probability, for plain and for all images."""
    figure = new_figure(5, 5)
    axes = figure.add_subplot(xlabel="stated probability", ylabel="share of right names")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, group in (("all", rows), ("plain", [r for r in rows if r.stress == "plain"])):
        if not group:
            continue
        probability, right = stated_probabilities(group)
        place = np.clip(np.ceil(probability * BINS).astype(int) - 1, 0, BINS - 1)
        bins = [place == n for n in range(BINS) if (place == n).any()]
        x, y = ([float(values[b].mean()) for b in bins] for values in (probability, right))
        axes.plot(x, y, marker="o", label=f"{name}, {len(group)}: ECE {calibration_gap(group):.3f}")
        for at, share, chosen in zip(x, y, bins, strict=True):
            axes.annotate(str(int(chosen.sum())), (at, share), fontsize=7)
    axes.legend()
    return figure_png(figure)


def fit_coefficients(rows: Sequence[StressRow]) -> NamingCoefficients:
    """Coefficients of the log-odds of right names, by Newton steps with a small penalty."""
    given = [row for row in rows if is_judged(row)]
    found = np.array([[row.evidence["margin"], row.evidence["score"]] for row in given])
    right = np.array([row.names_right for row in given], dtype=np.float64)
    mean, spread = found.mean(axis=0), found.std(axis=0) + 1e-9
    design = np.column_stack([np.ones(len(found)), (found - mean) / spread])
    slight = PENALTY * len(found) / 10
    penalty = np.diag([0.0, slight, slight])
    weights = np.zeros(design.shape[1])
    for _ in range(100):
        share = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (right - share) - penalty @ weights
        bend = (design.T * (share * (1 - share))) @ design + penalty
        weights = weights + np.linalg.solve(bend, slope)
    margin, score = (float(value) for value in weights[1:] / spread)
    constant = float(weights[0] - margin * mean[0] - score * mean[1])
    return NamingCoefficients(constant, margin, score)


def with_coefficients(row: StressRow, coefficients: NamingCoefficients, least: float) -> StressRow:
    """The row with other coefficients and another minimum probability."""
    return with_minimum(with_probability(row, coefficients), least)


def with_probability(row: StressRow, coefficients: NamingCoefficients) -> StressRow:
    """The row with other coefficients and no minimum probability."""
    if not is_judged(row):
        return row
    probability = NamingEvidence(**row.evidence).probability(coefficients)
    own = ("naming_in_doubt", "naming_abstained")
    codes = tuple(code for code in row.codes if code not in own)
    return replace(
        row,
        probability=probability,
        abstained=False,
        codes=(*codes, "naming_in_doubt") if probability < SURE else codes,
    )


def with_minimum(row: StressRow, least: float) -> StressRow:
    """The row of `with_probability` with a minimum probability."""
    unlikely = is_judged(row) and row.probability is not None and row.probability < least
    return replace(row, abstained=True) if unlikely else row


def is_judged(row: StressRow) -> bool:
    """Whether the naming's probability decides if it is abstained."""
    return bool(row.evidence) and "not_lumbar_t2" not in row.codes
