"""Names under stress: whether names of unseen, modified spines are right, or come with a warning.

    python benchmarks/naming_stress.py annotations=LABELS.json images=FRAMES folds=FOLDS \\
        external=EXTERNAL/spider out=OUT page=docs/results.md

`python benchmarks/naming_stress.py help` lists the keys. Data:

- the frames of `annotations` and `images` (the report's source), each with the networks of the fold
  that did not see it: `folds` holds a `fold_weights.json`, as for `pipeline val folds=`;
- `external`, a folder with `points.json` (image, patient, points by level) and `images/`: the
  patients of `patients` (the test part by default), with the networks of `weights`.

Every spine is analysed unchanged and under each change of the stress set, and counted as right,
doubted, abstained, or wrong with or without a warning: see
[spineline.pipeline.evaluation.naming_stress][].

`stress.json` (all rows), `stress.md` (the table) and `reliability.png` are written into `out`.
`fit=true` fits the probability of a naming on half of the patients, by the hash of the patient's
name. It prints the constants of `pipeline/inference/naming.py` and their results on the other half
(`LEAST_PROBABILITY` is the default of `min_naming_probability`). `rows=stress.json` uses the rows
of an earlier run, less those that `without` and `stresses` leave out, so that fitting and drawing
take a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from default_weights import TEST_PATIENTS
from harness import parse_words
from pages import folded, write_section

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.files import (
    check_output,
    read_json,
    staged_folder,
    write_bytes,
    write_json,
    write_text,
)
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.images import read_uint8_image, window_to_uint8
from spineline.datasets.labels import LEVELS
from spineline.pipeline.evaluation.fold_weights import fold_by_study, read_fold_weights
from spineline.pipeline.evaluation.naming_stress import (
    StressRow,
    calibration_gap,
    fit_coefficients,
    named_spines,
    outcome_shares,
    reliability_png,
    row_from_json,
    with_coefficients,
    with_minimum,
    with_probability,
)
from spineline.pipeline.evaluation.stress_set import STRESSES, LabelledSpine, inside
from spineline.pipeline.evaluation.tables import command_line
from spineline.pipeline.inference.ground_truth import load_ground_truth
from spineline.pipeline.inference.naming import NamingCoefficients
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.settings import GroundTruthSettings, ModelSettings

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


# ---- spines


def lumbar_spines(settings: StressSettings) -> Iterator[tuple[LabelledSpine, int]]:
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
        yield LabelledSpine(record.image_id, record.study_id, "lumbar", image, points), fold


def external_spines(settings: StressSettings) -> Iterator[LabelledSpine]:
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
            yield LabelledSpine(file.stem, patient, "external", image, points)


# ---- analysis


def looked_at(settings: StressSettings) -> list[StressRow]:
    """All rows, spine by spine."""
    folds = read_fold_weights(settings.folds) if settings.folds else ()
    groups: dict[int, list[LabelledSpine]] = {}
    for spine, fold in lumbar_spines(settings):
        groups.setdefault(fold, []).append(spine)
    of_fold = {n: fold.applied(settings) for n, fold in enumerate(folds)}
    groups[-1] = list(external_spines(settings))
    rows: list[StressRow] = []
    for fold, spines in sorted(groups.items()):
        if not spines:
            continue
        pipeline = Pipeline.from_settings(of_fold.get(fold, settings))
        rows += named_spines(
            pipeline,
            spines[:: settings.every],
            stresses=settings.stresses,
            seed=settings.seed,
        )
    if not rows:
        raise ConfigError("wanted annotations=… and images=…, external=…, or rows=…")
    return rows


# ---- counts


def table_rows(rows: Sequence[StressRow]) -> list[tuple[str, ...]]:
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
            c = outcome_shares(group)
            shares = ("right", "doubted", "abstained", "wrong_warned", "wrong_silent")
            cells = (f"{c[share]:.3f}" for share in (*shares, "right_of_named"))
            lines.append((name, str(len(group)), *cells))
    return lines


# ---- fitting


def in_fit_half(row: StressRow) -> bool:
    """Whether a row's patient is in the half used for fitting."""
    return hashlib.sha256(row.patient.encode()).digest()[0] % 2 == 0


def least_probability(
    rows: Sequence[StressRow], coefficients: NamingCoefficients, settings: StressSettings
) -> float:
    """The lowest minimum with few enough errors without a warning, and names mostly right."""
    judged = [with_probability(row, coefficients) for row in rows]
    for percent in range(100):
        found = outcome_shares([with_minimum(row, percent / 100) for row in judged])
        if found["wrong_silent"] <= settings.silent and found["right_of_named"] >= settings.right:
            return percent / 100
    return 1.0


def fit_text(rows: Sequence[StressRow], settings: StressSettings) -> str:
    """The constants for the code, and their results on the half not used for fitting."""
    half = [row for row in rows if in_fit_half(row)]
    rest = [row for row in rows if not in_fit_half(row)]
    found = asdict(fit_coefficients(half))
    coefficients = NamingCoefficients(**{name: round(value, 4) for name, value in found.items()})
    least = least_probability(half, coefficients, settings)
    lines = [f"COEFFICIENTS = {coefficients}", f"LEAST_PROBABILITY = {least:g}"]
    for name, group in (("fitted on", half), ("the others", rest)):
        changed = [with_coefficients(row, coefficients, least) for row in group]
        plain = outcome_shares([row for row in changed if row.stress == "plain"])
        shares = ", ".join(f"{k} {v:.4f}" for k, v in outcome_shares(changed).items())
        lines.append(
            f"{name}: {shares}, ECE {calibration_gap(changed):.4f}; "
            f"plain: coverage {plain['coverage']:.4f}, doubted {plain['doubted']:.4f}"
        )
    return "\n".join(lines)


# ---- the script


def section_text(settings: StressSettings, rows: Sequence[StressRow]) -> str:
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
        known = [row_from_json(row) for row in read_json(settings.rows)["rows"]]
        wanted = settings.stresses or tuple(STRESSES)
        rows = [r for r in known if r.stress in wanted and r.spine not in settings.without]
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
