"""Volumes as sagittal stacks: NIfTI, MHA, MHD, NRRD and FreeSurfer's MGH.

SimpleITK (the extra ``volumes``) reads all of them but MGH.

A volume becomes a study of one series, with a slice for each place along its left-right axis.
Spacing, orientation and position are in DICOM's patient coordinates (LPS mm), so that these slices
can be used like DICOM slices. A slice's rows and columns are the volume's two other axes: x runs
along the one that comes first in the file, y along the other.

``SliceHeader.frame`` is the slice's index in the file, from 0. Nothing is resampled. A volume that
was acquired in another plane is cut if its voxels are small enough, and refused otherwise.
"""

from __future__ import annotations

import functools
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import Float32Array, FloatArray
from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.common.files import file_state
from spineline.datasets.common.remarks import PathText, Remark, remark
from spineline.datasets.dicom.geometry import MOST_ASPECT
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.stacks.series import series_of
from spineline.datasets.dicom.types import Study
from spineline.datasets.images import IMAGE_SUFFIXES, is_constant, read_image
from spineline.datasets.volumes.mgh import MGH_SUFFIXES, read_mgh_header, read_mgh_voxels

VOLUME_FORMATS: dict[str, str] = {
    ".nii": "NIfTI",
    ".nii.gz": "NIfTI",
    ".hdr": "NIfTI",
    ".mha": "MetaImage (MHA)",
    ".mhd": "MetaImage (MHD)",
    ".nrrd": "NRRD",
    ".nhdr": "NRRD",
    ".mgh": "MGH",
    ".mgz": "MGH",
}
"""Format by the suffix of volumes, lower case. The voxels of ``a.hdr`` are in ``a.img``."""

_READERS = {"NIfTI": "NiftiImageIO", "MetaImage": "MetaImageIO", "NRRD": "NrrdImageIO"}

MAX_VOXELS = 1 << 29
"""Volumes with more voxels are refused before they are read."""

_MOST_KEPT_VOXELS = 1 << 26
"""Voxels of larger volumes are not kept in memory between slices."""

_UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
"""Units of a NRRD header."""

_COARSE_MM = 1.5  # largest length of a voxel that can be a slice's pixel, whatever its shape
_COARSE = 1.5  # or largest ratio of its length to its width
_APART_MM = 0.5  # distance at which two geometries of one file count as different
_SAME_MM = 1e-3  # relative difference up to which two lengths of voxels are the same, but rounded
_WORDS = re.compile(r"T1W?|T2W?|T2STAR|PDW?|STIR|TIRM|FLAIR|SAG|SAGITTAL|TRA|AX|AXIAL|COR|DIXON|FS")


class VolumeReadError(SpinelineError):
    """A volume cannot be read, or has no sagittal slices."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as a study, before any voxel is read.

    Attributes:
        study: a study with one series, whose slices are in the file.
        remarks: what a user should know about it; their codes are ``slice_choice`` and
            ``volume_geometry``.
    """

    study: Study
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class _Grid:
    """Geometry of a volume's voxels in the patient, LPS mm; axes in the order of the file."""

    size: tuple[int, ...]
    spacing_mm: FloatArray
    origin_mm: FloatArray
    directions: FloatArray
    volumes: int

    @property
    def across(self) -> int:
        """The axis that runs most from left to right."""
        return int(np.abs(self.directions[0]).argmax())

    @property
    def in_plane(self) -> tuple[int, int]:
        """The two other axes, along x and y of a slice."""
        first, second = (axis for axis in range(3) if axis != self.across)
        return first, second


def volume_suffix(path: Path) -> str:
    """Return the suffix of a volume's name, lower case; empty if it is not a volume.

    >>> volume_suffix(Path("a/T2.NII.GZ")), volume_suffix(Path("a.dcm"))
    ('.nii.gz', '')
    """
    name = path.name.lower()
    fits = (suffix for suffix in VOLUME_FORMATS if name.endswith(suffix) and name != suffix)
    return max(fits, key=len, default="")


def volume_files(path: Path) -> tuple[Path, ...]:
    """Return a volume's file, and the file of its voxels if its header names one."""
    try:
        name = _data_file(path)[0]
    except OSError:
        name = ""
    return (path, path.parent / name) if name else (path,)


def volume_header(path: Path) -> Path:
    """Return the ``.hdr`` file beside an ``.img`` file; any other path is returned unchanged."""
    if path.suffix.lower() != ".img":
        return path
    header = path.with_suffix(".HDR" if path.suffix.isupper() else ".hdr")
    return header if header.is_file() else path


