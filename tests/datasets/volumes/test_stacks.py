"""Folders of images as slices of one study."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.images import read_image
from spineline.datasets.volumes.stacks import (
    image_stack,
    is_tiff_stack,
    looks_like_stack,
    natural_order,
)


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


def tiff(path: Path, count: int = 3, description: str = "", **resolution: object) -> Path:
    first, *others = [Image.new("I;16", (30, 20), n) for n in range(count)]
    tags = {270: description} if description else {}
    tags |= {282: IFDRational(4, 3), 283: IFDRational(2, 1)}
    first.save(path, save_all=True, append_images=others, tiffinfo=tags, **resolution)
    return path


@pytest.mark.parametrize(
    ("description", "spacing_rc_mm"),
    [
        ("ImageJ=1.54f\nimages=3\nslices=3\nunit=mm\nspacing=4.4\nloop=false\n", (0.5, 0.75)),
        ("ImageJ=1.54f\nimages=3\nframes=3\nunit=cm\n", (5, 7.5)),
        ("ImageJ=1.54f\nimages=3\nslices=3\nunit=\\u00B5m\n", (0.0005, 0.00075)),
        ("ImageJ=1.54f\nimages=3\nslices=3\nunit=pixel\n", None),
        ("ImageJ=1.54f\nimages=3\nslices=3\n", None),
        ("a scan, unit=mm", None),
        ("", None),
    ],
)
def test_pages_are_slices_with_the_spacing_that_imagej_says(
    tmp_path: Path, description: str, spacing_rc_mm: tuple[float, float] | None
) -> None:
    path = tiff(tmp_path / "a.tif", description=description)
    assert is_tiff_stack(path)
    stack = image_stack([path])
    assert [(header.frame, header.frames) for header in stack] == [(0, 3), (1, 3), (2, 3)]
    assert {(header.rows, header.columns) for header in stack} == {(20, 30)}
    assert all(header.spacing_rc_mm == pytest.approx(spacing_rc_mm) for header in stack)
    assert not any(header.has_geometry for header in stack)


def test_single_pages_and_other_files_are_no_stacks(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no image")
    paths = [tiff(tmp_path / "a.tif", count=1), tmp_path / "text.tif", tmp_path / "gone.tif"]
    assert not any(map(is_tiff_stack, [*paths, *images(tmp_path, "a.png")]))


@pytest.mark.parametrize(
    ("count", "said", "message"),
    [
        (4, "images=4\nchannels=2\nslices=2", "several channels or times; save the slices"),
        (4, "images=4\nslices=2\nframes=2", "several channels or times; save the slices"),
        (1, "images=9\nslices=9", r"holds 9 images, and it has 1 page\(s\); save it in another"),
    ],
)
def test_pages_that_are_not_slices_alone_are_refused(
    tmp_path: Path, count: int, said: str, message: str
) -> None:
    path = tiff(tmp_path / "a.tif", count, f"ImageJ=1.54f\n{said}\n")
    assert is_tiff_stack(path)
    with pytest.raises(SpinelineError, match=rf"a\.tif: .*{message}"):
        image_stack([path])


def test_pages_of_other_sizes_are_refused(tmp_path: Path) -> None:
    pages = [Image.new("L", (30, 20 + (n == 1))) for n in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(
        SpinelineError, match=r"a\.tif: page 1 .* 30x21 .*, and 2 others have 30x20"
    ):
        image_stack([tmp_path / "a.tif"])


def test_previews_and_masks_are_no_slices(tmp_path: Path) -> None:
    pages = [Image.new("L", (30, 20) if n else (6, 4), n) for n in range(5)]
    for page, kind in zip(pages, (1, 2, 2, 4, 2), strict=True):
        page.encoderinfo = {"tiffinfo": {254: kind}}
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo={254: 1})
    stack = image_stack([path])
    assert [(header.instance_number, header.frame) for header in stack] == [(1, 1), (2, 2), (3, 4)]
    assert {(header.rows, header.columns) for header in stack} == {(20, 30)}
    assert [read_image(path, header.frame)[0, 0] for header in stack] == [1, 2, 4]


def test_the_headers_of_pages_are_read_without_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiff(tmp_path / "a.tif", 30)
    opened: list[Path] = []
    whole = Path.open

    def count(path: Path, *args: object) -> object:
        opened.append(path)
        return whole(path, *args)

    monkeypatch.setattr(Path, "open", count)
    monkeypatch.setattr(Image, "open", None)
    assert len(image_stack([path])) == 30
    assert opened == [path]
