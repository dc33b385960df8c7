"""Grades under stress: the loss in grading when images look different or boxes are shifted.

    python benchmarks/grades_stress.py labels=LABELS.json frames=FRAMES folds=FOLD_WEIGHTS.json \\
        out=OUT page=docs/grade_limits.md

`python benchmarks/grades_stress.py help` lists the keys; `labelled_grades` describes the data.
Every labelled structure is graded unchanged, then under each change of `STRESSES`. Each metric is
shown with its paired difference from the unchanged one: both sides of a bootstrap draw have the
same studies. `grades_stress.json` and `grades_stress.md` are written into `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from harness import figure_text, parse_words
from labelled_grades import (
    METRICS,
    Labelled,
    LabelledSet,
    LabelledSettings,
    boxes_of,
    command_text,
    difference,
    figure,
    graded,
    read_labelled,
    signed_text,
    study_weights,
)
from pages import write_section

from spineline.datasets import scanner_looks as looks
from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.files import check_output, staged_folder, write_json, write_text
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.pipeline.evaluation.stress_set import STRESSES as NAMING_STRESSES
from spineline.pipeline.evaluation.stress_set import SpineChange, drawn_by, grey
from spineline.pipeline.evaluation.tables import machine

SHIFT = 0.05
"""Shift of a box, as a share of its larger side."""

LOOKS: Mapping[str, SpineChange] = MappingProxyType(
    {
        "plain": NAMING_STRESSES["plain"],
        "gamma 0.5": grey(lambda image, _: looks.gamma(image, 0.5)),
        "gamma 1.6": grey(lambda image, _: looks.gamma(image, 1.6)),
        "blur of 1 px": grey(lambda image, _: looks.blur(image, 1.0)),
        "noise": NAMING_STRESSES["noise"],
        "fat suppressed": NAMING_STRESSES["fat suppressed"],
    }
)
"""Changes of the image, by name."""

SHIFTS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "box up": (0.0, -SHIFT),
        "box down": (0.0, SHIFT),
        "box left": (-SHIFT, 0.0),
        "box right": (SHIFT, 0.0),
    }
)
"""Shifts of every box in x and y, shares of its larger side, by name."""

STRESSES = (*LOOKS, *SHIFTS)
HEADS = ("stress", *(word for name in METRICS for word in (name, "difference")))


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeStressSettings(LabelledSettings):
    section: str = key("name of the section of page", default="grades-stress")


def look_of(stress: str, seed: int) -> Callable[[Labelled], Any]:
    """The image and boxes to grade under a stress."""

    def changed(item: Labelled) -> Any:
        boxes = boxes_of(item.structures)
        if stress in SHIFTS:
            return item.spine.image, shifted(boxes, SHIFTS[stress])
        rng = drawn_by(seed, item.spine.name, stress)
        return LOOKS[stress](item.spine, rng).image, boxes

    return changed


def shifted(boxes_xyxy: FloatArray, shares_xy: tuple[float, float]) -> FloatArray:
    """(N, 4) boxes, each shifted by shares of its larger side."""
    larger = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(axis=1, keepdims=True)
    return boxes_xyxy + larger * np.tile(np.array(shares_xy), 2)


def stressed(data: LabelledSet, settings: LabelledSettings) -> dict[str, dict[str, Any]]:
    """For each stress and metric, the value and its difference from the plain one."""
    weights = study_weights(data, settings)
    found: dict[str, dict[str, Any]] = {}
    plain: dict[str, FloatArray] = {}
    for stress in STRESSES:
        table = data.table(graded(data, look_of(stress, settings.seed)))
        found[stress] = {}
        for name, metric in METRICS.items():
            values, n = metric(table, weights)
            plain.setdefault(name, values)
            found[stress][name] = figure(values, n)
            if stress != "plain":
                found[stress][name]["difference"] = difference(values, plain[name], n)
    return found


def table_of(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown table; differences whose interval excludes 0 are bold."""
    rows = []
    for stress, figures in found.items():
        cells = []
        for each in figures.values():
            apart = each.get("difference")
            cells += [
                figure_text(each["value"], each["ci95"] if apart is None else (None, None)),
                "" if apart is None else signed_text(apart),
            ]
        rows.append((stress, *cells))
    return markdown_table(HEADS, rows)


ABOUT = f"""\
Every structure is graded at its labelled point by the classifier of the fold that was not trained
on its study. Boxes are shifted by {SHIFT:.0%} of their larger side, noise is Rician with a
deviation of 6 % of white, and simulated fat suppression removes 90 % of the fat's signal. AUC is
that of normal against abnormal; V5 AUC is for discs only. Differences are paired by study; the 95 %
interval of those in bold excludes 0. Real fat suppression and real noise change more than these
grey values: a metric that holds here may still fall on another scanner."""


def section_text(
    settings: GradeStressSettings, data: LabelledSet, found: Mapping[str, Mapping[str, Any]]
) -> str:
    """The section of the page."""
    lines = [
        "## Grades under stress", "", ABOUT, "",
        f"- Command: `{command_text('grades_stress', settings)}`",
        f"- Data: {data.about}; {settings.draws} draws, seed {settings.seed}",
        f"- Machine: {machine()}", "", table_of(found), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main(words: list[str]) -> None:
    settings = parse_words(words, GradeStressSettings)
    if settings is None:
        return
    check_output(settings.out, overwrite=settings.overwrite)
    data = read_labelled(settings)
    found = stressed(data, settings)
    text = section_text(settings, data, found)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        about = {"command": command_text("grades_stress", settings), "data": data.about}
        write_json(stage / "grades_stress.json", {**about, "stresses": found})
        write_text(stage / "grades_stress.md", text)
    print(text)
    if settings.page is not None:
        write_section(settings.page, settings.section, text, title="Limits of the grades")


if __name__ == "__main__":
    run_script(main)
