"""``data check predictions=``: labels that out-of-fold predictions contradict."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.converters.contradicted_labels import confidently_other, contradictions
from spineline.datasets.crops.grades_csv import GRADE_COLUMNS
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import SEVEN_NAMES

IDS = ("001-000", "002-000", "003-000")


def test_confident_learning_by_hand() -> None:
    p = np.array(
        [
            [0.9, 0.1, 0.0],  # class 0, as labelled
            [0.5, 0.4, 0.1],  # class 0: 1 alone is over its threshold, but 0 is likelier
            [0.2, 0.7, 0.1],  # class 0, but class 1 is over its threshold
            [0.1, 0.6, 0.3],  # class 1
            [0.8, 0.2, 0.0],  # class 1, but class 0 is over its threshold
            [0.45, 0.45, 0.1],  # class 0: 1 alone is over its threshold, but not likelier
            [0.5, 0.3, 0.2],  # class 1: 0 is likelier, but neither is over its threshold
        ]
    )
    given = np.array([0, 0, 0, 1, 1, 0, 1])
    # Thresholds: class 0 (0.9 + 0.5 + 0.2 + 0.45) / 4 = 0.5125, class 1 (0.6 + 0.2 + 0.3) / 3 =
    # 0.3667; no structure is labelled class 2, which nothing can reach.
    found = confidently_other(p, given)
    assert [row[:2] for row in found] == [(2, 1), (4, 0)]
    # The label's probability less its threshold, less the same of the other class.
    assert found[0][2] == pytest.approx((0.2 - 0.5125) - (0.7 - 1.1 / 3))
    assert found[1][2] == pytest.approx((0.2 - 1.1 / 3) - (0.8 - 0.5125))


def test_a_threshold_asks_less_of_classes_that_are_hard() -> None:
    """A rare class is seldom given more than a third: there a third is a lot."""
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.3, 0.35, 0.35]])
    given = np.array([1, 1, 0, 0])
    # Thresholds 0.55 and 0.25: 0.35 is enough for class 1, 0.6 and 0.7 are for class 0.
    found = confidently_other(p, given)
    assert [row[:2] for row in found] == [(0, 0), (1, 0), (3, 1)]
    assert found[2][2] == pytest.approx((0.3 - 0.55) - (0.35 - 0.25))


def test_nothing_graded_is_nothing_contradicted() -> None:
    assert confidently_other(np.empty((0, 7)), np.empty(0, dtype=np.int64)) == []


@pytest.fixture
def dataset(report_source, run_cli) -> Path:
    files = report_source(*IDS)
    assert run_cli("convert", "report", *files.words(split="train"))[0] == 0
    return files.root / "out"


def write_predictions(path: Path, dataset: Path, said: dict[tuple[str, str], tuple[int, float]]):
    """Each label with probability 0.6, but those in ``said``: class and its probability."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["fold", *GRADE_COLUMNS])
        for record in load_dataset(dataset).all_records():
            for s in record.structures:
                code, binary = s.class_in("seven"), s.class_in("binary")
                if code is None:
                    continue
                answer, sure = said.get((record.image_id, s.level), (code, 0.6))
                own = [2, 3, 4, 5, 6] if s.kind == "disc" else [0, 1]
                p = np.zeros(7)
                p[own] = (1 - sure) / (len(own) - 1)
                p[answer] = sure
                v5 = 0.9 if binary else 0.1
                row = [record.image_id, record.study_id, s.level, code, binary, *p, v5]
                writer.writerow([0, *row])
    return path


def labels_of(dataset: Path) -> dict[tuple[str, str], int]:
    return {
        (record.image_id, s.level): code
        for record in load_dataset(dataset).all_records()
        for s in record.structures
        if (code := s.class_in("seven")) is not None
    }


def other_disc_class(dataset: Path, where: tuple[str, str]) -> int:
    """A class that some disc of the dataset has, other than that one's."""
    labels = labels_of(dataset)
    return next(code for code in sorted(labels.values()) if code >= 2 and code != labels[where])


@pytest.fixture
def mistaken(dataset: Path) -> dict[tuple[str, str], tuple[int, float]]:
    first, second = (IDS[0], "L4-L5"), (IDS[2], "L1-L2")
    return {
        first: (other_disc_class(dataset, first), 0.8),
        second: (other_disc_class(dataset, second), 0.95),
    }


