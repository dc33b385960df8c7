from __future__ import annotations

from pathlib import Path

from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.evaluation.tables import command_line, metrics_text


def test_command_line_shows_what_differs_from_the_defaults() -> None:
    settings = PipelineVal(
        data=Path("/home/someone/d"),
        out=Path("o"),
        ids=("1", "2"),
        weights="/x/a.pt,/y/b.pt",
        overlay=True,
    )
    assert command_line("pipeline val", settings) == (
        "spineline pipeline val weights=a.pt,b.pt data=d ids=1,2 out=o overlay=true"
    )


def test_metrics_as_text() -> None:
    metrics = {
        "studies": 3,
        "level_accuracy_6mm": {
            "value": 0.5, "ci95": [0.25, 0.75], "n": 12,
            "disc": {"value": None, "ci95": [None, None], "n": 0},
        },
        "seven": {"confusion": {"value": [[1]], "ci95": [[[1]], [[1]]], "n": 1}},
    }  # fmt: skip
    assert [line.split() for line in metrics_text(metrics).splitlines()[1:]] == [
        ["level_accuracy_6mm", "0.5000", "0.250", "–", "0.750", "12"],
        ["level_accuracy_6mm.disc", "not", "defined", "0"],
    ]
