"""Volumes as sagittal stacks: which voxel lies where, by nibabel and SimpleITK themselves."""

from __future__ import annotations

import gzip
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from spineline.datasets.dicom.geometry import pixel_to_patient, to_standard_orientation
from spineline.datasets.dicom.select import choose_slice
from spineline.datasets.volumes import volume as volume_module
from spineline.datasets.volumes.volume import (
    VolumeReadError,
    read_volume,
    slice_pixels,
    volume_files,
    volume_header,
    volume_suffix,
)

sitk = pytest.importorskip("SimpleITK")
nib = pytest.importorskip("nibabel")

SIDES, BACK, HEAD = np.eye(3)  # RAS: to the right, to the front, to the head
SIZES = (5, 70, 90)  # slices, then in-plane
SPACING = (4.0, 0.75, 0.5)


def sagittal(order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """The affine, RAS mm, of a volume whose axes are side, depth and height in some order."""
    affine = np.eye(4)
    for axis, of in enumerate(order):
        affine[:3, axis] = np.eye(3)[of] * SPACING[of] * flips[axis]
    affine[:3, 3] = (11.0, -23.0, 37.0)
    return affine


def voxels(order: tuple[int, ...], dtype: str = "int16") -> np.ndarray:
    shape = [SIZES[of] for of in order]
    return np.random.default_rng(0).integers(0, 4000, shape).astype(dtype)


def write_by_nibabel(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    kinds = {".hdr": nib.Nifti1Pair, ".mgh": nib.MGHImage, ".mgz": nib.MGHImage}
    kinds.get(path.suffix, nib.Nifti1Image)(data, affine).to_filename(path)
    return path


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join("xyz"[of] for of in order))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)], ids=str)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.hdr", "a.mgz"])
def test_every_voxel_of_the_middle_slice_is_where_nibabel_has_it(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...], name: str
) -> None:
    data, affine = voxels(order), sagittal(order, flips)
    volume = read_volume(write_by_nibabel(tmp_path / name, data, affine))
    assert volume.remarks == ()
    header = choose_slice(volume.study).slice
    assert header.is_sagittal
    assert header.frame == 2
    pixels = slice_pixels(header)
    across = order.index(0)
    assert_array_equal(pixels, np.take(data, 2, axis=across).T)
    rng = np.random.default_rng(1)
    points = rng.integers(0, pixels.shape[::-1], (20, 2))
    index = np.insert(points.astype(float), across, 2, axis=1)
    ras = nib.affines.apply_affine(nib.load(tmp_path / name).affine, index)
    assert_allclose(pixel_to_patient(header, points), ras * (-1, -1, 1), atol=1e-3)
    shown, turn = to_standard_orientation(pixels, header)
    top_left, right, low = turn.to_native([(0, 0), (5, 0), (0, 5)])
    mm = pixel_to_patient(header, [top_left, right, low])
    assert mm[1, 1] > mm[0, 1]  # to the back
    assert mm[2, 2] < mm[0, 2]  # to the feet
    assert turn.scaled_hw == shown.shape == (90, 105)  # 0.5 and 0.75 mm become 0.5 mm


@pytest.mark.parametrize(
    "name", ["a.mha", "B.MHA", "a.mhd", "a.nrrd", "a.nhdr", "A.NII", "a.nii.gz"]
)
def test_every_format_agrees_with_simpleitk(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(3)
    image = sitk.GetImageFromArray(rng.integers(0, 900, (80, 75, 7)).astype(np.float32))
    image.SetSpacing((3.5, 0.75, 0.8))
    image.SetOrigin((-10.5, 20.25, -300.0))
    c, s = np.cos(0.3), np.sin(0.3)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / name.lower()))
    (tmp_path / name.lower()).rename(tmp_path / name)
    header = choose_slice(read_volume(tmp_path / name).study).slice
    assert header.frame is not None
    for x, y in [(0, 0), (3.25, 70.5), (74, 79)]:
        wanted = image.TransformContinuousIndexToPhysicalPoint((header.frame, x, y))
        assert_allclose(pixel_to_patient(header, [[x, y]])[0], wanted, atol=1e-3)
    whole = sitk.GetArrayFromImage(image)
    assert_array_equal(slice_pixels(header), whole[:, :, header.frame])


