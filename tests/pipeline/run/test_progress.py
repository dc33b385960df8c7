"""How a run talks: lines, rate, bar and table."""

from __future__ import annotations

import logging

import pytest

from spineline.pipeline.run import progress
from spineline.pipeline.run.engines import FAILURE_KINDS, Failure, Outcome, load_engine
from spineline.pipeline.run.progress import RunProgress, summary_lines


def test_every_kind_of_failure_is_explained() -> None:
    told = summary_lines(0, 0, [Failure("b", "x", kind) for kind in FAILURE_KINDS])
    assert len(told) == 2 + len(FAILURE_KINDS)


def test_the_table() -> None:
    failures = [Failure("b", "x", "crash"), Failure("c", "y"), Failure("d", "z")]
    assert summary_lines(7, 12, failures) == [
        "done               7",
        "done earlier      12",
        "failed             3",
        "  reading          2  could not be read, such as c",
        "  crash            1  ended the process that was at them, such as b",
    ]
    assert summary_lines(7, 0, []) == ["done               7", "failed             0"]


def test_lines_and_the_rate(caplog) -> None:
    caplog.set_level(logging.INFO, "spineline")
    now = iter(range(0, 1000, 2))
    with RunProgress(30, clock=lambda: float(next(now))) as teller:
        for n in range(30):
            if n == 4:
                teller.failed(Failure("s4", "no T2"))
            else:
                teller.done(f"s{n}", f"s{n}: found", ["odd"] if n == 1 else [])
    assert caplog.messages[0] == "s0: found"
    assert "s1: odd" in caplog.messages
    assert "error: s4: no T2" in caplog.messages
    rates = [line for line in caplog.messages if "studies/s" in line]
    assert rates[1] == "6 of 30 studies, 1 failed, 1.5 studies/s, about 16 s left"
    assert len(rates) == 9


def test_a_bar_on_a_terminal(caplog, monkeypatch, capsys) -> None:
    caplog.set_level(logging.INFO, "spineline")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with RunProgress(100) as teller:
        for n in range(100):
            teller.done(f"s{n}", f"s{n}: found", ["odd"])
        teller.failed(Failure("s4", "no T2"))
    assert caplog.messages == ["error: s4: no T2"]
    shown = capsys.readouterr().err
    assert "studies" in shown
    assert "100/100" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2, "3 s"), (600, "10 min"), (90 * 60, "1.5 h")], ids=str
)
def test_durations(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text


def test_an_outcome_is_one_of_both() -> None:
    with pytest.raises(ValueError, match="an analysis or a failure"):
        Outcome("a")


def test_engines_by_name() -> None:
    assert load_engine("local").__module__ == "spineline.pipeline.run.engine_local"
