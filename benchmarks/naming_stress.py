"""Names under stress: whether names of unseen, modified spines are right, or come with a warning.

    python benchmarks/naming_stress.py annotations=LABELS.json images=FRAMES folds=FOLDS \\
        external=EXTERNAL/spider out=OUT page=docs/results.md

`python benchmarks/naming_stress.py help` lists the keys. Data:

- the frames of `annotations` and `images` (the report's source), each with the networks of the fold
  that did not see it: `folds` holds a `fold_weights.json`, as for `pipeline val folds=`;
- `external`, a folder with `points.json` (image, patient, points by level) and `images/`: the
  patients of `patients` (the test part by default), with the networks of `weights`.

Every spine is analysed unchanged and under each change of `stress_set.STRESSES`; the random draws
depend on `seed`, the spine and the change. A spine is

- *abstained* if nothing was found, its frame was refused, or its naming is marked as a guess;
- *right* if more than half of the structures that lie on a labelled place have its name; if a
  vertebra was removed or inserted, *all* of them, counted from the sacrum;
- *wrong with a warning* if neither applies, and there is a warning of `WARNED`;
- *wrong without a warning* otherwise.

*Doubted* are the right ones with such a warning. A structure lies on a labelled place if the
level's centre is less than half the distance between neighbours away.

`stress.json` (all rows), `stress.md` (the table) and `reliability.png` are written into `out`.
`fit=true` fits the probability of a naming on half of the patients, by the hash of the patient's
name. It prints the constants of `pipeline/inference/naming.py` and their results on the other half
(`LEAST_PROBABILITY` is the default of `min_naming_probability`). `rows=stress.json` uses the rows
of an earlier run, so that fitting and drawing take a second.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from default_weights import TEST_PATIENTS
from harness import parse_words
from pages import folded, write_section
from stress_set import STRESSES, Spine, drawn_by, inside, rung_of

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.files import (
    check_output,
    read_json,
    staged_folder,
    write_bytes,
    write_json,
    write_text,
)
from spineline.datasets.common.plots import figure_png, new_figure
from spineline.datasets.common.remarks import Remark
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.dicom.geometry import Reorientation
from spineline.datasets.images import read_uint8_image, window_to_uint8
from spineline.datasets.labels import LEVELS
from spineline.datasets.metrics.grades import calibration_error
from spineline.pipeline.evaluation.fold_weights import fold_by_study, read_fold_weights
from spineline.pipeline.evaluation.tables import command_line
from spineline.pipeline.inference.ground_truth import load_ground_truth
from spineline.pipeline.inference.naming import COEFFICIENTS, SURE, NamingEvidence
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.settings import GroundTruthSettings, ModelSettings
from spineline.pipeline.inference.sources import Frame

WARNED = (
    "naming_in_doubt",
    "naming_abstained",
    "transitional_anatomy",
    "few_levels",
    "not_lumbar_t2",
)
"""Warnings that names may be wrong."""

NO_SACRUM = "naming_in_doubt: sacrum"
"""Code in rows: the naming is in doubt because no sacrum was seen, whatever its probability."""

OUTCOMES = ("right", "abstained", "wrong_warned", "wrong_silent")
HEADS = (
    "stress",
    "spines",
    "right",
    "doubted",
    "abstained",
    "wrong with a warning",
    "wrong without one",
    "right of named",
)
ABOUT = """\
Values are shares of the predictions. *Right*: named, and more than half of what lies on a label has
its name (all of it, if a vertebra was removed or doubled). *Doubted*: right, with a warning that
names may be wrong. *Abstained*: marked as a guess, refused, or nothing found. *Wrong with a
warning* and *without one* are the rest. *Right of named* leaves out abstained predictions."""
BINS = 10
PENALTY = 0.001
"""Penalty on the squared coefficients, which keeps them finite if few namings are wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StressSettings(ModelSettings):
    out: Path = key("folder for rows, table and diagram")
    annotations: Path | None = key("the report's labels", default=None)
    images: Path | None = key("the report's frames", default=None)
    folds: tuple[Path, ...] = key("fold_weights.json of networks by fold", default=())
    external: Path | None = key("folder with points.json and images", default=None)
    patients: tuple[str, ...] = key(
        "of external; all: every one; others: all but the test part",
        default=TEST_PATIENTS,
    )
    without: tuple[str, ...] = key(
        "of external: images left out, such as those that data check finds by levels_disagree",
        default=(),
    )
    stresses: tuple[str, ...] = key("these alone", default=(), choices=tuple(STRESSES))
    every: int = key("of the spines only each n-th", default=1, minimum=1)
    seed: int = key("of what is drawn", default=0, minimum=0)
    rows: Path | None = key(
        "stress.json of an earlier run, to use instead of predicting", default=None
    )
    fit: bool = key("fit the probability of a naming on half of the patients", default=False)
    silent: float = key(
        "largest accepted share of namings that are wrong without a warning",
        default=0.005,
        minimum=0,
        maximum=1,
    )
    right: float = key(
        "smallest accepted share of correct names among those given",
        default=0.99,
        minimum=0,
        maximum=1,
    )
    page: Path | None = key("Markdown page to write a section of", default=None)
    section: str = key("name of that section of page", default="naming-stress")
    title: str = key("heading of the section", default="Names under stress")
    note: str = key("sentences on the data, above the table", default="")
    overwrite: bool = key("replace out", default=False)


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one spine under one change.

    Attributes:
        spine, patient, source: see `Spine`.
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