@pytest.mark.parametrize("name", ["a.mgz", "A.MGZ", "a.mgh"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_voxels_of_every_type_of_mgh_are_those_of_nibabel(
    tmp_path: Path, name: str, dtype: str
) -> None:
    rng = np.random.default_rng(4)
    data = rng.integers(0, 250, SIZES).astype(dtype)
    turned = np.eye(4)
    c, s = np.cos(0.3), np.sin(0.3)
    turned[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * SPACING
    turned[:3, 3] = (-10.5, 20.25, -300)
    path = write_by_nibabel(tmp_path / name.lower(), data, turned).rename(tmp_path / name)
    header = choose_slice(read_volume(path).study).slice
    assert_array_equal(slice_pixels(header), data[header.frame].T)
    assert header.spacing_rc_mm == pytest.approx((0.5, 0.75))
    wanted = nib.affines.apply_affine(turned, (header.frame, 3.5, 60)) * (-1, -1, 1)
    assert_allclose(pixel_to_patient(header, [[3.5, 60]])[0], wanted, atol=1e-3)


def test_mgh_files_need_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.stack([voxels((0, 1, 2)), np.zeros(SIZES, np.int16)], axis=3)
    path = write_by_nibabel(tmp_path / "a.mgz", data, sagittal((0, 1, 2), (1, 1, 1)))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    volume = read_volume(path)
    assert "holds 2 volumes: only the first was used" in volume.remarks[0].text
    assert_array_equal(slice_pixels(choose_slice(volume.study).slice), data[2, :, :, 0].T)


def test_a_pair_is_one_volume_by_either_of_its_files(tmp_path: Path) -> None:
    path = write_by_nibabel(tmp_path / "a.hdr", voxels((0, 1, 2)), np.eye(4))
    assert volume_header(tmp_path / "a.img") == path
    assert volume_header(tmp_path / "b.img") == tmp_path / "b.img"
    assert volume_files(path) == (path, tmp_path / "a.img")


def nrrd_in(path: Path, units: str, factor: float) -> Path:
    """A sagittal NRRD volume of 3.5 x 0.75 x 0.8 mm voxels whose header states other units."""
    axes = [f"({3.5 / factor},0,0)", f"(0,{0.75 / factor},0)", f"(0,0,{-0.8 / factor})"]
    head = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 75 80\n"
        f"space directions: {' '.join(axes)}\nkinds: domain domain domain\nendian: little\n"
        f"encoding: raw\nspace units: {units}\n"
        f"space origin: ({-7 / factor},{20 / factor},{30 / factor})\n\n"
    )
    voxels = np.random.default_rng(0).integers(0, 900, (80, 75, 5), dtype=np.int16)
    path.write_bytes(head.encode() + voxels.tobytes())
    return path


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("cm", 10), ("m", 1000), ("um", 0.001)])
def test_the_units_of_a_nrrd_header_count(tmp_path: Path, unit: str, factor: float) -> None:
    path = nrrd_in(tmp_path / "a.nrrd", " ".join([f'"{unit}"'] * 3), factor)
    header = choose_slice(read_volume(path).study).slice
    assert_allclose(header.spacing_rc_mm, (0.8, 0.75), rtol=1e-6)
    corner = pixel_to_patient(header, [[0, 0]])[0]
    assert_allclose(corner, (-7 + 3.5 * header.frame, 20, 30), atol=1e-4)


@pytest.mark.parametrize("units", ['"mm" "cm" "mm"', '"inch" "inch" "inch"'])
def test_units_that_are_not_known_are_refused(tmp_path: Path, units: str) -> None:
    with pytest.raises(VolumeReadError, match=r"space units .*; wanted one of mm, cm, m, um"):
        read_volume(nrrd_in(tmp_path / "a.nrrd", units, 1))


def test_the_slices_are_those_of_a_study(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "t2_sag.nii", voxels((0, 1, 2)), sagittal((0, 1, 2), (1, 1, 1)))
    study = read_volume(path).study
    (series,) = study.series
    assert sorted(header.frame or 0 for header in series.slices) == [0, 1, 2, 3, 4]
    assert series.slices[0].words == "T2 SAG"
    assert len(choose_slice(study).neighbours) == 4


def test_scaled_values_are_those_of_the_header(tmp_path: Path) -> None:
    data, affine = voxels((0, 1, 2)), sagittal((0, 1, 2), (1, 1, 1))
    image = nib.Nifti1Image(data, affine)
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "a.nii")
    header = choose_slice(read_volume(tmp_path / "a.nii").study).slice
    wanted = nib.load(tmp_path / "a.nii").get_fdata()[header.frame].T
    assert_allclose(slice_pixels(header), wanted)