def read_volume(path: Path) -> Volume:
    """Read the slices of a volume with their places in the patient, from its header.

    Raises:
        VolumeReadError: the file is missing, damaged, too large, in colour or of vectors. Also
            raised if it has no place in the patient, if its voxels are too long for sagittal
            slices, or if SimpleITK is not installed.
    """
    if volume_suffix(path) in MGH_SUFFIXES:
        grid = _mgh_grid(path)
        remarks = _plane_remarks(grid, path)
    else:
        with _opened(path) as reader:
            grid = _grid_of(reader, path)
            remarks = [*_plane_remarks(grid, path), *_form_remarks(reader, path)]
    if grid.volumes > 1:
        wording = "{file.shown} holds {count} volumes: only the first was used"
        count = grid.volumes
        name = PathText(path.name)
        remarks.append(remark("slice_choice", wording, file=name, count=count))
    headers = [_slice_of(path, grid, n) for n in range(grid.size[grid.across])]
    study = Study("", path.name, path.parent, series_of(headers))
    return Volume(study, tuple(remarks))


def slice_pixels(header: SliceHeader) -> Float32Array:
    """Read the pixels of a slice from a DICOM file, a volume, or an image file.

    Returns:
        (rows, columns) float32, with bright values high, not windowed.

    Raises:
        SpinelineError: the pixels cannot be read, or are constant.
    """
    if volume_suffix(header.path) and not header.instance_uid:
        pixels = _volume_pixels(header)
    elif header.path.suffix.lower() in IMAGE_SUFFIXES and not header.instance_uid:
        pixels = read_image(header.path, header.frame).astype(np.float32)
    else:
        return read_pixels(header)
    if pixels.shape != (header.rows, header.columns):
        wanted = f"{header.rows}x{header.columns}"
        msg = f"{header.path}: {pixels.shape[0]}x{pixels.shape[1]} pixels, wanted {wanted}"
        raise VolumeReadError(msg)
    if is_constant(pixels):
        msg = f"{header.path}: constant image, nothing can be seen in it; export it again"
        raise VolumeReadError(msg)
    return pixels


def _volume_pixels(header: SliceHeader) -> Float32Array:
    path, number = header.path, header.frame or 0
    grid = _grid(path)
    if _is_packed(path) and math.prod(grid.size) <= _MOST_KEPT_VOXELS:
        voxels = _kept_voxels(path, *map(file_state, volume_files(path)))
    else:
        voxels, number = _voxels(path, number), 0
    return np.ascontiguousarray(voxels.take(number, axis=2 - grid.across), dtype=np.float32)


@functools.lru_cache(maxsize=1)
def _kept_voxels(path: Path, *_: str) -> npt.NDArray[Any]:
    """All slices of a packed volume, which would be unpacked for each of them otherwise.

    Args:
        path: the file.
        *_: the states of its files, so that a changed file is read again.
    """
    return _voxels(path)


