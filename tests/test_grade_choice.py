"""The rule by which the classifiers of the default bundle are chosen."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import grade_choice
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from spineline.datasets.common.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "vertebra-normal", "vertebra-degenerative", "disc-normal", "disc-bulging", "disc-protrusion",
    "disc-extrusion", "disc-schmorl",
)  # fmt: skip


def predictions(folder: Path, noise: float, seed: int, *, shift: int = 0) -> Path:
    """Predictions that are right but for noise, in the columns of ``kfold classify``."""
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 7, 200)
    v5 = (codes == 6).astype(int)
    noisy = np.random.default_rng(seed)
    score = np.eye(7)[codes] + noise * noisy.random((200, 7))
    score[codes < 2, 2:] = 0
    score[codes >= 2, :2] = 0
    seven = score / score.sum(axis=1, keepdims=True)
    folder.mkdir(parents=True)
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        heads = ["fold", "image", "study", "level", "seven", "binary", *(f"p_{n}" for n in NAMES)]
        writer.writerow([*heads, "p_v5"])
        for n in range(200):
            place = [n % 3, f"{n + shift:03d}", f"{n:03d}", "L1", codes[n], v5[n]]
            writer.writerow([*place, *seven[n].round(6), round(float(v5[n]), 3)])
    return folder


def line(out: Path, *words: str) -> list[str]:
    """The words of the script's command line; those with a folder are predictions."""
    given = [f"predictions={','.join(w for w in words if '/' in w)}", f"out={out}"]
    return given + [word for word in words if "/" not in word]


def test_the_better_is_chosen_and_every_candidate_is_told(tmp_path: Path) -> None:
    good = predictions(tmp_path / "good", 0.5, 1)
    bad = predictions(tmp_path / "bad", 8.0, 2)
    grade_choice.main(line(tmp_path / "out", f"good={good}", f"bad={bad}"))
    found = json.loads((tmp_path / "out" / "choice.json").read_text(encoding="utf-8"))
    assert found["chosen"]["members"] == ["good"]
    assert len(found["scored"]) == 3 * 5
    assert (tmp_path / "out" / "choice.md").read_text(encoding="utf-8").count("\n| ") >= 15


def test_a_recipe_may_answer_for_discs_alone(tmp_path: Path) -> None:
    one, other = (predictions(tmp_path / name, 6.0, n) for n, name in enumerate("ab"))
    grade_choice.main(line(tmp_path / "out", f"one={one}", f"other={other}", "discs=other"))
    found = json.loads((tmp_path / "out" / "choice.json").read_text(encoding="utf-8"))
    assert len(found["scored"]) == 4 * 5
    first = [row for row in found["scored"] if row["tau"] == 0]
    alone = next(row for row in first if row["members"] == ["one"])
    together, split = (row for row in first if len(row["members"]) == 2)
    assert (together["kinds"], split["kinds"]) == (["both", "both"], ["both", "disc"])
    assert split["auc_vertebra"] == alone["auc_vertebra"] != together["auc_vertebra"]
    assert split["auc_disc"] == together["auc_disc"] != alone["auc_disc"]
    assert "other (discs alone)" in (tmp_path / "out" / "choice.md").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="discs=none: not among one"):
        grade_choice.main(line(tmp_path / "no", f"one={one}", "discs=none"))


def test_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    folder = predictions(tmp_path / "one", 6.0, 3)
    grade_choice.main(line(tmp_path / "out", f"one={folder}"))
    found = json.loads((tmp_path / "out" / "choice.json").read_text(encoding="utf-8"))
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["seven"]) < 2]
    true = [int(row["seven"]) for row in rows]
    wanted = roc_auc_score(true, [-float(row["p_vertebra-normal"]) for row in rows])
    seen = next(row for row in found["scored"] if row["tau"] == 0)
    assert seen["auc_vertebra"] == pytest.approx(wanted)


def test_predictions_of_other_structures_are_refused(tmp_path: Path) -> None:
    one = predictions(tmp_path / "one", 1.0, 1)
    other = predictions(tmp_path / "other", 1.0, 1, shift=5)
    script = str(ROOT / "benchmarks" / "grade_choice.py")
    words = line(tmp_path / "out", f"one={one}", f"other={other}")
    done = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "different structures" in done.stderr
    assert not (tmp_path / "out").exists()
