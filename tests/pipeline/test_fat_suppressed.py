"""Vertebrae of a fat-suppressed image bear no grade: marrow is dark in all of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.datasets.dicom.select import choose_slice, read_upright
from spineline.datasets.dicom.study import scan
from spineline.datasets.images import window_to_uint8
from spineline.pipeline import Pipeline
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.settings import ModelSettings


@pytest.fixture(scope="module")
def study(shared_external: Path) -> Path:
    """A study of which no header says that its fat is suppressed."""
    return shared_external / "rsna" / "study7001"


def graded(result: StudyResult, kind: str) -> list[bool]:
    return [s.seven is not None for s in result.structures if s.kind == kind]


def test_its_vertebrae_are_not_graded_and_its_discs_are(study: Path) -> None:
    result = Pipeline.load().predict(study)
    assert len(result.structures) == 11
    codes = [each.code for each in result.warnings]
    assert {"fat_suppressed", "grade_withheld"} <= set(codes)
    assert not any(graded(result, "vertebra"))
    assert all(graded(result, "disc"))
    told = next(each for each in result.warnings if each.code == "grade_withheld")
    assert dict(told.parameters)["levels"] == ("L1", "L2", "L3", "L4", "L5")


def test_a_plain_image_of_it_is_told_too_and_force_grades_it(study: Path, tmp_path: Path) -> None:
    chosen = choose_slice(scan(study)[0]).slice
    image = window_to_uint8(np.asarray(read_upright(chosen)))
    cv2.imwrite(str(tmp_path / "fat.png"), image)
    result = Pipeline.load().predict(tmp_path / "fat.png")
    assert "fat_suppressed" in [each.code for each in result.warnings]
    assert not any(graded(result, "vertebra"))
    forced = Pipeline.from_settings(ModelSettings(force=True)).predict(tmp_path / "fat.png")
    assert all(graded(forced, "vertebra"))
    assert "grade_withheld" not in [each.code for each in forced.warnings]
