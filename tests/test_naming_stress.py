"""The stress set: where levels lie after a change, and what is counted as what."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import harness
import naming_stress as script
import numpy as np
import pytest

from spineline.datasets.common.files import read_json, write_json
from spineline.datasets.labels import LEVELS
from spineline.pipeline.evaluation import naming_stress as stressed
from spineline.pipeline.evaluation.stress_set import STRESSES, LabelledSpine

RNG = np.random.default_rng


def marked(y: int) -> int:
    """The grey value that stands at a level's place alone."""
    return 10 + y % 240


def drawn() -> LabelledSpine:
    """Each level is a square of its own grey value; neighbours lie 24 px apart."""
    image = np.zeros((400, 200), np.uint8)
    points = {}
    for rank, level in enumerate(LEVELS):
        x, y = 90 + rank, 60 + 24 * rank
        image[y - 4 : y + 5, x - 4 : x + 5] = 20 * (rank + 1)
        points[level] = (float(x), float(y))
    return LabelledSpine("a", "p", "drawn", image, points)


@pytest.mark.parametrize("name", STRESSES)
def test_points_move_with_the_image(name: str) -> None:
    spine = drawn()
    changed = STRESSES[name](spine, RNG(0))
    assert changed.image.dtype == np.uint8
    assert changed.image.ndim == 2
    assert spine.image.max() == 220
    height, width = changed.image.shape
    assert all(0 <= x < width and 0 <= y < height for x, y in changed.points_xy.values())
    geometric = name.startswith(("turned", "flipped", "smaller", "larger", "tight"))
    if geometric or "cut at" in name or name == "plain":
        assert len(changed.points_xy) >= 7
        for level, (x, y) in changed.points_xy.items():
            assert changed.image[round(y), round(x)] == 20 * (LEVELS.index(level) + 1)


@pytest.mark.parametrize(
    ("name", "step"), [("vertebra removed", 1), ("vertebra doubled", -1)], ids=["out", "in"]
)
def test_a_vertebra_taken_out_or_put_in_is_counted_from_the_sacrum(name: str, step: int) -> None:
    changed = STRESSES[name](drawn(), RNG(1))
    assert not changed.counted
    assert changed.image.shape[0] == 400 - 48 * step
    grey = {
        level: int(changed.image[round(y), round(x)]) // 20 - 1
        for level, (x, y) in changed.points_xy.items()
    }
    shifts = [grey[level] - LEVELS.index(level) for level in LEVELS if level in grey]
    assert shifts[-1] == 0  # L5-S1 is what it was
    assert shifts[0] == -2 * step  # above the change every place bears the next rung's name
    ordered = [changed.points_xy[level][1] for level in LEVELS if level in changed.points_xy]
    assert np.diff(ordered) == pytest.approx(24, abs=2)


def test_names_right() -> None:
    spine = drawn()
    right = list(spine.points_xy.items())
    slipped = [(LEVELS[rank + 2], xy) for rank, (_, xy) in enumerate(right[:-2])]
    assert stressed.names_are_right(spine, right)
    assert not stressed.names_are_right(spine, slipped)
    assert not stressed.names_are_right(spine, [])
    assert stressed.names_are_right(spine, right[:6] + slipped[6:])
    assert not stressed.names_are_right(replace(spine, counted=False), right[:6] + slipped[6:])


def row(**values) -> stressed.StressRow:
    given = {
        "spine": "a", "patient": "p", "source": "drawn", "stress": "plain", "levels": 11,
        "names_right": True, "abstained": False, "codes": (), "probability": 0.97,
        "evidence": {"margin": 30.0, "score": 40.0},
    }  # fmt: skip
    return stressed.StressRow(**given | values)


ROWS = [
    row(),
    row(codes=("few_levels",)),
    row(abstained=True, names_right=False),
    row(names_right=False, codes=("naming_in_doubt",)),
    row(names_right=False),
]


def test_what_is_counted_as_what() -> None:
    found = stressed.outcome_shares(ROWS)
    assert [found[name] for name in stressed.OUTCOMES] == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert found["doubted"] == pytest.approx(0.2)
    assert found["coverage"] == pytest.approx(0.8)
    assert found["right_of_named"] == pytest.approx(0.5)


@pytest.mark.slow
def test_a_fit_finds_what_the_rows_were_drawn_by() -> None:
    """Right with log-odds 0.2 margin - 3, whatever the rest."""
    rng = RNG(0)
    rows = []
    for n in range(4000):
        margin, score = rng.uniform(0, 40), rng.uniform(20, 60)
        right = bool(rng.random() < 1 / (1 + np.exp(3 - 0.2 * margin)))
        evidence = {"margin": margin, "score": score}
        rows.append(row(patient=str(n), names_right=right, evidence=evidence))
    found = stressed.fit_coefficients(rows)
    assert found.margin == pytest.approx(0.2, abs=0.02)
    assert found.score == pytest.approx(0, abs=0.01)
    keys = script.StressSettings(out="out")
    least = script.least_probability(rows, found, keys)
    left = [stressed.with_coefficients(each, found, least) for each in rows]
    assert stressed.outcome_shares(left)["wrong_silent"] <= 0.005
    assert stressed.outcome_shares(left)["right_of_named"] >= 0.98
    assert script.least_probability(rows, found, replace(keys, silent=1.0, right=0.0)) == 0.0
    assert stressed.calibration_gap(left) < 0.03


def test_the_script_reads_its_own_rows_again(tmp_path, capsys) -> None:
    write_json(tmp_path / "rows.json", {"rows": [asdict(each) for each in ROWS]})
    out, page = tmp_path / "out", tmp_path / "page.md"
    script.main([f"rows={tmp_path / 'rows.json'}", f"out={out}", f"page={page}"])
    assert {path.name for path in out.iterdir()} == {"stress.json", "stress.md", "reliability.png"}
    assert "| plain " in capsys.readouterr().out
    assert "spineline:naming-stress" in page.read_text()


def test_rows_of_an_earlier_run_are_left_out_too(tmp_path: Path) -> None:
    rows = [row(), row(spine="b"), row(stress="blur")]
    write_json(tmp_path / "rows.json", {"rows": [asdict(each) for each in rows]})
    for words, kept in ((["without=b"], [0, 2]), (["stresses=blur"], [2]), ([], [0, 1, 2])):
        out = tmp_path / str(len(kept))
        script.main([f"rows={tmp_path / 'rows.json'}", f"out={out}", *words])
        found = read_json(out / "stress.json")["rows"]
        assert [script.row_from_json(each) for each in found] == [rows[n] for n in kept]


def test_images_named_in_without_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    points = {level: [90, 60 + 24 * rank] for rank, level in enumerate(LEVELS)}
    entries = [{"image": f"{n}.png", "patient": "p1", "points": points} for n in "abc"]
    (tmp_path / "points.json").write_text(json.dumps(entries))
    for entry in entries:
        cv2.imwrite(str(tmp_path / "images" / entry["image"]), drawn().image)
    words = [f"external={tmp_path}", "patients=all", "without=b", f"out={tmp_path / 'out'}"]
    settings = harness.parse_words(words, script.StressSettings)
    assert [spine.name for spine in script.external_spines(settings)] == ["a", "c"]
