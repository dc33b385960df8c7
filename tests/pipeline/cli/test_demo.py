"""``spineline demo`` with models that need no weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

from spineline.datasets.common.settings import Settings
from spineline.datasets.labels import LEVELS
from spineline.datasets.types import Structure
from spineline.pipeline.cli.commands import COMMANDS
from spineline.pipeline.cli.demo import compare_with_drawn
from spineline.pipeline.cli.help import load_named
from spineline.pipeline.cli.main import settings_from_words
from spineline.pipeline.inference.results import GradedStructure, SevenGrade


def settings_of(task: str, mode: str) -> type[Settings]:
    found: type[Settings] = load_named(COMMANDS[task][mode].settings)
    return found


def found(level: str, x: float, y: float, seven: int) -> GradedStructure:
    kind = "disc" if "-" in level else "vertebra"
    return GradedStructure(
        level, kind, (x, y), (0, 0, 1, 1), 0.9, None, SevenGrade(seven, (0.0,) * 7)
    )


def points_of(path: Path) -> dict[str, list[float]]:
    """Where an annotation of one study has its levels."""
    (study,) = json.loads(path.read_text())
    (points,) = [one["data"]["point"] for one in study["data"][0]["annotation"]]
    return {point["tag"]["identification"]: point["coord"] for point in points}


def test_comparison_by_hand() -> None:
    drawn = [
        Structure("L1", "vertebra", (10, 10), (0, 0, 20, 20), ("v1",)),
        Structure("L1-L2", "disc", (10, 30), (0, 20, 20, 40), ("v2",)),
        Structure("L2", "vertebra", (10, 50), (0, 40, 20, 60), ("v1",)),
    ]
    result = compare_with_drawn(
        Path("o"), drawn, [found("L1", 13, 14, 0), found("L1-L2", 10, 39, 2)]
    )
    assert result.distance_px == {"L1": 5.0, "L1-L2": 9.0, "L2": math.inf}
    assert (result.close, result.seven_right) == (1, 1)


def test_writes_study_result_and_picture_and_says_where(
    tmp_path, fake_models, run_cli, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, _ = run_cli("demo")
    out = tmp_path / "spineline-demo"
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "annotation.json", "overlay.png", "result.json", "run.yaml", "study",
    ]  # fmt: skip
    assert f"look at {Path('spineline-demo') / 'overlay.png'}" in said
    assert "of 11 levels within 8 px" in said
    assert "was trained on real MR, not drawings" in said
    assert "left out, series 'T1_TSE_SAG'" in said
    _, _, steps = said.partition("Next, use your own data")
    commands = [line.split() for line in steps.splitlines() if line.startswith("  spineline ")]
    assert len(commands) >= 4
    for _, task, *words in commands:
        if "help" in (task, *words):
            assert run_cli(task, *words)[0] == 0
        else:
            mode = "" if "" in COMMANDS[task] else words.pop(0)
            settings_from_words(settings_of(task, mode), words)
    drawn = points_of(out / "annotation.json")
    assert set(drawn) == set(LEVELS)
    # An earlier demo is replaced; anything else is not.
    assert run_cli("demo", "seed=1")[0] == 0
    assert points_of(out / "annotation.json") != drawn
    (out / "run.yaml").write_text("command: spineline detect train\n")
    code, _, warned = run_cli("demo")
    assert code == 1
    assert "exists already" in warned
    assert run_cli("demo", "overwrite=true")[0] == 0