# ---- spines


def lumbar_spines(settings: StressSettings) -> Iterator[tuple[Spine, int]]:
    """The report's spines, each with the number of its fold (0 without folds)."""
    if settings.annotations is None or settings.images is None:
        return
    folds = read_fold_weights(settings.folds) if settings.folds else ()
    ids = tuple(study for fold in folds for study in fold.studies)
    truth = load_ground_truth(
        GroundTruthSettings(source=settings.images, annotations=settings.annotations, ids=ids)
    )
    records = [item.record for item in truth.truths]
    place = fold_by_study(records, folds) if folds else {}
    for item in truth.truths:
        record, path = item.record, item.case.path
        if path is None:
            raise ConfigError(f"images={settings.images}: wanted frames, found DICOM studies")
        image = window_to_uint8(read_uint8_image(path))
        points = {s.level: s.point_xy for s in record.structures if s.level in LEVELS}
        fold = place[record.study_id][0] if place else 0
        yield Spine(record.image_id, record.study_id, "lumbar", image, points), fold


def external_spines(settings: StressSettings) -> Iterator[Spine]:
    """Spines of other scanners, of the selected patients."""
    if settings.external is None:
        return
    for entry in read_json(settings.external / "points.json"):
        patient = entry["patient"]
        wanted = {"all": True, "others": patient not in TEST_PATIENTS}.get(
            settings.patients[0], patient in settings.patients
        )
        file = settings.external / "images" / entry["image"]
        if wanted and file.stem not in settings.without:
            image = window_to_uint8(read_uint8_image(file))
            points = inside({k: (x, y) for k, (x, y) in entry["points"].items()}, image.shape)
            yield Spine(file.stem, patient, "external", image, points)


# ---- analysis


