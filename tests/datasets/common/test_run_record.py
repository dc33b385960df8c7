"""A run that goes on: with what it began, and with what may be changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.common.run_record import resumed_settings, write_run_record
from spineline.datasets.common.settings import Settings, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Settings):
    out: Path = key("where to")
    epochs: int = key("how often", default=3)
    rate: float = key("how fast", default=0.5)
    device: str = key("where", default="cpu")
    resume: bool = key("go on", default=False)


MAY_CHANGE = ("device", "resume")


def resumed(folder: Path, **keys: object) -> tuple[Training, dict[str, object]]:
    given = Training(out=folder, resume=True, **keys)  # type: ignore[arg-type]
    return resumed_settings(given, folder, resolved="used", may_change=MAY_CHANGE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of seven epochs, of which the rate was worked out."""
    write_run_record(tmp_path, "train", Training(out=tmp_path, epochs=7), used={"rate": 0.1})
    return tmp_path


@pytest.mark.parametrize(
    "keys",
    [{}, {"epochs": 7}, {"rate": 0.1}, {"rate": 0.5}],
    ids=["none", "as begun", "as worked out", "the default"],
)
def test_a_run_goes_on_as_it_began(folder: Path, keys: dict[str, object]) -> None:
    settings, values = resumed(folder, **keys)
    assert settings == Training(out=folder, epochs=7, resume=True)
    assert values == {"rate": 0.1}


def test_where_it_goes_on_may_change(folder: Path) -> None:
    settings, _ = resumed(folder, device="0")
    assert (settings.device, settings.epochs) == ("0", 7)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epochs": 9}, r"epochs=9: the run in .* began with epochs=7, and resume=true keeps that"),
        ({"rate": 0.2}, "rate=0.2: the run in .* began with rate=0.1"),
    ],
    ids=["given", "worked out"],
)
def test_what_it_trains_with_may_not(folder: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resumed(folder, **keys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "nothing to resume, no run.yaml there; start it without resume=true"),
        ("{", "is not a record of such a training run"),
        ("- a", "is not a record of such a training run"),
        ("settings: {out: o}", "is not a record of such a training run"),
        ("settings: {out: o, far: 1}\nused: {}", "is not a record of such a training run"),
    ],
    ids=["none", "broken", "a list", "not resolved", "another command"],
)
def test_a_folder_without_a_record_of_a_run(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(WeightsError, match=message):
        resumed(tmp_path)
