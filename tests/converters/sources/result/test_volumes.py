"""Results of volumes, which are stored whichever way round, become upright images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spineline.converters.check import check
from spineline.converters.convert import convert_result
from spineline.converters.settings import ConvertPredicted, DataCheck
from spineline.converters.sources.result.read import ResultRules, read_results
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS

VALUES = tuple(1000 + 100 * n for n in range(11))
WIDE, HIGH = 60, 130


def write_volume(path: Path, axes: str) -> np.ndarray:
    """Voxels of which each level's has a value of its own; axes run towards these sides."""
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("SimpleITK")
    voxels = np.random.default_rng(0).integers(0, 900, (5, WIDE, HIGH)).astype(np.int16)
    for n, value in enumerate(VALUES):
        voxels[3, 20 + n, 8 + 11 * n] = value  # [to the right, to the back, to the foot]
    names = {"R": (0, 1), "L": (0, -1), "P": (1, 1), "A": (1, -1), "I": (2, 1), "S": (2, -1)}
    signs = {"R": 1, "L": -1, "A": 1, "P": -1, "S": 1, "I": -1}
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for column, letter in enumerate(axes):
        affine[names[letter][0], column] = signs[letter]
    turned = voxels.transpose([names[v][0] for v in axes])
    turned = turned[tuple(slice(None, None, names[v][1]) for v in axes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(turned, affine), path)
    return turned


def write_result(path: Path, name: str, voxels: np.ndarray, axes: str, **image) -> None:
    """A result as ``pipeline predict`` writes it: points count voxels along the file's axes."""
    across = next(n for n, letter in enumerate(axes) if letter in "RL")
    structures = []
    for level, value in zip(LEVELS, VALUES, strict=True):
        (index,) = np.argwhere(voxels == value).tolist()
        number = index.pop(across)
        x, y = index
        box = [x - 5.0, y - 3.0, x + 5.0, y + 3.0]
        structures.append({"level": level, "point_xy": [x, y], "box_xyxy": box})
    wide, high = (side for n, side in enumerate(voxels.shape) if n != across)
    told = {"width": wide, "height": high, "spacing_rc_mm": [1.0, 1.0], "file": name,
            "slice": number, **image}  # fmt: skip
    content = {"schema": "spineline-result/3", "status": "ok", "image": told,
               "structures": structures, "warnings": [], "missing_levels": []}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("axes", ["LPI", "RAS", "PSR", "SRA"])
def test_points_boxes_and_pixels_are_set_upright(tmp_path: Path, axes: str) -> None:
    voxels = write_volume(tmp_path / "volumes/case7.nii.gz", axes)
    write_result(tmp_path / "run/case7/result.json", "case7.nii.gz", voxels, axes)
    out = tmp_path / "out"
    done = convert_result(
        ConvertPredicted(
            annotations=tmp_path / "run", images=tmp_path / "volumes", out=out, boxes="result",
            split="train",
        )
    )  # fmt: skip
    assert done.failures == ()
    (record,) = done.source.records
    assert (record.width, record.height, record.file) == (WIDE, HIGH, "case7.nii.gz")
    pixels = done.source.pixels(record)
    points = [s.point_xy for s in record.structures]
    assert [pixels[int(y), int(x)] for x, y in points] == list(VALUES)
    assert points == sorted(points)  # the face looks left
    halves = {
        (round(x - b[0]), round(y - b[1]), round(b[2] - x), round(b[3] - y))
        for (x, y), b in ((s.point_xy, s.box_xyxy) for s in record.structures)
    }
    assert halves == ({(3, 5, 3, 5)} if axes == "SRA" else {(5, 3, 5, 3)})
    assert load_dataset(out).all_records()[0].structures == record.structures


def test_volumes_of_one_name_are_told_apart_as_predict_names_them(tmp_path: Path) -> None:
    for case, axes in (("a", "RAS"), ("b", "LPI")):
        voxels = write_volume(tmp_path / f"volumes/{case}/T2.nii.gz", axes)
        write_result(tmp_path / f"run/{case}_T2/result.json", "T2.nii.gz", voxels, axes)
    rules = ResultRules(volumes=True)
    source = read_results(tmp_path / "run", tmp_path / "volumes", rules)
    assert [(r.image_id, r.file) for r in source.records] == [
        ("a_T2", "a/T2.nii.gz"), ("b_T2", "b/T2.nii.gz"),
    ]  # fmt: skip
    assert "frame_without_label" not in {f.finding for f in source.findings}
    write_volume(tmp_path / "volumes/c/T2.nii.gz", "RAS")
    (tmp_path / "run/b_T2/result.json").write_text("{}")  # left out, but there
    source = read_results(tmp_path / "run", tmp_path / "volumes", rules)
    assert [f.image_id for f in source.findings if f.finding == "frame_without_label"] == [
        "c/T2.nii.gz"
    ]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"file": "other.nii.gz"}, "no file other.nii.gz in the images folder"),
        ({"slice": 9}, "slice 9 is none of case7.nii.gz, which has 5, from 0"),
        ({"slice": -1}, "image.slice is -1, wanted a whole number from 0"),
        ({"width": 99}, "image is 99x130, the file has 60x130 pixels: not the same image"),
        ({"file": "../../case8.nii.gz"}, "no file case8.nii.gz in the images folder"),
    ],
    ids=["file", "slice", "negative", "size", "outside"],
)
def test_a_volume_that_does_not_fit_is_said(tmp_path: Path, image, words: str) -> None:
    voxels = write_volume(tmp_path / "volumes/case7.nii.gz", "RAS")
    write_volume(tmp_path / "case8.nii.gz", "RAS")
    write_result(tmp_path / "run/case7/result.json", "case7.nii.gz", voxels, "RAS", **image)
    rules = ResultRules(volumes=True)
    (entry,) = read_results(tmp_path / "run", tmp_path / "volumes", rules).failures
    assert words in entry.detail


