"""Folders of images as slices of one study."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.volumes.stacks import image_stack, looks_like_stack, natural_order


def images(folder: Path, *names: str, size_hw: tuple[int, int] = (20, 30)) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros(size_hw, np.uint8))
    return [folder / name for name in names]


def test_names_are_sorted_as_people_do() -> None:
    names = ["im10.png", "im9.png", "im1.png", "a2b10", "a2b9", "a10", "im01.png", "10", "9"]
    found = [path.name for path in sorted(map(Path, names), key=natural_order)]
    assert found == ["9", "10", "a2b9", "a2b10", "a10", "im01.png", "im1.png", "im9.png",
                     "im10.png"]  # fmt: skip


def test_a_stack_is_in_natural_order(tmp_path: Path) -> None:
    stack = image_stack(images(tmp_path, "s10.png", "s9.png", "s11.png"))
    assert [header.path.name for header in stack] == ["s9.png", "s10.png", "s11.png"]
    assert {(header.rows, header.columns) for header in stack} == {(20, 30)}
    assert not any(header.has_geometry for header in stack)


def test_slices_of_other_sizes_are_refused(tmp_path: Path) -> None:
    paths = images(tmp_path, "s1.png", "s2.png") + images(tmp_path, "s3.png", size_hw=(20, 31))
    with pytest.raises(SpinelineError, match=r"s3\.png: 31x20 pixels, and 2 images .* have 30x20"):
        image_stack(paths)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([f"slice_{n}.png" for n in range(8)], True),
        ([f"IM{n:04}.png" for n in range(3, 10)], True),
        ([f"p7_s{n}_t2.png" for n in (1, 2, 3, 4, 6, 7, 8, 9)], True),
        ([f"slice_{n}.png" for n in range(4)], False),
        ([f"{n}.png" for n in (3, 17, 40, 61, 99)], False),
        (["anna.png", "bert.png", "carl.png", "dora.png", "emil.png"], False),
        ([f"p{n}_s{n}.png" for n in range(6)], False),
    ],
)
def test_names_that_look_like_a_stack(tmp_path: Path, names: list[str], wanted: bool) -> None:
    assert looks_like_stack(images(tmp_path, *names)) == wanted


def test_images_of_other_sizes_are_no_stack(tmp_path: Path) -> None:
    paths = images(tmp_path, *(f"s{n}.png" for n in range(7)))
    assert not looks_like_stack([*paths, *images(tmp_path, "s7.png", size_hw=(9, 9))])
