"""FreeSurfer volumes (MGH, and MGZ, which is gzip-compressed): where voxels lie, and their values.

SimpleITK does not read them. Source of the format: FreeSurfer's wiki, ``FsTutorial/MghFormat``. All
numbers are big-endian. A header of 284 bytes is followed by the voxels, the first axis fastest.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray

MGH_SUFFIXES: tuple[str, ...] = (".mgh", ".mgz")

_HEADER = np.dtype(
    [
        ("version", ">i4"), ("size", ">i4", 3), ("volumes", ">i4"), ("type", ">i4"),
        ("dof", ">i4"), ("placed", ">i2"), ("spacing", ">f4", 3), ("axes", ">f4", (3, 3)),
        ("centre", ">f4", 3),
    ]
)  # fmt: skip
_BYTES_BEFORE_VOXELS = 284
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True)
class MghHeader:
    """The header of an MGH file.

    Attributes:
        size: voxels along each of three axes.
        volumes: number of volumes.
        dtype: of the voxels.
        spacing_mm: (3,) length of a voxel along each axis.
        directions: (3, 3) unit vectors of the axes as columns, LPS.
        origin_mm: (3,) centre of the first voxel, LPS; None if the file does not place its voxels.
    """

    size: tuple[int, ...]
    volumes: int
    dtype: str
    spacing_mm: FloatArray
    directions: FloatArray
    origin_mm: FloatArray | None


def read_mgh_header(path: Path) -> MghHeader:
    """Read the header of a file.

    Raises:
        OSError: it cannot be opened or unpacked.
        ValueError: it is not such a file, or is damaged.
    """
    with _opened(path) as file:
        data = _read(file, _HEADER.itemsize)
    found = np.frombuffer(data, _HEADER)[0]
    size = tuple(int(n) for n in found["size"])
    kind, volumes = int(found["type"]), int(found["volumes"])
    if found["version"] != 1 or min(*size, volumes) < 1:
        raise ValueError("its first bytes are not those of such a file")
    if kind not in _TYPES:
        raise ValueError(f"voxels of type {kind}, wanted one of {', '.join(map(str, _TYPES))}")
    spacing = found["spacing"].astype(np.float64)
    directions = _LPS_OF_RAS @ found["axes"].astype(np.float64).T
    placed = found["placed"] == 1
    if placed and not np.allclose(directions.T @ directions, np.eye(3), atol=1e-2):
        raise ValueError("its axes are not perpendicular unit vectors")
    # The voxel with the index size / 2 lies at the centre, whether the size is even or odd.
    corner = _LPS_OF_RAS @ found["centre"] - directions @ (spacing * np.array(size) / 2)
    origin = corner if placed else None
    return MghHeader(size, volumes, _TYPES[kind], spacing, directions, origin)


def read_mgh_voxels(path: Path) -> npt.NDArray[Any]:
    """Read the first volume.

    Returns:
        (slices, rows, columns) with the file's own dtype: the axes of the file, the first one last.

    Raises:
        OSError: it cannot be opened or unpacked.
        ValueError: it is damaged or cut short.
    """
    header = read_mgh_header(path)
    with _opened(path) as file:
        _read(file, _BYTES_BEFORE_VOXELS)
        data = _read(file, math.prod(header.size) * np.dtype(header.dtype).itemsize)
        while file.read(1 << 20):  # to the end, where gzip's checksum is
            pass
    return np.frombuffer(data, header.dtype).reshape(header.size[::-1])


def _opened(path: Path) -> BufferedIOBase:
    return path.open("rb") if path.suffix.lower() == ".mgh" else gzip.open(path, "rb")


def _read(file: BufferedIOBase, count: int) -> bytes:
    try:
        data = file.read(count)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"cannot be unpacked: {error}") from error
    if len(data) < count:
        raise ValueError(f"cut short after {len(data):,} of {count:,} bytes")
    return data
