"""Volumes, archives, stacks of images and frames that are stored turned, all the way to results."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.inference.warnings import codes_of

POINTS = np.stack([60 + np.rint(6 * np.sin(np.arange(11) / 4)), 20 + 10.0 * np.arange(11)], axis=1)


pytestmark = pytest.mark.usefixtures("temporary")


def spot_volume(image: np.ndarray, slices: int = 5) -> np.ndarray:
    """(side, depth, height) in RAS order: the image, face to the left, in the middle."""
    middle = image[::-1, ::-1].T.astype(np.int16) * 8  # to the front, to the head
    return np.stack([middle if n == slices // 2 else middle // 2 for n in range(slices)])


def nifti(path: Path, data: np.ndarray, spacing: tuple[float, float, float]) -> Path:
    nib = pytest.importorskip("nibabel")
    pytest.importorskip("SimpleITK")
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-9.0, -50.0, 40.0)
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def test_a_volume_is_read_all_the_way(tmp_path, fake_pipeline, make_spots) -> None:
    nib = pytest.importorskip("nibabel")
    image = make_spots()
    path = nifti(tmp_path / "a_t2.nii.gz", spot_volume(image), (4.0, 1.25, 1.25))
    result = fake_pipeline.predict(path)
    assert [s.level for s in result.structures] == [s.level for s in result.structures[:11]]
    assert (result.file, result.slice_index) == ("a_t2.nii.gz", 2)
    assert result.study_uid is result.instance_uid is None
    assert result.spacing_rc_mm == (1.25, 1.25)
    affine, height, width = nib.load(path).affine, *image.shape
    for structure, (x, y) in zip(result.structures, POINTS, strict=True):
        index = (2, width - 1 - x, height - 1 - y)  # of the voxel that the spot was drawn at
        assert_allclose(structure.point_xy, index[1:], atol=0.6)
        wanted = nib.affines.apply_affine(affine, index) * (-1, -1, 1)
        assert_allclose(structure.point_mm, wanted, atol=0.9)
    assert "orientation_unusual" in codes_of(result.warnings)  # it was stored upside down
    again = json.loads(json.dumps(result.to_json()))
    assert again["image"]["file"] == "a_t2.nii.gz"
    assert type(result).from_json(again).to_json() == result.to_json()


@pytest.mark.parametrize("spacing", [(4.0, 0.625, 1.25), (4.0, 1.25, 0.5)], ids=str)
def test_pixels_that_are_not_square_are_made_so(
    tmp_path, fake_pipeline, make_spots, spacing: tuple[float, float, float]
) -> None:
    """A spine of true proportions, stored with pixels half as wide or half as high."""
    _, wide, high = spacing
    image = cv2.resize(
        make_spots(), None, fx=1.25 / wide, fy=1.25 / high, interpolation=cv2.INTER_NEAREST
    )
    path = nifti(tmp_path / "a.nii", spot_volume(image), spacing)
    (case,) = find_cases(path)
    frame = load_frame(case)
    fine = min(wide, high)
    assert frame.image.shape == (round(150 * 1.25 / fine), round(120 * 1.25 / fine))
    result = fake_pipeline.predict(path)
    points = np.array([s.point_mm for s in result.structures])
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    true = np.hypot(*np.diff(POINTS, axis=0).T) * 1.25
    assert_allclose(steps, true, atol=1.3)
    stored = np.array([s.point_xy for s in result.structures])
    assert (result.width, result.height) == image.shape[::-1]
    shown = (POINTS + 0.5) * (1.25 / wide, 1.25 / high) - 0.5
    assert_allclose(stored, np.array(image.shape[::-1]) - 1 - shown, atol=1.1)
    told = [w for w in result.warnings if w.code == "spacing_implausible"]
    assert ["made square accordingly" in w.text for w in told] == [True]


def test_an_implausible_spacing_is_that_of_the_file(tmp_path, fake_pipeline, make_spots) -> None:
    image = make_spots()
    nifti(tmp_path / "a.nii", spot_volume(image), (4.0, 0.2, 0.2))
    pages = [Image.fromarray(image // (1 + (n != 1))) for n in range(3)]
    tags = {270: "ImageJ=1.54f\nimages=3\nslices=3\nunit=mm\n", 282: 5.0, 283: 5.0}
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:], tiffinfo=tags)
    for name, said in (("a.nii", "header's voxel size"), ("b.tif", "file's resolution tags")):
        found = fake_pipeline.predict(tmp_path / name).warnings
        (told,) = [w for w in found if w.code == "spacing_implausible"]
        assert f"mm apart by the {said}, wanted 10 to 30" in told.text


def test_a_volume_that_is_named_after_another_contrast_is_refused(
    tmp_path, fake_pipeline, make_spots
) -> None:
    path = nifti(tmp_path / "7_T1.nii", spot_volume(make_spots()), (4.0, 1.25, 1.25))
    result = fake_pipeline.predict(path)
    assert result.status == "refused"
    assert "T1-weighted" in str(result.warnings[0])


def test_points_of_a_volume_go_to_slicer(tmp_path, predict, fake_models, make_spots) -> None:
    path = nifti(tmp_path / "a.nii", spot_volume(make_spots()), (4.0, 1.25, 1.25))
    assert predict(path, "to=slicer,sr")[0] == 0
    (markup,) = json.loads((tmp_path / "o/a/points.mrk.json").read_text())["markups"]
    result = json.loads((tmp_path / "o/a/result.json").read_text())
    points = [s["point_mm"] for s in result["structures"]]
    assert [point["position"] for point in markup["controlPoints"]] == points
    assert not (tmp_path / "o/a/report.sr.dcm").exists()


def test_a_cohort_of_volumes_studies_and_archives(
    tmp_path, predict, fake_models, make_study, make_spots, temporary
) -> None:
    cohort = tmp_path / "cohort"
    make_study(cohort / "plain")
    for name in ("p1", "p2"):
        nifti(cohort / name / "T2.nii.gz", spot_volume(make_spots()), (4.0, 1.25, 1.25))
    nifti(cohort / "axial.nii", spot_volume(make_spots()), (0.5, 0.5, 4.0))
    (cohort / "p1" / "._T2.nii.gz").write_bytes(b"resource fork")
    (cohort / "plain" / "._im0.dcm").write_bytes(b"resource fork")
    make_study(tmp_path / "one")
    make_study(tmp_path / "two/a")
    make_study(tmp_path / "two/b")
    shutil.make_archive(str(cohort / "one"), "zip", tmp_path / "one")
    shutil.make_archive(str(cohort / "two"), "gztar", tmp_path / "two")
    (cohort / "bad.zip").write_bytes(b"PK")
    with zipfile.ZipFile(cohort / "nest.zip", "w") as zipped:
        zipped.write(cohort / "one.zip", "inner.zip")
    code, _, said = predict(cohort)
    assert code == 1
    with (tmp_path / "o/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    done = sorted({row["study"] for row in rows if row["status"] != "failed"})
    assert done == ["nest", "one", "p1_T2", "p2_T2", "plain", "two_a", "two_b"]
    manifest = [json.loads(line) for line in (tmp_path / "o/manifest.jsonl").read_text().split("\n")
                if line]  # fmt: skip
    reasons = {entry["study"]: entry["reason"] for entry in manifest if entry["reason"]}
    assert sorted(reasons) == ["axial", "bad"]
    assert "transverse volume of 0.5 x 0.5 x 4 mm" in reasons["axial"]
    assert f"{cohort}/bad.zip: cannot be unpacked" in reasons["bad"]
    assert "._" not in said
    assert list(temporary.iterdir()) == []
    code, said, _ = predict(cohort)
    assert "7 studies done, 2 failed" in said  # it goes on: nothing is done anew
    assert len(fake_models) == 1


def test_an_archive_is_a_source_of_the_same_results(
    tmp_path, predict, fake_models, make_study, bytes_of, temporary
) -> None:
    make_study(tmp_path / "study")
    outs = [tmp_path / "plain"]
    predict(tmp_path / "study", out=outs[0])
    for kind, suffix in (("zip", "zip"), ("tar", "tar"), ("gztar", "tar.gz")):
        shutil.make_archive(str(tmp_path / kind / "study"), kind, tmp_path / "study")
        outs.append(tmp_path / f"out-{kind}")
        assert predict(tmp_path / kind / f"study.{suffix}", out=outs[-1])[0] == 0
    first = bytes_of(outs[0])
    assert all(bytes_of(out) == first for out in outs[1:])
    assert list(temporary.iterdir()) == []


def test_texts_speak_of_the_archive_and_not_of_the_temporary_folder(
    tmp_path, predict, fake_models, make_study, temporary
) -> None:
    make_study(tmp_path / "study", np.full((150, 120), 7, np.uint8))
    with tarfile.open(tmp_path / "even.tgz", "w:gz") as tarred:
        tarred.add(tmp_path / "study", "deep/study")
    code, _, said = predict(tmp_path / "even.tgz")
    assert code == 1
    assert "even.tgz/deep/study/im1: constant image" in said
    assert str(temporary) not in said + (tmp_path / "o/manifest.jsonl").read_text()


def test_python_takes_an_archive_of_a_volume(
    tmp_path, fake_pipeline, make_spots, temporary
) -> None:
    path = nifti(tmp_path / "a.nii", spot_volume(make_spots()), (4.0, 1.25, 1.25))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.write(path, "b/a.nii")
    result = fake_pipeline.predict(tmp_path / "a.zip")
    assert len(result.structures) == 11
    assert list(temporary.iterdir()) == []


def test_names_are_hidden_of_volumes_and_archives(
    tmp_path, predict, fake_models, make_spots, make_study
) -> None:
    cohort = tmp_path / "cohort"
    for name in ("doe_john", "doe_jane"):
        nifti(cohort / name / "doe.nii.gz", spot_volume(make_spots()), (4.0, 1.25, 1.25))
    make_study(tmp_path / "doe", np.full((150, 120), 7, np.uint8))
    shutil.make_archive(str(cohort / "doe_zip"), "zip", tmp_path / "doe")
    code, _, said = predict(cohort, "names=hash", "salt=12345678")
    assert code == 1
    texts = [path.read_text() for path in (tmp_path / "o").rglob("*") if path.suffix != ".png"
             and path.is_file()]  # fmt: skip
    assert len(list((tmp_path / "o").glob("study-*/result.json"))) == 2
    assert not any("doe" in text for text in [said, *texts])


def test_names_are_hidden_of_archives_in_archives(
    tmp_path, predict, fake_models, make_study, temporary
) -> None:
    """Two studies in one archive in another: each name is that of none of them."""
    for name in ("doe_a", "doe_b"):
        make_study(tmp_path / "inner" / name, np.full((150, 120), 7, np.uint8))
    inner = shutil.make_archive(str(tmp_path / "doe_inner"), "zip", tmp_path / "inner")
    (tmp_path / "cohort").mkdir()
    with zipfile.ZipFile(tmp_path / "cohort" / "doe outer.zip", "w") as zipped:
        zipped.write(inner, "doe_inner.zip")
        zipped.write(inner, "doe_other.zip")
    code, _, said = predict(tmp_path / "cohort", "names=hash", "salt=12345678")
    assert code == 1
    texts = [p.read_text() for p in (tmp_path / "o").rglob("*") if p.is_file()]
    assert "constant image" in said
    assert not any("doe" in text or "temporary" in text for text in [said, *texts])


def test_the_voxels_beside_a_header_are_a_file_of_the_case(tmp_path, predict, fake_models) -> None:
    simple_itk = pytest.importorskip("SimpleITK")
    image = simple_itk.GetImageFromArray(np.arange(5 * 70 * 70, dtype=np.int16).reshape(5, 70, 70))
    simple_itk.WriteImage(image, str(tmp_path / "a.mhd"))
    voxels = (tmp_path / "a.raw").rename(tmp_path / "doe.raw")
    header = (tmp_path / "a.mhd").read_text().replace("a.raw", "doe.raw")
    (tmp_path / "a.mhd").write_text(header)
    before = find_cases(tmp_path / "a.mhd")[0].identity
    voxels.write_bytes(voxels.read_bytes()[:-2])
    assert find_cases(tmp_path / "a.mhd")[0].identity != before
    voxels.unlink()
    _, _, said = predict(tmp_path / "a.mhd", "names=hash", "salt=12345678")
    assert "is not beside it" in said
    assert "doe" not in said


def test_a_study_that_is_damaged_whole_is_told_beside_volumes(
    tmp_path, predict, fake_models, make_spots, make_study
) -> None:
    nifti(tmp_path / "cohort" / "a" / "a_t2.nii", spot_volume(make_spots()), (4.0, 1.25, 1.25))
    make_study(tmp_path / "cohort" / "b")
    for path in (tmp_path / "cohort" / "b").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "cohort" / "a" / "notes.txt").write_text("of no study")
    code, _, said = predict(tmp_path / "cohort")
    assert code == 1
    assert "b: " in said
    assert "notes" not in said
    rows = list(csv.DictReader((tmp_path / "o" / "results.csv").open()))
    assert {row["study"]: row["status"] for row in rows} == {"a_t2": "ok", "b": "failed"}


def stack_of(folder: Path, image: np.ndarray, count: int = 9) -> Path:
    folder.mkdir(parents=True)
    for n in range(count):
        shown = image if n == count // 2 else (image * 0.6).astype(np.uint8)
        cv2.imwrite(str(folder / f"im{n + 3}.png"), shown)
    return folder


def test_a_folder_of_slices_is_one_study(tmp_path, predict, fake_models, make_spots) -> None:
    source = stack_of(tmp_path / "stack", make_spots())
    code, _, said = predict(source, "stack=true")
    assert code == 0
    result = json.loads((tmp_path / "o/stack/result.json").read_text())
    assert result["image"]["file"] == "im7.png"  # of im3 … im11
    assert result["image"]["slice"] == 4
    assert len(result["structures"]) == 11
    assert "by file name" in said
    code, _, said = predict(source, out=tmp_path / "p")
    assert "look like the slices of one study" in said
    assert "stack=true treats them as one" in said
    assert len(list((tmp_path / "p").glob("*/result.json"))) == 9


def test_the_neighbours_in_a_stack_are_looked_at(tmp_path, fake_pipeline, make_spots) -> None:
    source = stack_of(tmp_path / "stack", make_spots())
    (case,) = find_cases(source, stack=True, slices=3)
    around = load_frame(case).around
    assert around is not None
    assert [frame.header.path.name for frame in around.near] == ["im6.png", "im8.png"]
    assert len(fake_pipeline.predict(source, stack=True).structures) == 11


def test_folders_of_stacks_are_a_cohort(tmp_path, make_spots, make_study) -> None:
    for name in ("a", "b"):
        stack_of(tmp_path / "cohort" / name, make_spots(), count=3)
    make_study(tmp_path / "cohort/dicom")
    cv2.imwrite(str(tmp_path / "cohort/dicom/preview.png"), make_spots())
    cases = find_cases(tmp_path / "cohort", stack=True)
    assert [(case.name, len(case.stack)) for case in cases] == [("a", 3), ("b", 3), ("dicom", 0)]


def pages_of(path: Path, image: np.ndarray, count: int = 5) -> Path:
    dim = Image.fromarray((image * 0.6).astype(np.uint8))
    pages = [Image.fromarray(image) if n == count // 2 else dim for n in range(count)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def test_the_pages_of_a_tiff_are_the_slices_of_a_study(
    tmp_path, predict, fake_models, make_spots
) -> None:
    source = pages_of(tmp_path / "scan.tif", make_spots())
    code, _, said = predict(source)
    assert code == 0
    result = json.loads((tmp_path / "o/scan/result.json").read_text())
    assert (result["image"]["file"], result["image"]["slice"]) == ("scan.tif", 2)
    assert len(result["structures"]) == 11
    assert "the middle page was chosen" in said


@pytest.mark.parametrize("stack", [False, True])
def test_tiff_files_of_pages_are_studies_beside_images(tmp_path, make_spots, stack: bool) -> None:
    for name in ("a", "b"):
        pages_of(tmp_path / f"{name}.tif", make_spots())
    for name in ("im1.png", "im2.png"):
        cv2.imwrite(str(tmp_path / name), make_spots())
    (tmp_path / "stacks").mkdir()
    found = {case.name: len(case.stack) for case in find_cases(tmp_path, stack=stack)}
    folder = tmp_path.name.strip("._")
    assert found == {"a": 1, "b": 1} | ({folder: 2} if stack else {"im1": 0, "im2": 0})


def test_pages_with_their_own_window_are_refused(
    tmp_path, predict, fake_models, make_spots
) -> None:
    code, _, said = predict(pages_of(tmp_path / "scan.tif", make_spots()), "window=none")
    assert code == 1
    assert "window=none: pages of a stack are windowed alike" in said


@pytest.mark.parametrize("name", ["a.hdr", "a.img", "a.mgz"])
def test_pairs_and_mgz_files_are_read_all_the_way(
    tmp_path, fake_pipeline, make_spots, name: str
) -> None:
    nib = pytest.importorskip("nibabel")
    pytest.importorskip("SimpleITK")
    kind = nib.MGHImage if name == "a.mgz" else nib.Nifti1Pair
    image = kind(spot_volume(make_spots()), np.diag([4.0, 1.25, 1.25, 1.0]))
    image.to_filename(tmp_path / name)
    alone, below = (fake_pipeline.predict(source) for source in (tmp_path / name, tmp_path))
    assert len(alone.structures) == 11
    assert alone.file == name.replace("img", "hdr")
    assert alone.spacing_rc_mm == (1.25, 1.25)
    assert below.structures == alone.structures


def test_a_stack_with_its_own_window_is_refused(tmp_path, predict, fake_models) -> None:
    code, _, said = predict(tmp_path, "stack=true", "window=none")
    assert code == 2
    assert "windowed alike" in said


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_a_frame_that_is_stored_turned(tmp_path, fake_pipeline, make_spots, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(make_spots())).save(tmp_path / name, exif=exif, quality=95)
    result = fake_pipeline.predict(tmp_path / name)
    assert (result.width, result.height) == (120, 150)
    assert_allclose([s.point_xy for s in result.structures], POINTS, atol=0.6)
    assert ["EXIF" in w.text for w in result.warnings if w.code == "orientation_unusual"] == [True]