def look(task: tuple[Spine, str], *, pipeline: Pipeline, seed: int) -> Row:
    """The pipeline's result for a spine under a change."""
    spine, stress = task
    changed = STRESSES[stress](spine, drawn_by(seed, spine.name, stress))
    image = window_to_uint8(changed.image)
    height, width = image.shape
    turn = Reorientation(False, False, False, (height, width))
    frame = Frame("stress", image, turn, width, height)
    analysis = pipeline.analyse([frame])[0]
    result = analysis.result
    codes = warned_codes(result.warnings)
    naming = result.naming
    refused = "not_lumbar_t2" in codes
    found = [(s.level, s.point_xy) for s in result.structures]
    return Row(
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


def names_are_right(spine: Spine, found: Sequence[tuple[str, tuple[float, float]]]) -> bool:
    """Whether names are right, by the rule in the module's docstring."""
    near = rung_of(spine) / 2
    right = wrong = 0
    for level, point in found:
        distance = {k: math.dist(point, xy) for k, xy in spine.points_xy.items()}
        nearest = min(distance, key=distance.__getitem__, default=level)
        if distance.get(nearest, math.inf) < near:
            right, wrong = right + (nearest == level), wrong + (nearest != level)
    return right > (wrong if spine.counted else 0) and (spine.counted or wrong == 0)


def looked_at(settings: StressSettings) -> list[Row]:
    """All rows, spine by spine."""
    folds = read_fold_weights(settings.folds) if settings.folds else ()
    groups: dict[int, list[Spine]] = {}
    for spine, fold in lumbar_spines(settings):
        groups.setdefault(fold, []).append(spine)
    of_fold = {n: fold.applied(settings) for n, fold in enumerate(folds)}
    groups[-1] = list(external_spines(settings))
    stresses = settings.stresses or tuple(STRESSES)
    rows: list[Row] = []
    for fold, spines in sorted(groups.items()):
        if not spines:
            continue
        pipeline = Pipeline.from_settings(of_fold.get(fold, settings))
        work = partial(look, pipeline=replace(pipeline, classifier=None), seed=settings.seed)
        tasks = [(spine, stress) for spine in spines[:: settings.every] for stress in stresses]
        rows += [work(task) for task in tasks]
    if not rows:
        raise ConfigError("wanted annotations=… and images=…, external=…, or rows=…")
    return rows


# ---- counts


def counted(rows: Sequence[Row]) -> dict[str, float]:
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


def table_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A row of the table for each stress, then for all but the plain ones, by source."""
    groups = [(name, [r for r in rows if r.stress == name]) for name in STRESSES]
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source]
        groups += [
            (f"{source}, plain", [r for r in own if r.stress == "plain"]),
            (f"{source}, all", own),
        ]
    groups.append(("all", list(rows)))
    lines = []
    for name, group in groups:
        if group:
            c = counted(group)
            shares = ("right", "doubted", "abstained", "wrong_warned", "wrong_silent")
            cells = (f"{c[share]:.3f}" for share in (*shares, "right_of_named"))
            lines.append((name, str(len(group)), *cells))
    return lines


# ---- reliability


def stated(rows: Sequence[Row]) -> tuple[FloatArray, FloatArray]:
    """(N,) predicted probabilities, and whether those names are right."""
    known = [(row.probability, row.names_right) for row in rows if row.probability is not None]
    probability, right = np.array(known, dtype=np.float64).reshape(-1, 2).T
    return probability, right


def calibration_gap(rows: Sequence[Row]) -> float:
    """Expected calibration error of the predicted probabilities, with `BINS` bins."""
    probability, right = stated(rows)
    one = np.zeros(len(probability), dtype=np.int64)
    return float(calibration_error(np.ones((1, 1)), one, probability, right, bins=BINS)[0])


def reliability_png(rows: Sequence[Row]) -> bytes:
    """Plot the share of right names by predicted probability, for plain and for all images."""
    figure = new_figure(5, 5)
    axes = figure.add_subplot(xlabel="stated probability", ylabel="share of right names")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, group in (("all", rows), ("plain", [r for r in rows if r.stress == "plain"])):
        if not group:
            continue
        probability, right = stated(group)
        place = np.clip(np.ceil(probability * BINS).astype(int) - 1, 0, BINS - 1)
        bins = [place == n for n in range(BINS) if (place == n).any()]
        x, y = ([float(values[b].mean()) for b in bins] for values in (probability, right))
        axes.plot(x, y, marker="o", label=f"{name}, {len(group)}: ECE {calibration_gap(group):.3f}")
        for at, share, chosen in zip(x, y, bins, strict=True):
            axes.annotate(str(int(chosen.sum())), (at, share), fontsize=7)
    axes.legend()
    return figure_png(figure)


# ---- fitting


def in_fit_half(row: Row) -> bool:
    """Whether a row's patient is in the half used for fitting."""
    return hashlib.sha256(row.patient.encode()).digest()[0] % 2 == 0


def fitted(rows: Sequence[Row]) -> dict[str, float]:
    """Coefficients of the log-odds of right names, by Newton steps with a small penalty."""
    names = [name for name in COEFFICIENTS if name != "constant"]
    given = [row for row in rows if row.evidence]
    found = np.array([[row.evidence[name] for name in names] for row in given])
    right = np.array([row.names_right for row in given], dtype=np.float64)
    mean, spread = found.mean(axis=0), found.std(axis=0) + 1e-9
    design = np.column_stack([np.ones(len(found)), (found - mean) / spread])
    penalty = np.diag([0.0, *(PENALTY * len(found) / 10 for _ in names)])
    weights = np.zeros(design.shape[1])
    for _ in range(100):
        share = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (right - share) - penalty @ weights
        bend = (design.T * (share * (1 - share))) @ design + penalty
        weights = weights + np.linalg.solve(bend, slope)
    scaled = weights[1:] / spread
    constant = float(weights[0] - scaled @ mean)
    return {"constant": constant, **dict(zip(names, scaled.tolist(), strict=True))}


def with_coefficients(row: Row, coefficients: Mapping[str, float], least: float) -> Row:
    """The row with other coefficients and another minimum probability."""
    return with_least(with_probability(row, coefficients), least)


def with_probability(row: Row, coefficients: Mapping[str, float]) -> Row:
    """The row with other coefficients and no minimum probability."""
    if not is_judged(row):
        return row
    probability = NamingEvidence(row.evidence["margin"], row.evidence["score"]).probability(
        coefficients
    )
    own = ("naming_in_doubt", "naming_abstained")
    codes = tuple(code for code in row.codes if code not in own)
    return replace(
        row,
        probability=probability,
        abstained=False,
        codes=(*codes, "naming_in_doubt") if probability < SURE else codes,
    )


def with_least(row: Row, least: float) -> Row:
    """The row of `with_probability` with a minimum probability."""
    unlikely = is_judged(row) and row.probability is not None and row.probability < least
    return replace(row, abstained=True) if unlikely else row


def is_judged(row: Row) -> bool:
    """Whether the naming's probability decides if it is abstained."""
    return bool(row.evidence) and "not_lumbar_t2" not in row.codes


def least_probability(
    rows: Sequence[Row], coefficients: Mapping[str, float], settings: StressSettings
) -> float:
    """The lowest minimum with few enough errors without a warning, and names mostly right."""
    judged = [with_probability(row, coefficients) for row in rows]
    for percent in range(100):
        found = counted([with_least(row, percent / 100) for row in judged])
        if found["wrong_silent"] <= settings.silent and found["right_of_named"] >= settings.right:
            return percent / 100
    return 1.0


def fit_text(rows: Sequence[Row], settings: StressSettings) -> str:
    """The constants for the code, and their results on the half not used for fitting."""
    half = [row for row in rows if in_fit_half(row)]
    rest = [row for row in rows if not in_fit_half(row)]
    coefficients = {name: round(value, 4) for name, value in fitted(half).items()}
    least = least_probability(half, coefficients, settings)
    lines = [f"COEFFICIENTS = {coefficients}", f"LEAST_PROBABILITY = {least:g}"]
    for name, group in (("fitted on", half), ("the others", rest)):
        changed = [with_coefficients(row, coefficients, least) for row in group]
        plain = counted([row for row in changed if row.stress == "plain"])
        shares = ", ".join(f"{k} {v:.4f}" for k, v in counted(changed).items())
        lines.append(
            f"{name}: {shares}, ECE {calibration_gap(changed):.4f}; "
            f"plain: coverage {plain['coverage']:.4f}, doubted {plain['doubted']:.4f}"
        )
    return "\n".join(lines)


# ---- the script


def section_text(settings: StressSettings, rows: Sequence[Row]) -> str:
    """The section of the page."""
    hidden = {"out", "page", "overwrite", "rows", "section", "title", "note"}
    words = command_line("", settings).removeprefix("spineline").split()
    shown = [word for word in words if word.partition("=")[0] not in hidden]
    spines = len({(row.source, row.spine) for row in rows})
    patients = len({(row.source, row.patient) for row in rows})
    made = [
        f"- Command: `{' '.join(['python benchmarks/naming_stress.py', *shown])}`",
        f"- Data: {spines} images of {patients} patients, {len(rows)} predictions; "
        f"seed {settings.seed}",
        f"- Expected calibration error of the probability: {calibration_gap(rows):.4f}",
    ]
    lines = [f"## {settings.title}", ""]
    lines += [settings.note, ""] if settings.note else []
    lines += [ABOUT, "", markdown_table(HEADS, table_rows(rows)), ""]
    return "\n".join([*lines, *folded("Command and data", made), ""])


def main(words: list[str]) -> None:
    settings = parse_words(words, StressSettings)
    if settings is None:
        return
    check_output(settings.out, overwrite=settings.overwrite)
    if settings.rows is None:
        rows = looked_at(settings)
    else:
        rows = [
            Row(**{**row, "codes": tuple(row["codes"])}) for row in read_json(settings.rows)["rows"]
        ]
    text = section_text(settings, rows)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_json(stage / "stress.json", {"rows": [asdict(row) for row in rows]})
        write_text(stage / "stress.md", text)
        write_bytes(stage / "reliability.png", reliability_png(rows))
    print(text)
    if settings.fit:
        print(fit_text(rows, settings))
    if settings.page is not None:
        write_section(settings.page, settings.section, text, title="Results")


if __name__ == "__main__":
    run_script(main)