def _voxels(path: Path, number: int | None = None) -> npt.NDArray[Any]:
    """Read the first volume, (slices, rows, columns) in reversed order of the file's axes.

    Args:
        path: the file.
        number: the only sagittal slice that is wanted; None for all.
    """
    if volume_suffix(path) in MGH_SUFFIXES:
        try:
            voxels = read_mgh_voxels(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        return voxels if number is None else voxels.take([number], axis=2 - _grid(path).across)
    with _opened(path) as reader:
        grid = _grid_of(reader, path)
        _check_whole(reader, path)
        _check_packing(path)
        dimensions = reader.GetDimension()
        size = [*grid.size, *[1] * (dimensions - 3)]
        index = [0] * dimensions
        if number is not None:
            size[grid.across], index[grid.across] = 1, number
        reader.SetExtractSize(size)
        reader.SetExtractIndex(index)
        import SimpleITK

        voxels = SimpleITK.GetArrayFromImage(reader.Execute())
    return voxels.reshape(voxels.shape[-3:])


def _is_packed(path: Path) -> bool:
    """Whether a slice can only be read by unpacking those before it."""
    suffix = volume_suffix(path)
    return suffix in (".nii.gz", *MGH_SUFFIXES) or _data_file(path)[2] is not None


def _grid(path: Path) -> _Grid:
    if volume_suffix(path) in MGH_SUFFIXES:
        return _mgh_grid(path)
    with _opened(path) as reader:
        return _grid_of(reader, path)


def _slice_of(path: Path, grid: _Grid, number: int) -> SliceHeader:
    across, (along_x, along_y) = grid.across, grid.in_plane
    step = grid.directions[:, across] * grid.spacing_mm[across]
    x, y, z = (grid.origin_mm + number * step).tolist()
    axes = (*grid.directions[:, along_x].tolist(), *grid.directions[:, along_y].tolist())
    return SliceHeader(
        path=path,
        study_uid="",
        series_uid="",
        instance_uid="",
        rows=grid.size[along_y],
        columns=grid.size[along_x],
        spacing_rc_mm=(float(grid.spacing_mm[along_y]), float(grid.spacing_mm[along_x])),
        orientation=axes,
        position=(x, y, z),
        series_description=path.name,
        instance_number=number + 1,
        frame=number,
        frames=grid.size[across],
        words=_words_of(path),
    )


def _words_of(path: Path) -> str:
    """Words in a file's name that state the kind of scan, such as ``T2W``."""
    stem = path.name[: -len(volume_suffix(path))].upper()
    return " ".join(word for word in re.split(r"[^A-Z0-9]+", stem) if _WORDS.fullmatch(word))


def _mgh_grid(path: Path) -> _Grid:
    _check_is_file(path)
    try:
        header = read_mgh_header(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if header.origin_mm is None:
        msg = f"{path}: its header does not say how it lies in the patient; "
        raise VolumeReadError(f"{msg}convert it from DICOM again")
    grid = _Grid(
        header.size, header.spacing_mm, header.origin_mm, header.directions, header.volumes
    )
    return _checked(grid, path)


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        raise VolumeReadError(f"{path}: no such file; check the path")


def _unreadable(path: Path, reason: Exception | str) -> VolumeReadError:
    kind = VOLUME_FORMATS[volume_suffix(path)]
    shown = reason if isinstance(reason, str) else first_line(reason)
    msg = f"{path}: cannot be read as {kind} ({shown}); the file may be damaged, or no "
    return VolumeReadError(f"{msg}{kind} at all: export it again")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a volume's header with SimpleITK's reader; its errors become ours."""
    kind = VOLUME_FORMATS[volume_suffix(path)]
    _check_is_file(path)
    try:
        import SimpleITK
    except ImportError as error:
        msg = f"{path}: {kind} files need the package SimpleITK, which is not installed; "
        raise VolumeReadError(f"{msg}install it with pip install 'spineline[volumes]'") from error
    _check_data_file(path)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_READERS[kind.split()[0]])  # so that the case of the name does not matter
    try:
        reader.ReadImageInformation()
        yield reader
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        shown = lines[-1].replace(str(path), path.name) if lines else first_line(error)
        shown = re.sub(r"\(0x[0-9a-f]+\)", "", shown)  # the memory address of ITK's object
        raise _unreadable(path, shown[:200]) from error


def _check_data_file(path: Path) -> None:
    """Refuse a header that refers to voxels outside its own folder.

    Raises:
        VolumeReadError: it does, or the file that it names is missing.
    """
    name = _data_file(path)[0]
    if not name:
        return
    if name.split(" ")[0] == "LIST" or re.search(r"[/\\%]|\.\.", name):
        msg = f"{path}: its voxels lie in {name!r:.60}; wanted one file beside it"
        raise VolumeReadError(f"{msg}: write the volume as one file")
    if not (path.parent / name).is_file():
        msg = f"{path}: the file of its voxels, {name!r:.60}, is not beside it; "
        raise VolumeReadError(f"{msg}put it there")


def _data_file(path: Path) -> tuple[str, int, int | None]:
    """Where a header locates its voxels.

    Returns:
        The name of their file, empty if it is the same, and their offset in it. The last value is
        the ``wbits`` with which zlib unpacks them, None if they are not compressed by it.
    """
    suffix = volume_suffix(path)
    if suffix == ".hdr":
        return path.stem + (".IMG" if path.suffix.isupper() else ".img"), 0, None
    if suffix.startswith(".nii") or suffix in MGH_SUFFIXES:
        return "", 0, None
    with path.open("rb") as file:
        head = file.read(1 << 16).decode("latin-1")
    if suffix in (".nrrd", ".nhdr"):
        parts = re.split(r"(?<=\n)\r?\n", head, maxsplit=1)
        begin = len(head) - len(parts[1]) if len(parts) > 1 else len(head)
        found = re.search(r"^data ?file:[ \t]*(.*?)\s*$", parts[0], re.MULTILINE | re.IGNORECASE)
        packed = re.search(r"^encoding:\s*gz", parts[0], re.MULTILINE | re.IGNORECASE)
        wbits = 16 + zlib.MAX_WBITS
    else:
        found = re.search(r"^ElementDataFile[ \t]*=[ \t]*(.*?)[ \t\r]*$\n?", head, re.MULTILINE)
        begin = len(head) if found is None else found.end()
        packed = re.search(r"^CompressedData[ \t]*=[ \t]*True", head[:begin], re.MULTILINE)
        wbits = zlib.MAX_WBITS
    name = "" if found is None or found.group(1).lower() == "local" else found.group(1)
    skips = re.search(r"^(byte ?skip|line ?skip|HeaderSize)\b", head[:begin], re.MULTILINE)
    return name, 0 if name else begin, wbits if packed and not skips else None


def _check_packing(path: Path) -> None:
    """Refuse damaged compressed voxels, which SimpleITK reads up to the damage.

    Raises:
        VolumeReadError: they are damaged.
    """
    name, begin, wbits = _data_file(path)
    if wbits is None:
        return
    unpack = zlib.decompressobj(wbits)
    try:
        with (path.parent / name if name else path).open("rb") as file:
            file.seek(begin)
            while not unpack.eof and (data := unpack.unconsumed_tail or file.read(1 << 20)):
                unpack.decompress(data, 1 << 24)  # in steps, however far it expands
    except (OSError, zlib.error) as error:
        msg = f"{path}: its voxels cannot be unpacked ({first_line(error)}); the file is damaged"
        raise VolumeReadError(f"{msg}: export it again") from error
    if not unpack.eof:
        raise VolumeReadError(f"{path}: its packed voxels are cut short; export it again")


def _grid_of(reader: Any, path: Path) -> _Grid:
    """Read the geometry; raises VolumeReadError if it is not plain, too large or not sagittal."""
    size, dimensions = tuple(reader.GetSize()), reader.GetDimension()
    if reader.GetNumberOfComponents() != 1:
        count = reader.GetNumberOfComponents()
        msg = f"{path}: holds {count} numbers a voxel (colours or vectors); wanted grey values"
        raise VolumeReadError(msg)
    if dimensions not in (3, 4):
        msg = f"{path}: has {dimensions} dimensions, wanted 3; save a flat image as PNG"
        raise VolumeReadError(msg)
    codes = [_number(reader, f"{form}form_code", -1) for form in ("q", "s")]
    if codes == [0, 0]:
        msg = f"{path}: its header says by neither qform nor sform how it lies in the patient; "
        raise VolumeReadError(f"{msg}convert it from DICOM again")
    matrix = np.array(reader.GetDirection(), dtype=np.float64).reshape(dimensions, dimensions)
    unit_mm = _nrrd_unit_mm(path)
    spacing_mm = _pixdim_mm(reader) * unit_mm
    if _taken_form(reader) == "sform":
        stated_mm = _voxel_mm(_forms(reader)["sform"])
        if not np.allclose(stated_mm, spacing_mm, rtol=_SAME_MM):
            spacing_mm = stated_mm
    grid = _Grid(
        size=size[:3],
        spacing_mm=spacing_mm,
        origin_mm=np.array(reader.GetOrigin()[:3], dtype=np.float64) * unit_mm,
        directions=matrix[:3, :3],
        volumes=math.prod(size[3:]),
    )
    return _checked(grid, path)


def _checked(grid: _Grid, path: Path) -> _Grid:
    """Return a grid that is not too large and whose voxels have a possible size."""
    if math.prod(grid.size) * grid.volumes > MAX_VOXELS:
        shown = " x ".join(map(str, (*grid.size, grid.volumes)))
        raise VolumeReadError(f"{path}: {shown} voxels are more than the {MAX_VOXELS:,} allowed")
    if not all(0 < value < 100 for value in grid.spacing_mm):
        shown = " x ".join(f"{value:g}" for value in grid.spacing_mm)
        raise VolumeReadError(f"{path}: voxels of {shown} mm; wanted more than 0, below 100")
    return grid


def _nrrd_unit_mm(path: Path) -> float:
    """Millimetres per unit of a NRRD header, which SimpleITK 2.5 ignores.

    Raises:
        VolumeReadError: units differ by axis, or are not among `_UNITS_MM`.
    """
    if volume_suffix(path) not in (".nrrd", ".nhdr"):
        return 1.0  # SimpleITK converts the units of NIfTI; MetaImage has only mm
    with path.open("rb") as file:
        head = re.split(r"\n\r?\n", file.read(1 << 16).decode("latin-1"), maxsplit=1)[0]
    line = re.search(r"^space units:(.*)$", head, re.MULTILINE | re.IGNORECASE)
    found = {} if line is None else dict.fromkeys(re.findall(r'"([^"]*)"', line.group(1)))
    units = [unit for unit in found if unit.strip()]
    if not units:
        return 1.0
    if len(units) > 1 or units[0].strip() not in _UNITS_MM:
        msg = f"{path}: space units {', '.join(units):.60}; wanted one of "
        raise VolumeReadError(f"{msg}{', '.join(_UNITS_MM)} for all axes: write it in mm")
    return _UNITS_MM[units[0].strip()]


def _plane_remarks(grid: _Grid, path: Path) -> list[Remark]:
    """A remark if a volume was acquired in another plane.

    Raises:
        VolumeReadError: no axis runs from left to right, or its voxels are too long.
    """
    sure = abs(float(grid.directions[0, grid.across]))
    if sure <= math.cos(math.radians(45)):
        msg = f"{path}: none of its axes runs from side to side of the patient (the nearest is "
        raise VolumeReadError(f"{msg}{math.degrees(math.acos(sure)):.0f} degrees off); resample it")
    spacing = grid.spacing_mm
    fine, coarse = sorted(float(spacing[axis]) for axis in grid.in_plane)
    if coarse <= spacing[grid.across] * 1.01 or coarse <= fine * 1.01:
        return []
    thick = max(grid.in_plane, key=lambda axis: float(spacing[axis]))
    plane = ("", "coronal", "transverse")[int(np.abs(grid.directions[:, thick]).argmax())]
    shown = " x ".join(f"{value:.3g}" for value in spacing)
    if coarse > max(_COARSE_MM, _COARSE * fine) or coarse > MOST_ASPECT * fine:
        msg = (
            f"{path}: a {plane or 'turned'} volume of {shown} mm voxels: a sagittal slice of it "
            f"would have pixels of {fine:.3g} x {coarse:.3g} mm, wanted {_COARSE_MM:g} mm or less, "
            f"or {_COARSE:g} times as long as wide; give the sagittal series"
        )
        raise VolumeReadError(msg)
    wording = "{file.shown} was acquired in another plane ({plane}): sagittal slices were cut "
    wording += "through its voxels of {voxels} mm"
    name = PathText(path.name)
    return [remark("slice_choice", wording, file=name, plane=plane or "turned", voxels=shown)]


def _number(reader: Any, key: str, otherwise: float) -> float:
    try:
        return float(reader.GetMetaData(key)) if reader.HasMetaDataKey(key) else otherwise
    except ValueError:
        return otherwise


def _form_remarks(reader: Any, path: Path) -> list[Remark]:
    """A warning if a NIfTI header states its geometry in two ways, because programs then disagree.

    Source: the NIfTI-1 standard, methods 2 (qform) and 3 (sform).
    """
    forms, name = _forms(reader), PathText(path.name)
    if len(forms) == 1 and "sform" in forms:
        header_mm, sform_mm = _pixdim_mm(reader), _voxel_mm(forms["sform"])
        if np.allclose(header_mm, sform_mm, rtol=_SAME_MM):
            return []
        shown = (" x ".join(f"{value:.3g}" for value in mm) for mm in (header_mm, sform_mm))
        wording = "{file.shown}: its header says voxels of {pixdim} mm (pixdim), its sform {sform} "
        wording += "mm: the sform's are used, and programs that use the other measure differently"
        sizes = dict(zip(("pixdim", "sform"), shown, strict=True))
        return [remark("volume_geometry", wording, file=name, **sizes)]
    if len(forms) < 2:
        return []
    size = np.array(reader.GetSize()[:3], dtype=np.float64) - 1
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners = corners * [*size, 1]
    apart = corners @ (forms["qform"] - forms["sform"]).T
    apart_mm = float(np.linalg.norm(apart, axis=1).max())
    if apart_mm < _APART_MM:
        return []
    wording = "{file.shown} places its voxels in two ways that lie up to {apart_mm} mm apart: "
    wording += "point_mm are by its {taken}, and programs that use the other show them elsewhere"
    taken, apart_mm = _taken_form(reader) or "qform", round(apart_mm, 1)
    return [remark("volume_geometry", wording, file=name, apart_mm=apart_mm, taken=taken)]


def _taken_form(reader: Any) -> str | None:
    """Which geometry of a NIfTI header SimpleITK took: ``sform`` or ``qform``; None if neither.

    It takes a form's origin and directions, but always the lengths of voxels by pixdim, which are
    those of the qform. If both forms have this origin and these directions, it is the sform, as
    in nibabel.
    """
    origin = np.array(reader.GetOrigin()[:3]) * (-1, -1, 1)  # LPS to RAS
    count = reader.GetDimension()
    directions = np.reshape(reader.GetDirection(), (count, count))[:3, :3].T * (-1, -1, 1)
    for name, form in _forms(reader).items():
        axes = (form[:, :3] / _voxel_mm(form)).T
        if np.allclose(form[:, 3], origin, atol=1e-3) and np.allclose(axes, directions, atol=1e-3):
            return name
    return None


def _forms(reader: Any) -> dict[str, FloatArray]:
    """The geometries that a NIfTI header states, (3, 4) voxels to RAS mm: sform before qform."""
    unit_mm = {1: 1000.0, 3: 0.001}.get(int(_number(reader, "xyzt_units", 0)) & 7, 1.0)
    found = {"sform": _sform(reader), "qform": _qform(reader)}
    return {name: form * unit_mm for name, form in found.items() if form is not None}


def _voxel_mm(form: FloatArray) -> FloatArray:
    """(3,) lengths of voxels by a geometry."""
    return np.linalg.norm(form[:, :3], axis=0)


def _pixdim_mm(reader: Any) -> FloatArray:
    """(3,) lengths of voxels as SimpleITK reads them, in a NIfTI file from pixdim."""
    return np.array(reader.GetSpacing()[:3], dtype=np.float64)


def _qform(reader: Any) -> FloatArray | None:
    """(3, 4) voxels to RAS mm by the quaternion, or None if the header has none."""
    if _number(reader, "qform_code", 0) <= 0:
        return None
    b, c, d = (_number(reader, f"quatern_{name}", 0) for name in "bcd")
    a = math.sqrt(max(1 - b * b - c * c - d * d, 0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    steps = [_number(reader, f"pixdim[{n}]", 1) for n in (1, 2, 3)]
    steps[2] *= -1 if _number(reader, "pixdim[0]", 1) < 0 else 1
    offset = [_number(reader, f"qoffset_{name}", 0) for name in "xyz"]
    return np.column_stack([rotation * steps, offset])


def _sform(reader: Any) -> FloatArray | None:
    """(3, 4) voxels to RAS mm by the matrix, or None if the header has none."""
    if _number(reader, "sform_code", 0) <= 0:
        return None
    try:
        rows = [reader.GetMetaData(f"srow_{name}").split() for name in "xyz"]
        return np.array(rows, dtype=np.float64).reshape(3, 4)
    except (RuntimeError, ValueError):
        return None


def _check_whole(reader: Any, path: Path) -> None:
    """Refuse a truncated NIfTI file, which SimpleITK silently reads.

    Raises:
        VolumeReadError: it has fewer bytes than its header requires, or its compression is damaged.
    """
    suffix = volume_suffix(path)
    if VOLUME_FORMATS[suffix] != "NIfTI":
        return
    bits = _number(reader, "bitpix", 8)
    wanted = int(_number(reader, "vox_offset", 0) + math.prod(reader.GetSize()) * bits / 8)
    try:
        packed = suffix == ".nii.gz"
        found = _unpacked_size(path, wanted) if packed else volume_files(path)[-1].stat().st_size
    except Exception as error:  # isal raises other errors besides OSError and EOFError
        msg = f"{path}: cannot be unpacked ({first_line(error)}); the file is damaged"
        raise VolumeReadError(f"{msg}: export it again") from error
    if found < wanted:
        msg = f"{path}: holds {found:,} bytes, its header says {wanted:,}: it is cut short"
        raise VolumeReadError(f"{msg}; export it again")


def _unpacked_size(path: Path, enough: int) -> int:
    from isal import igzip

    found = 0
    with igzip.open(path, "rb") as file:
        while found <= enough and (data := file.read(1 << 20)):
            found += len(data)
    return found
