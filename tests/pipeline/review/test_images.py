"""The image behind a result, whatever it lies in: its pixels are bright where the points are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spineline.datasets.common.errors import SpinelineError
from spineline.pipeline.inference.results import StudyResult, read_result
from spineline.pipeline.review.images import ResultImages, ShownSlice


@pytest.fixture
def located(tmp_path: Path, fake_models, predict) -> Iterator[Callable[..., Any]]:
    """Run the fakes over a source, and find the image of the first result."""

    def run(source: Path, *words: str) -> tuple[Any, StudyResult]:
        assert predict(source, *words)[0] == 0
        path = sorted((tmp_path / "o").glob("*/result.json"))[0]
        result = read_result(path)
        images = ResultImages(tmp_path / "o", None, open_archives)
        assert images.problem == ""
        return images.located(path.parent.name, result), result

    with ExitStack() as open_archives:
        yield run


def brightest(shown: ShownSlice, result: StudyResult) -> bool:
    """Whether the upright slice is as bright as it gets at each of the result's points."""
    points = shown.turn.from_native([s.point_xy for s in result.structures])
    places = np.rint(points).astype(int)
    return bool((shown.greys[places[:, 1], places[:, 0]] > 0.9 * shown.greys.max()).all())


def test_a_dicom_study(tmp_path: Path, make_study, located) -> None:
    make_study(tmp_path / "in" / "a")
    image, result = located(tmp_path / "in")
    assert (image.count, image.graded) == (3, 1)
    assert brightest(image.shown(1), result)
    first = result.structures[0]
    assert image.points_mm([first.point_xy])[0] == pytest.approx(first.point_mm, abs=0.01)


def test_an_archive(tmp_path: Path, make_study, located) -> None:
    make_study(tmp_path / "a")
    archive = shutil.make_archive(str(tmp_path / "in" / "a"), "zip", tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    image, result = located(Path(archive))
    assert (image.count, image.graded) == (3, 1)
    assert brightest(image.shown(1), result)


def test_a_file_of_several_frames(tmp_path: Path, make_multi_frame, located) -> None:
    make_multi_frame(tmp_path / "in" / "a.dcm")
    image, result = located(tmp_path / "in")
    assert (image.count, image.graded) == (3, 1)
    assert brightest(image.shown(1), result)
    assert not brightest(image.shown(0), result) or image.shown(0).greys.max() < 3000


def test_plain_images(tmp_path: Path, make_spots, located) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), make_spots())
    image, result = located(tmp_path / "in")
    assert (image.count, image.graded) == (1, 0)
    assert brightest(image.shown(0), result)
    assert image.points_mm([(1, 1)]) is None
    with pytest.raises(IndexError):
        image.shown(1)


def test_a_stack_of_images(tmp_path: Path, make_spots, located) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    for number in range(3):
        shown = make_spots() if number == 1 else make_spots() // 2
        cv2.imwrite(str(tmp_path / "in" / "a" / f"{number}.png"), shown)
    image, result = located(tmp_path / "in", "stack=true", "slices=1")
    assert (image.count, image.graded) == (3, 1)
    assert brightest(image.shown(1), result)


def test_a_volume(tmp_path: Path, make_spots, located) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs the package nibabel")
    middle = make_spots().astype(np.int16)[::-1].T[::-1]
    voxels = np.stack([middle // 2, middle, middle // 2])
    affine = np.array([[4, 0, 0, -4], [0, 1.25, 0, 0], [0, 0, 1.25, 0], [0, 0, 0, 1.0]])
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "in" / "a.nii.gz")
    image, result = located(tmp_path / "in", "slices=1")
    assert image.count == 3
    assert brightest(image.shown(image.graded), result)
    first = result.structures[0]
    assert image.points_mm([first.point_xy])[0] == pytest.approx(first.point_mm, abs=0.01)


def test_an_image_of_another_size_is_refused(
    tmp_path: Path, make_study, make_spots, located
) -> None:
    make_study(tmp_path / "in" / "a")
    located(tmp_path / "in")
    shutil.rmtree(tmp_path / "in" / "a")
    make_study(tmp_path / "in" / "a", make_spots(size_hw=(160, 130)))
    result = read_result(tmp_path / "o" / "a" / "result.json")
    images = ResultImages(tmp_path / "o", None, ExitStack())
    with pytest.raises(SpinelineError, match="130x160 pixels, and the result is of 120x150"):
        images.located("a", result)