def test_contradicted_labels_are_findings_with_pictures(
    dataset: Path, mistaken, tmp_path: Path, run_cli
) -> None:
    file = write_predictions(tmp_path / "predictions.csv", dataset, mistaken)
    out = tmp_path / "check"
    code, said, errors = run_cli(
        "data", "check", f"data={dataset}", f"predictions={tmp_path}", f"out={out}"
    )
    assert code == 0
    assert "2 labels contradicted, 2 listed" in said
    assert not errors
    found = json.loads((out / "check.json").read_text())
    assert [(f["image_id"], f["level"], f["finding"], f["severity"]) for f in found] == [
        (IDS[2], "L1-L2", "label_contradicted", "warning"),
        (IDS[0], "L4-L5", "label_contradicted", "warning"),
    ]
    name = SEVEN_NAMES[mistaken[IDS[2], "L1-L2"][0]]
    assert f"say {name} (0.95)" in found[0]["detail"]
    assert found[0]["detail"].startswith("1 of 2: labelled disc-")
    assert found[0]["detail"] in said
    pictures = sorted(path.name for path in (out / "contradicted").iterdir())
    assert pictures == [f"001_{IDS[2]}_L1-L2.png", f"002_{IDS[0]}_L4-L5.png"]
    assert all(f["action"].endswith(p) for f, p in zip(found, pictures, strict=True))
    assert cv2.imread(str(out / "contradicted" / pictures[0])).shape[0] > 320
    assert cv2.imread(str(out / "contradicted.png")) is not None
    again = tmp_path / "again"
    words = (f"data={dataset}", f"predictions={file}", f"out={again}")
    assert run_cli("data", "check", *words)[0] == 0
    for name in ("check.json", "check.csv", "contradicted.png"):
        assert (out / name).read_bytes() == (again / name).read_bytes()


def test_no_more_than_limit_are_listed(dataset: Path, mistaken, tmp_path: Path, run_cli) -> None:
    file = write_predictions(tmp_path / "p.csv", dataset, mistaken)
    out = tmp_path / "check"
    words = (f"data={dataset}", f"predictions={file}", f"out={out}", "limit=1")
    code, said, _ = run_cli("data", "check", *words)
    assert code == 0
    assert "2 labels contradicted, 1 listed" in said
    assert len(list((out / "contradicted").iterdir())) == 1


def test_agreement_is_no_finding(dataset: Path, tmp_path: Path, run_cli) -> None:
    file = write_predictions(tmp_path / "p.csv", dataset, {})
    out = tmp_path / "check"
    code, said, _ = run_cli("data", "check", f"data={dataset}", f"predictions={file}", f"out={out}")
    assert code == 0
    assert "0 labels contradicted" in said
    assert json.loads((out / "check.json").read_text()) == []
    assert not (out / "contradicted.png").exists()


def test_predictions_of_a_structure_are_averaged(dataset: Path, mistaken, tmp_path: Path) -> None:
    one = write_predictions(tmp_path / "1.csv", dataset, mistaken)
    other = write_predictions(tmp_path / "2.csv", dataset, {})
    alone = contradictions(load_dataset(dataset), [one])
    both = contradictions(load_dataset(dataset), [one, other])
    by_place = {(c.record.image_id, c.structure.level): c for c in both}
    for c in alone:
        mean = by_place.get((c.record.image_id, c.structure.level))
        assert mean is None or mean.p_said == pytest.approx((c.p_said + 0.1) / 2)
    assert [c.margin for c in alone] == sorted(c.margin for c in alone)


def test_v5_is_contradicted_too(dataset: Path, tmp_path: Path) -> None:
    file = write_predictions(tmp_path / "p.csv", dataset, {})
    rows = list(csv.DictReader(file.open()))
    labels = {row["binary"] for row in rows}
    assert labels == {"0", "1"}, "the source has discs with v5 and without"
    row = next(r for r in rows if r["binary"] == "0" and "-" in r["level"])
    row["p_v5"] = "0.97"
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = contradictions(load_dataset(dataset), [file])
    assert [(c.structure.level, c.given, c.said) for c in found] == [(row["level"], "not-v5", "v5")]


def test_structures_without_prediction_are_told(dataset: Path, tmp_path: Path, run_cli) -> None:
    file = write_predictions(tmp_path / "p.csv", dataset, {})
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-5]) + "\n")
    words = (f"data={dataset}", f"predictions={file}", f"out={tmp_path / 'check'}")
    code, _, errors = run_cli("data", "check", *words)
    assert code == 0
    assert f"5 of {len(lines) - 1} labelled structures have no prediction" in errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(IDS[0], "9").replace(IDS[1], "8").replace(IDS[2], "7"), "other"),
        (lambda text: text.replace("0.6", "x.6", 1), "could not convert"),
        (lambda text: text.replace("0.6", "6.0", 1), "not within"),
        (lambda text: text.replace("p_v5", "v5"), "found no column p_v5"),
        (lambda text: "", "found no line"),
    ],
    ids=["other data", "no number", "no probability", "column", "empty"],
)
def test_bad_predictions(dataset: Path, tmp_path: Path, run_cli, change, message: str) -> None:
    file = write_predictions(tmp_path / "p.csv", dataset, {})
    file.write_text(change(file.read_text()))
    out = tmp_path / "check"
    words = (f"data={dataset}", f"predictions={file}", f"out={out}")
    code, _, errors = run_cli("data", "check", *words)
    assert code == 1
    assert message in errors
    assert not out.exists()


def test_predictions_need_a_dataset(report_source, tmp_path: Path, run_cli) -> None:
    files = report_source(*IDS)
    words = files.words(out=tmp_path / "check", predictions=tmp_path)
    code, _, errors = run_cli("data", "check", *words)
    assert code == 2
    assert "give data=" in errors