def test_of_several_volumes_the_first_is_taken_and_told(tmp_path: Path) -> None:
    data = np.stack([voxels((0, 1, 2)), np.zeros(SIZES, np.int16)], axis=3)
    path = write_nifti(tmp_path / "a.nii.gz", data, sagittal((0, 1, 2), (1, 1, 1)))
    volume = read_volume(path)
    assert [str(each) for each in volume.remarks] == [
        "slice_choice: file a.nii.gz holds 2 volumes: only the first was used"
    ]
    assert_array_equal(slice_pixels(choose_slice(volume.study).slice), data[2, :, :, 0].T)


@pytest.mark.parametrize(
    ("codes", "taken"), [((1, 2), "qform"), ((2, 1), "sform"), ((1, 1), "sform")], ids=str
)
def test_two_geometries_that_differ_are_told(
    tmp_path: Path, codes: tuple[int, int], taken: str
) -> None:
    data, affine = voxels((0, 1, 2)), sagittal((0, 1, 2), (1, 1, 1))
    other = affine.copy()
    other[2, 3] += 12
    image = nib.Nifti1Image(data, None)
    image.set_qform(affine, codes[0])
    image.set_sform(other, codes[1])
    image.to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    (told,) = volume.remarks
    assert told.code == "volume_geometry"
    assert "up to 12.0 mm apart" in told.text
    assert f"by its {taken}" in told.text
    header = choose_slice(volume.study).slice
    used = {"qform": affine, "sform": other}[taken]
    wanted = nib.affines.apply_affine(used, (header.frame, 3, 4)) * (-1, -1, 1)
    assert_allclose(pixel_to_patient(header, [[3, 4]])[0], wanted, atol=1e-3)
    image.set_sform(affine, codes[1])
    image.to_filename(tmp_path / "b.nii")
    assert read_volume(tmp_path / "b.nii").remarks == ()


@pytest.mark.parametrize("units", ["mm", "meter", "micron", "unknown"])
@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ((0, 1), "its header says voxels of 4 x 1.5 x 1 mm (pixdim), its sform 4 x 0.75 x 0.5 mm"),
        ((0, 2), "its header says voxels of 4 x 1.5 x 1 mm (pixdim), its sform 4 x 0.75 x 0.5 mm"),
        ((1, 1), "point_mm are by its sform"),
        ((2, 1), "point_mm are by its sform"),
        ((1, 2), "point_mm are by its sform"),
        ((1, 0), ""),
    ],
    ids=str,
)
def test_the_spacing_is_that_of_the_geometry_used(
    tmp_path: Path, codes: tuple[int, int], told: str, units: str
) -> None:
    """The header states other voxels (pixdim) than its sform; the qform uses the header's."""
    unit_mm = {"meter": 1000.0, "micron": 0.001}.get(units, 1.0)
    affine = sagittal((0, 1, 2), (1, 1, -1))
    affine[:3] /= unit_mm
    image = nib.Nifti1Image(voxels((0, 1, 2)), None)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header["pixdim"][1:4] = np.array((4, 1.5, 1)) / unit_mm
    image.header.set_xyzt_units(units)
    image.to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    used = image.header.get_qform() if codes == (1, 0) else affine
    header = choose_slice(volume.study).slice
    assert header.spacing_rc_mm == pytest.approx(nib.affines.voxel_sizes(used)[:0:-1] * unit_mm)
    wanted = nib.affines.apply_affine(used, (header.frame, 3, 80)) * (-1, -1, 1) * unit_mm
    assert_allclose(pixel_to_patient(header, [[3, 80]])[0], wanted, atol=1e-3)
    assert [told in each.text for each in volume.remarks] == [True] * bool(told)


def axial(spacing: tuple[float, float, float]) -> np.ndarray:
    return np.diag([*spacing, 1.0])


