"""Grades of neighbouring slices of one spine: how often they differ, and the effect of averaging.

    python benchmarks/grades_between_slices.py external=SPIDER classifiers=CLASSIFIER.safetensors \\
        out=OUT page=docs/grade_limits.md

`python benchmarks/grades_between_slices.py help` lists the keys. SPIDER holds ``points.json`` (a
list of ``{image, patient, offset, points: {level: [x, y]}}``, the offset in slices) and ``images``.
Every level is graded at its point in every slice. These spines have no graded labels: agreement is
measured, correctness is not known. Two slices that agree may both be wrong, and if a disc bulges
only to one side, two that differ may both be right.

- *Flips*: share of the levels in two neighbouring slices whose seven-class grade differs, or that
  are normal (P(abnormal) < 0.5) in only one, or V5 in only one.
- *Spread*: standard deviation of a probability over the slices of a level, over levels seen in
  three or more.
- *Averaging*: the slices nearest to the middle, one on each side, are compared directly. Then the
  mean probabilities of all slices on each side are compared. No slice is in both.

With several classifiers, the table has each of them, and their mean probabilities.
`grades_between_slices.json` and `grades_between_slices.md` are written into `out`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import figure_text, parse_words
from labelled_grades import as_one, command_text, figure
from pages import write_section

from spineline.classify import Classifier, CombinedClassifier, load_classifier
from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.files import (
    check_output,
    read_json,
    staged_folder,
    write_json,
    write_text,
)
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.crops.extract import extract_crops
from spineline.datasets.images import read_uint8_image, window_to_uint8
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.metrics.bootstrap import DRAWS, draw_weights, share
from spineline.datasets.metrics.grades import abnormal_probability
from spineline.pipeline.evaluation.stress_set import inside
from spineline.pipeline.evaluation.tables import machine
from spineline.weights import resolve

FLIPS = ("grade", "normal or abnormal", "V5 or not")
MEAN = "mean of all"
KINDS = ("disc", "vertebra")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicesSettings(Settings):
    external: Path = key("folder with points.json and images")
    classifiers: tuple[str, ...] = key(
        "weights files or registry names", default=("lumbar-gradients",)
    )
    out: Path = key("folder for the JSON and the Markdown table")
    device: str = key("cpu, cuda or a number", default="cpu")
    draws: int = key("bootstrap draws over patients", default=DRAWS, minimum=1)
    seed: int = key("of the bootstrap", default=0, minimum=0)
    page: Path | None = key("Markdown page to write a section of", default=None)
    section: str = key("name of that section of page", default="grades-between-slices")
    overwrite: bool = key("replace out", default=False)


@dataclass(frozen=True, slots=True)
class Place:
    """A level in a slice of a patient."""

    patient: str
    level: str
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Predictions for N places: (N, 7) grades, (N,) V5, (N,) anything but v1."""

    seven: FloatArray
    v5: FloatArray
    abnormal: FloatArray

    def mean(self, rows: Sequence[IntArray]) -> Answers:
        """Mean probabilities of groups of rows."""
        return Answers(
            *(np.array([p[group].mean(axis=0) for group in rows])
              for p in (self.seven, self.v5, self.abnormal))
        )  # fmt: skip


def read_slices(folder: Path) -> Iterator[tuple[dict[str, Any], list[Place], FloatArray]]:
    """Each entry of points.json with its levels and points inside the image.

    Raises:
        ConfigError: there is no points.json, or an entry is incomplete.
    """
    file = folder / "points.json"
    if not file.is_file():
        raise ConfigError(f"external={folder}: holds no points.json")
    for number, entry in enumerate(read_json(file)):
        try:
            patient, offset, points = entry["patient"], int(entry["offset"]), entry["points"]
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{file}: entry {number}: wanted image, patient, offset and points ({error!r})"
            raise ConfigError(msg) from error
        levels = [level for level in LEVELS if level in points]
        places = [Place(patient, level, offset) for level in levels]
        yield entry, places, np.array([points[level] for level in levels], dtype=np.float64)


