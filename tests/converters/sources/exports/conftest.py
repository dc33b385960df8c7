"""One spine on three plain images, for exports of every tool to mark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

LEVELS = ("T12-L1", "L1", "L1-L2", "L2", "L2-L3", "L3", "L3-L4", "L4", "L4-L5", "L5", "L5-S1")
POINTS = tuple((48.0 + n % 3, 14.0 + 13 * n) for n in range(11))
TAGS = ("v1", "v1", "v2,v5", "v2", "v3", "v1", "v5", "v1", "v4", "v2", "v1")


@dataclass(frozen=True)
class MarkedSpine:
    """A folder of images of 96 x 160 pixels, and the eleven points that each of them shows."""

    images: Path
    names: tuple[str, ...] = ("a-1.png", "b-1.png", "c-1.png")
    levels: tuple[str, ...] = LEVELS
    points: tuple[tuple[float, float], ...] = POINTS
    tags: tuple[str, ...] = TAGS
    width: int = 96
    height: int = 160

    @property
    def marks(self) -> list[tuple[str, tuple[float, float], str]]:
        return list(zip(self.levels, self.points, self.tags, strict=True))

    def box(self, n: int) -> tuple[float, float, float, float]:
        """A rectangle about a point that is not the box rule's."""
        x, y = self.points[n]
        return (x - 12, y - 5, x + 12, y + 5)


@pytest.fixture
def spine(tmp_path: Path) -> MarkedSpine:
    found = MarkedSpine(tmp_path / "images")
    found.images.mkdir()
    for seed, name in enumerate(found.names):
        noise = np.random.default_rng(seed).integers(0, 200, (found.height, found.width))
        cv2.imwrite(str(found.images / name), noise.astype(np.uint8))
    return found


@pytest.fixture
def expected(spine: MarkedSpine) -> Callable[..., None]:
    """Checks that records are the spine's: levels, points, tags, and the box rule's boxes."""
    from spineline.datasets.boxes import boxes_from_points

    def check(source, *, images=3, graded=True, tolerance=1e-6, own_boxes=False):
        assert [r.image_id for r in source.records] == ["a-1", "b-1", "c-1"][:images]
        rule = boxes_from_points(spine.points)
        for record in source.records:
            assert [s.level for s in record.structures] == list(spine.levels)
            assert np.allclose(
                [s.point_xy for s in record.structures], spine.points, atol=tolerance
            )
            tags = [tuple(text.split(",")) for text in spine.tags] if graded else [()] * 11
            assert [s.pathology for s in record.structures] == tags
            boxes = [spine.box(n) for n in range(11)] if own_boxes else rule
            assert np.allclose([s.box_xyxy for s in record.structures], boxes, atol=tolerance)
            assert source.pixels(record).shape == (spine.height, spine.width)
            assert source.path_of(record) == spine.images / str(record.file)
        return True

    return check


@dataclass(frozen=True)
class MarkedVolume:
    """A NIfTI file stored feet first, and what its slice 3 shows with the head up, face left."""

    folder: Path
    file: Path
    pixels: np.ndarray
    points: tuple[tuple[float, float], ...] = POINTS
    levels: tuple[str, ...] = LEVELS

    def check(self, source, tolerance=0.006):
        (record,) = source.records
        assert (record.file, source.left_out) == (self.file.name, ())
        assert [s.level for s in record.structures] == list(self.levels)
        assert np.allclose([s.point_xy for s in record.structures], self.points, atol=tolerance)
        assert np.array_equal(source.pixels(record), self.pixels)
        return True


@pytest.fixture
def marked_volume(tmp_path: Path) -> MarkedVolume:
    sitk = pytest.importorskip("SimpleITK")
    voxels = np.random.default_rng(0).integers(0, 900, (160, 96, 5)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)  # to the head, to the front, to the left
    image.SetSpacing((4.0, 1.0, 1.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    folder = tmp_path / "volumes"
    folder.mkdir()
    sitk.WriteImage(image, str(folder / "case7.nii.gz"))
    return MarkedVolume(folder, folder / "case7.nii.gz", voxels[::-1, ::-1, 3])