def test_a_fine_axial_volume_is_cut_and_told(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", voxels((0, 1, 2)), axial((0.6, 0.6, 1.0)))
    volume = read_volume(path)
    assert "was acquired in another plane (transverse)" in volume.remarks[0].text
    assert choose_slice(volume.study).slice.spacing_rc_mm == pytest.approx((1.0, 0.6))


def bad(folder: Path) -> dict[str, Path]:
    """Volumes that cannot be read, by what is wrong with them."""
    data, affine = voxels((0, 1, 2)), sagittal((0, 1, 2), (1, 1, 1))
    good = write_nifti(folder / "good.nii.gz", data, affine)
    plain = write_nifti(folder / "good.nii", data, affine)
    found = {"gone": folder / "gone.nii"}
    for name, content in {
        "cut.nii": plain.read_bytes()[:5000],
        "cut.nii.gz": good.read_bytes()[:5000],
        "cut2.nii.gz": gzip.compress(plain.read_bytes()[:5000]),
        "text.nii": b"no volume at all",
        "empty.mha": b"",
        "text.nrrd": b"NRRD0004\nnonsense\n",
    }.items():
        (folder / name).write_bytes(content)
        found[name] = folder / name
    for name, image in {
        "alone": nib.Nifti1Pair,
        "cut": nib.Nifti1Pair,
        "old": nib.AnalyzeImage,
    }.items():
        image(data, affine).to_filename(folder / f"{name}.hdr")
        found[f"{name}.hdr"] = folder / f"{name}.hdr"
    (folder / "alone.img").unlink()
    (folder / "cut.img").write_bytes((folder / "cut.img").read_bytes()[:5000])
    whole = write_by_nibabel(folder / "good.mgh", data, affine).read_bytes()
    packed = write_by_nibabel(folder / "good.mgz", data, affine).read_bytes()
    for name, content in {
        "cut.mgh": whole[:5000],
        "cut.mgz": packed[:5000],
        "short.mgh": whole[:50],
        "text.mgz": b"no volume at all",
        "text.mgh": b"no volume at all" * 20,
        "type.mgh": whole[:23] + b"\7" + whole[24:],
        "nowhere.mgh": whole[:28] + bytes(62) + whole[90:],
        "turned.mgh": whole[:42] + bytes(36) + whole[78:],
    }.items():
        (folder / name).write_bytes(content)
        found[name] = folder / name
    found["axial"] = write_nifti(folder / "axial.nii", data, axial((0.5, 0.5, 4.0)))
    c = np.cos(np.pi / 4)
    turned = np.array([[c, -c, 0, 0], [c, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    found["turned"] = write_nifti(folder / "turned.nii", data, turned)
    image = nib.Nifti1Image(data, None)
    image.header["qform_code"] = image.header["sform_code"] = 0
    image.to_filename(folder / "nowhere.nii")
    found["nowhere"] = folder / "nowhere.nii"
    sheared = affine.copy()
    sheared[0, 1] = 0.3
    image = nib.Nifti1Image(data, None)
    image.set_sform(sheared, 1)
    image.header["qform_code"] = 0
    image.to_filename(folder / "sheared.nii")
    found["sheared"] = folder / "sheared.nii"
    colours = sitk.GetImageFromArray(np.zeros((80, 70, 5, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(folder / "colours.mha"))
    found["colours"] = folder / "colours.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((80, 70), np.uint8)), str(folder / "flat.mha"))
    found["flat"] = folder / "flat.mha"
    volume = sitk.GetImageFromArray(data)
    sitk.WriteImage(volume, str(folder / "out.mhd"))
    text = (folder / "out.mhd").read_text()
    (folder / "out.mhd").write_text(text.replace("= out.raw", "= ../secret.raw"))
    (folder / "list.mhd").write_text(text.replace("= out.raw", "= LIST"))
    (folder / "alone.mhd").write_text(text.replace("= out.raw", "= other.raw"))
    sitk.WriteImage(volume, str(folder / "out.nhdr"))
    text = (folder / "out.nhdr").read_text()
    (folder / "out.nhdr").write_text(text.replace("data file: ", "data file: /etc/"))
    return found | {n: folder / n for n in ("out.mhd", "list.mhd", "alone.mhd", "out.nhdr")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "no such file"),
        ("cut.nii", "cut short"),
        ("cut.nii.gz", "cannot be unpacked"),
        ("cut2.nii.gz", "cut short"),
        ("text.nii", "cannot be read as NIfTI"),
        ("empty.mha", r"cannot be read as MetaImage \(MHA\)"),
        ("text.nrrd", "cannot be read as NRRD"),
        ("axial", r"a transverse volume of 0\.5 x 0\.5 x 4 mm voxels"),
        ("turned", "none of its axes runs from side to side"),
        ("nowhere", "neither qform nor sform"),
        ("sheared", "orthonormal"),
        ("colours", "3 numbers a voxel"),
        ("flat", "has 2 dimensions"),
        ("out.mhd", "wanted one file beside it"),
        ("list.mhd", "wanted one file beside it"),
        ("alone.mhd", "is not beside it"),
        ("out.nhdr", "wanted one file beside it"),
        ("alone.hdr", "the file of its voxels, 'alone.img', is not beside it"),
        ("cut.hdr", "cut short"),
        ("old.hdr", "neither qform nor sform"),
        ("cut.mgh", r"cannot be read as MGH \(cut short after 4,716 of 63,000 bytes\)"),
        ("cut.mgz", r"cannot be read as MGH \(cannot be unpacked"),
        ("short.mgh", "cut short"),
        ("text.mgz", "cannot be read as MGH"),
        ("text.mgh", "its first bytes are not those of such a file"),
        ("type.mgh", "voxels of type 7, wanted one of 0, 1, 3, 4, 10"),
        ("nowhere.mgh", "does not say how it lies in the patient"),
        ("turned.mgh", "its axes are not perpendicular unit vectors"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, message: str) -> None:
    path = bad(tmp_path)[name]
    with pytest.raises(VolumeReadError, match=message) as caught:
        slice_pixels(choose_slice(read_volume(path).study).slice)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr", "a.nii.gz"])
def test_packed_voxels_that_are_damaged_are_not_read(tmp_path: Path, name: str) -> None:
    image = sitk.GetImageFromArray(voxels((2, 1, 0)))
    image.SetSpacing((4.0, 1.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / name), True)
    slice_pixels(choose_slice(read_volume(tmp_path / name).study).slice)
    (path,) = [p for p in tmp_path.iterdir() if p.suffix in (".zraw", ".gz")] or [tmp_path / name]
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) - 900], whole[:-900] + bytes(99) + whole[-801:]):
        path.write_bytes(damaged)
        with pytest.raises(VolumeReadError, match=r"unpacked|cut short|cannot be read"):
            slice_pixels(choose_slice(read_volume(tmp_path / name).study).slice)


@pytest.mark.parametrize("name", ["a.mgz", "a.nii.gz", "a.mha", "a.nrrd", "a.nii"])
def test_a_packed_volume_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, affine = voxels((0, 1, 2)), sagittal((0, 1, 2), (1, 1, 1))
    path = tmp_path / name
    if path.suffix in (".mha", ".nrrd"):
        image = sitk.GetImageFromArray(data.T)
        image.SetSpacing(SPACING)
        sitk.WriteImage(image, str(path), True)
    else:
        write_by_nibabel(path, data, affine)
    read: list[int | None] = []
    voxels_of = volume_module._voxels

    def count(path: Path, number: int | None = None) -> np.ndarray:
        read.append(number)
        return voxels_of(path, number)

    monkeypatch.setattr(volume_module, "_voxels", count)
    headers = read_volume(path).study.series[0].slices
    for header in headers:
        assert_array_equal(slice_pixels(header), data[header.frame].T)
    assert read == ([None] if name != "a.nii" else [header.frame for header in headers])
    monkeypatch.setattr(volume_module, "_MOST_KEPT_VOXELS", 9)
    assert_array_equal(slice_pixels(headers[1]), data[headers[1].frame].T)
    assert read[-1] == headers[1].frame


def test_a_packed_volume_that_was_changed_is_read_again(tmp_path: Path) -> None:
    data, affine = voxels((0, 1, 2)), sagittal((0, 1, 2), (1, 1, 1))
    for change in (0, 1):
        path = write_by_nibabel(tmp_path / "a.mgz", data + np.int16(change), affine)
        header = read_volume(path).study.series[0].slices[0]
        assert_array_equal(slice_pixels(header), data[header.frame].T + change)


def test_an_even_slice_is_an_error(tmp_path: Path) -> None:
    path = write_nifti(
        tmp_path / "a.nii", np.full(SIZES, 7, np.int16), sagittal((0, 1, 2), (1, 1, 1))
    )
    with pytest.raises(VolumeReadError, match="constant image"):
        slice_pixels(choose_slice(read_volume(path).study).slice)


def test_without_simpleitk_format_and_extra_are_named(tmp_path: Path, monkeypatch) -> None:
    path = write_nifti(tmp_path / "a.nii", voxels((0, 1, 2)), np.eye(4))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(VolumeReadError, match=r"NIfTI files need .*pip install 'spineline\[vol"):
        read_volume(path)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.nii", ".nii"), ("B.MHA", ".mha"), ("a.MGZ", ".mgz"), (".nii.gz", ""), ("a.gz", "")],
)
def test_volumes_are_known_by_their_names(name: str, suffix: str) -> None:
    assert volume_suffix(Path(name)) == suffix