def answers_of(
    settings: SlicesSettings, classifiers: Mapping[str, Classifier | CombinedClassifier]
) -> tuple[list[Place], dict[str, Answers]]:
    """All places, with the predictions of each classifier and of their mean."""
    places: list[Place] = []
    graders = {name: as_one(classifier) for name, classifier in classifiers.items()}
    crops: dict[str, list[Any]] = {name: [[] for _ in g.members] for name, g in graders.items()}
    for entry, levels, points in read_slices(settings.external):
        image = window_to_uint8(read_uint8_image(settings.external / "images" / entry["image"]))
        if len(points) < 2:
            continue  # without a neighbour there is no box
        held = inside({p.level: tuple(xy) for p, xy in zip(levels, points.tolist(), strict=True)},
                      image.shape)  # fmt: skip
        kept = np.array([p.level in held for p in levels])
        boxes = boxes_from_points(points)
        places += [p for p in levels if p.level in held]
        cut = partial(extract_crops, image, points, boxes)
        for name, grader in graders.items():
            for each, own in zip(crops[name], grader.cut(cut), strict=True):
                each.append(own[kept])
    kinds = [kind_of_level(p.level) for p in places]
    found: dict[str, Answers] = {}
    places_in_spine = np.array([LEVELS.index(p.level) for p in places])
    for name, grader in graders.items():
        joined = [np.concatenate(each) for each in crops[name]]
        grades = grader.grade(joined, kinds, levels=places_in_spine)
        if grades.seven is None or grades.binary is None:
            raise ConfigError(f"classifiers={name}: wanted both heads (head=both)")
        found[name] = _answers(kinds, np.float64(grades.seven), np.float64(grades.binary))
    if len(found) > 1:
        each = list(found.values())
        seven, v5 = (np.mean([getattr(a, f) for a in each], axis=0) for f in ("seven", "v5"))
        found[MEAN] = _answers(kinds, seven, v5)
    return places, found


def _answers(kinds: Sequence[str], seven: Any, v5: Any) -> Answers:
    normal = np.where(np.array(kinds) == "disc", seven[:, 2], seven[:, 0])
    return Answers(seven, v5, abnormal_probability(normal, v5))


def flipped(one: Answers, other: Answers) -> dict[str, BoolArray]:
    """Whether rows differ between two predictions, by `FLIPS`."""
    pairs = (
        (one.seven.argmax(axis=1), other.seven.argmax(axis=1)),
        (one.abnormal >= 0.5, other.abnormal >= 0.5),
        (one.v5 >= 0.5, other.v5 >= 0.5),
    )
    return {name: a != b for name, (a, b) in zip(FLIPS, pairs, strict=True)}


def by_level(places: Sequence[Place]) -> dict[tuple[str, str], list[int]]:
    """Rows of each level of each patient, from one side to the other."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row, place in sorted(enumerate(places), key=lambda item: item[1].offset):
        groups.setdefault((place.patient, place.level), []).append(row)
    return dict(sorted(groups.items()))


def compared(
    places: Sequence[Place], answers: Answers, settings: SlicesSettings
) -> dict[str, dict[str, Any]]:
    """Flips, spread and averaging, by kind."""
    patients = sorted({p.patient for p in places})
    weights = draw_weights(len(patients), settings.draws, seed=settings.seed)
    found = {}
    for kind in KINDS:
        groups = {k: rows for k, rows in by_level(places).items() if kind_of_level(k[1]) == kind}
        pairs = [(k, a, b) for k, rows in groups.items() for a, b in itertools.pairwise(rows)]
        sides = [(k, s) for k, rows in groups.items() if (s := _sides(places, rows)) is not None]
        spread = [
            (answers.abnormal[rows].std(), answers.v5[rows].std())
            for rows in groups.values()
            if len(rows) > 2
        ]
        if not pairs or not sides or not spread:
            raise ConfigError(f"external={settings.external}: no {kind} is seen on both sides")

        def shares(keys: Sequence[tuple[str, str]], one: Answers, other: Answers) -> dict[str, Any]:
            study = np.array([patients.index(patient) for patient, _ in keys])
            every = np.ones(len(keys), dtype=np.bool_)
            return {
                name: figure(*share(weights, study, flips, every))
                for name, flips in flipped(one, other).items()
            }

        def taken(rows: Sequence[Sequence[int]]) -> Answers:
            return answers.mean([np.array(group) for group in rows])

        own = np.array([row for rows in groups.values() for row in rows])
        keys = [k for k, _, _ in pairs]
        near = ([left[-1:] for _, (left, _) in sides], [right[:1] for _, (_, right) in sides])
        whole = ([left for _, (left, _) in sides], [right for _, (_, right) in sides])
        found[kind] = {
            "called_abnormal": round(float((answers.abnormal[own] >= 0.5).mean()), 6),
            "flips": shares(keys, taken([[a] for _, a, _ in pairs]),
                            taken([[b] for _, _, b in pairs])),
            "spread": _spread(np.array(spread)),
            "one slice a side": shares([k for k, _ in sides], taken(near[0]), taken(near[1])),
            "mean of a side": shares([k for k, _ in sides], taken(whole[0]), taken(whole[1])),
        }  # fmt: skip
    return found


def _sides(places: Sequence[Place], rows: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Rows on either side of the middle slice; None if a side has fewer than two."""
    left = [row for row in rows if places[row].offset < 0]
    right = [row for row in rows if places[row].offset > 0]
    return (left, right) if min(len(left), len(right)) > 1 else None


