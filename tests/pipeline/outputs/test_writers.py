"""The words of ``to=``: modules that are there, packages that are not, sources that do not fit."""

from __future__ import annotations

import importlib.util

import cv2
import pytest

from spineline.datasets.common.errors import ConfigError
from spineline.pipeline.outputs.registry import list_outputs
from spineline.pipeline.outputs.writers import cohort_writer, study_writer
from spineline.pipeline.run.settings import PipelinePredict


@pytest.mark.parametrize("word", list_outputs())
def test_every_word_has_a_writer(word) -> None:
    output = list_outputs()[word]
    found = [study_writer(word)] if output.study_writer else []
    found += [cohort_writer(word)] if output.cohort_writer else []
    assert found
    assert all(map(callable, found))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without highdicom."""
    real = importlib.util.find_spec

    def find(name: str, *rest: object) -> object:
        return None if name == "highdicom" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("word", ["sr", "pr", "sc"])
def test_a_missing_package_is_said_before_any_study_is_read(tmp_path, predict, word) -> None:
    """Exit code 2, though neither the source nor the weights are there."""
    code, _, warned = predict(tmp_path / "none", f"to={word}", "weights=none.pt")
    assert code == 2
    assert f"to={word}: needs the package highdicom, which is not installed" in warned
    assert "pip install 'spineline[dicom]'" in warned
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("bare")
def test_points_for_slicer_need_no_package(tmp_path) -> None:
    PipelinePredict(source=tmp_path, out=tmp_path / "o", to=("slicer",))
    with pytest.raises(ConfigError, match="highdicom"):
        PipelinePredict(source=tmp_path, out=tmp_path / "o", to=("slicer", "sr"))


def test_plain_images_are_warned_of_and_the_run_goes_on(
    tmp_path, fake_models, make_spots, predict
) -> None:
    pytest.importorskip("highdicom")
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), make_spots())
    code, _, warned = predict(tmp_path / "in", "to=sr,pr,sc,slicer")
    assert code == 0
    for name in ("a", "b"):
        assert f"{name}: to=sr,pr,sc needs a DICOM source" in warned
        assert f"{name}: to=slicer: not written: no usable pixel spacing" in warned
        made = [p.name for p in (tmp_path / "o" / name).iterdir()]
        assert "result.json" in made
        assert not [file for file in made if file.endswith((".dcm", ".mrk.json"))]


def test_a_word_that_is_none(tmp_path) -> None:
    with pytest.raises(ConfigError, match="to=dicom"):
        PipelinePredict(source=tmp_path, out=tmp_path / "o", to=("dicom",))