def test_evaluation_takes_no_results_of_volumes(tmp_path: Path) -> None:
    voxels = write_volume(tmp_path / "volumes/case7.nii.gz", "RAS")
    write_result(tmp_path / "run/case7/result.json", "case7.nii.gz", voxels, "RAS")
    (entry,) = read_results(tmp_path / "run", tmp_path / "volumes").failures
    assert "can be converted, but not evaluated" in entry.detail


def write_stack(path: Path) -> np.ndarray:
    """A stack with values of the levels in slice 2: a TIFF file, or the folder of an image."""
    slices = np.random.default_rng(0).integers(0, 900, (4, HIGH, WIDE)).astype(np.uint16)
    for n, value in enumerate(VALUES):
        slices[2, 8 + 11 * n, 20 + n] = value
    pages = [Image.fromarray(image) for image in slices]
    if path.suffix == ".tif":
        path.parent.mkdir(parents=True, exist_ok=True)
        pages[0].save(path, save_all=True, append_images=pages[1:])
        return slices
    path.mkdir(parents=True)
    for n, page in enumerate(pages):
        page.save(path / f"im{n + 8}.png")
    return slices


@pytest.mark.parametrize("name", ["case7.tif", "case7"])
def test_results_of_image_stacks_are_of_their_slice(tmp_path: Path, name: str) -> None:
    slices = write_stack(tmp_path / "stacks" / name)
    file = name if ".tif" in name else "im10.png"
    write_result(tmp_path / "run/case7/result.json", file, slices.transpose(0, 2, 1), "RPI")
    out = tmp_path / "out"
    done = convert_result(
        ConvertPredicted(
            annotations=tmp_path / "run", images=tmp_path / "stacks", out=out, split="train"
        )
    )
    assert done.failures == ()
    (record,) = done.source.records
    assert record.file == (name if ".tif" in name else "case7/im10.png")
    pixels = done.source.pixels(record)
    assert [pixels[int(y), int(x)] for x, y in (s.point_xy for s in record.structures)] == list(
        VALUES
    )
    assert load_dataset(out).all_records()[0].structures == record.structures
    keys = DataCheck(
        annotations=tmp_path / "run", images=tmp_path / "stacks", out=tmp_path / "checked"
    )
    assert "label_without_frame" not in {finding.finding for finding in check(keys).findings}


def test_stacks_with_files_of_one_name_are_distinguished(tmp_path: Path) -> None:
    for name in ("a", "b"):
        slices = write_stack(tmp_path / "stacks" / name)
        write_result(
            tmp_path / f"run/{name}/result.json", "im10.png", slices.transpose(0, 2, 1), "RPI"
        )
    rules = ResultRules(volumes=True)
    source = read_results(tmp_path / "run", tmp_path / "stacks", rules)
    assert [r.file for r in source.records] == ["a/im10.png", "b/im10.png"]
    (tmp_path / "run/b").rename(tmp_path / "run/c")
    (entry,) = read_results(tmp_path / "run", tmp_path / "stacks", rules).failures
    assert "2 files fit its file 'im10.png': a/im10.png, b/im10.png" in entry.detail


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"file": "other.tif"}, "no file 'other.tif' in the images folder"),
        ({"slice": 9}, "page 9 (from 0) is none of the 4 slices in case7.tif"),
        ({"width": 99}, "image is 99x130, the file has 60x130 pixels: not the same image"),
        ({"file": "odd.tif"}, "odd.tif: page 1 (from 0) has 3x4 pixels"),
    ],
    ids=["file", "slice", "size", "unreadable"],
)
def test_a_stack_that_does_not_fit_is_an_error(tmp_path: Path, image, words: str) -> None:
    slices = write_stack(tmp_path / "stacks/case7.tif")
    pages = [Image.new("L", (3, 3 + n)) for n in (0, 1, 0)]
    pages[0].save(tmp_path / "stacks/odd.tif", save_all=True, append_images=pages[1:])
    turned = slices.transpose(0, 2, 1)
    write_result(tmp_path / "run/case7/result.json", "case7.tif", turned, "RPI", **image)
    rules = ResultRules(volumes=True)
    (entry,) = read_results(tmp_path / "run", tmp_path / "stacks", rules).failures
    assert words in entry.detail


def test_evaluation_takes_no_results_of_stacks(tmp_path: Path) -> None:
    slices = write_stack(tmp_path / "stacks/case7.tif")
    write_result(tmp_path / "run/case7/result.json", "case7.tif", slices.transpose(0, 2, 1), "RPI")
    (entry,) = read_results(tmp_path / "run", tmp_path / "stacks").failures
    assert "can be converted, but not evaluated" in entry.detail