def _spread(values: FloatArray) -> dict[str, Any]:
    names = ("abnormal", "V5")
    return {
        name: {"median": round(float(np.median(column)), 6),
               "p90": round(float(np.percentile(column, 90)), 6), "n": len(column)}
        for name, column in zip(names, values.T, strict=True)
    }  # fmt: skip


ABOUT = """\
Every level is graded at its marked point in each slice of spines from other scanners, three slices
apart. **Nobody has graded these spines: agreement is measured, and whether a grade is right is not
known.** Slices that agree may all be wrong, and a finding on only one side may rightly differ. A
*flip* is a different grade in the neighbouring slice; *spread* is the standard deviation of a
probability over the slices of a level. Vertebrae have no V5. If nearly all structures are called
abnormal, few can flip, so few flips are no sign of quality."""

AVERAGED = """\
The next table shows the effect of averaging, on levels with two or more slices on each side of the
middle. First, the nearest slices of the two sides are compared, then the mean probabilities of each
side. The sides share no slice, so their means do not agree merely because they share data. A mean
reaches farther from the middle than the slice that it is compared with."""


def section_text(
    settings: SlicesSettings, about: str, found: Mapping[str, Mapping[str, Any]]
) -> str:
    """The section of the page."""
    heads = ("classifier", "kind", "called abnormal", "pairs", *(f"{f}: flips" for f in FLIPS),
             "spread of P(abnormal): median, 90 %", "of P(V5)")  # fmt: skip
    rows, sides = [], []
    for name, kinds in found.items():
        for kind, each in kinds.items():
            spread = [f"{s['median']:.3f}, {s['p90']:.3f}" for s in each["spread"].values()]
            pairs = str(each["flips"]["grade"]["n"])
            called = f"{each['called_abnormal']:.3f}"
            rows.append((name, kind, called, pairs, *_flip_cells(each["flips"], kind), *spread))
            for way in ("one slice a side", "mean of a side"):
                n = str(each[way]["grade"]["n"])
                sides.append((name, kind, way, n, *_flip_cells(each[way], kind)))
            if kind == "vertebra":
                rows[-1] = (*rows[-1][:-1], "")
    lines = [
        "## Grades of neighbouring slices", "", ABOUT, "",
        f"- Command: `{command_text('grades_between_slices', settings)}`",
        f"- Data: {about}; {settings.draws} draws over patients, seed {settings.seed}",
        f"- Machine: {machine()}", "",
        markdown_table(heads, rows), "", AVERAGED, "",
        markdown_table(("classifier", "kind", "compared", "levels",
                        *(f"{f}: flips" for f in FLIPS)), sides), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _flip_cells(flips: Mapping[str, Any], kind: str) -> list[str]:
    return [
        "" if kind == "vertebra" and name == FLIPS[2] else figure_text(f["value"], f["ci95"])
        for name, f in flips.items()
    ]


def main(words: list[str]) -> None:
    settings = parse_words(words, SlicesSettings)
    if settings is None:
        return
    check_output(settings.out, overwrite=settings.overwrite)
    classifiers = {
        Path(name).stem: load_classifier(resolve(name, task="classify").path,
                                         device=settings.device)
        for name in settings.classifiers
    }  # fmt: skip
    places, answers = answers_of(settings, classifiers)
    slices = len({(p.patient, p.offset) for p in places})
    about = f"{slices} slices of {len({p.patient for p in places})} patients, {len(places)} places"
    found = {name: compared(places, each, settings) for name, each in answers.items()}
    text = section_text(settings, about, found)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        head = {"command": command_text("grades_between_slices", settings), "data": about}
        write_json(stage / "grades_between_slices.json", {**head, "classifiers": found})
        write_text(stage / "grades_between_slices.md", text)
    print(text)
    if settings.page is not None:
        write_section(settings.page, settings.section, text, title="Limits of the grades")


if __name__ == "__main__":
    run_script(main)
