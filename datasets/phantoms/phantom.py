"""Synthetic patients: a lumbar spine or a neck in a frame, its slices and its annotation.

[draw_spine][] returns one image of a lumbar spine with its annotation. Everything depends on the
seed: the same seed gives the same bytes. Coordinates are native pixels, with the origin at the
centre of the top left pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.common.arrays import Float32Array, PixelArray
from spineline.datasets.images import window_to_uint8
from spineline.datasets.labels import kind_of_level
from spineline.datasets.phantoms.anatomy import Anatomy, draw_anatomy
from spineline.datasets.phantoms.canvas import Contrast, Look, View, draw_look
from spineline.datasets.phantoms.lumbar import render_sagittal
from spineline.datasets.phantoms.neck import draw_neck, render_neck
from spineline.datasets.types import ImageRecord, Structure

LUMBAR_SIZES_HW: tuple[tuple[int, int], ...] = (
    (256, 256), (320, 320), (346, 384), (384, 384), (432, 480), (448, 448), (512, 512),
)  # fmt: skip
"""Sizes of lumbar frames, of which one is drawn if none is given."""

NECK_SIZES_HW: tuple[tuple[int, int], ...] = ((384, 384), (384, 384), (512, 512))
"""Sizes of neck frames, of which one is drawn if none is given."""

STORED_MAX = 4095
"""Twelve bits, as scanners store them."""

_UNITS_OF_CSF = (260.0, 2600.0)  # stored value of cerebrospinal fluid, drawn on a log scale
_RENDERERS: dict[str, Callable[..., Float32Array]] = {
    "lumbar": render_sagittal, "cervical": render_neck,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class PhantomImage:
    """One synthetic mid-sagittal T2 image.

    Attributes:
        pixels: (rows, columns) uint8, windowed like every image that a model sees.
        values: (rows, columns) float32 grey values before the window, 0 … 4095, integers.
        record: its annotation.
    """

    pixels: PixelArray
    values: Float32Array
    record: ImageRecord


@dataclass(frozen=True, slots=True)
class Phantom:
    """Everything that determines the images of one synthetic patient.

    Attributes:
        anatomy, look: the anatomy and its appearance.
        view: the frame of the sagittal T2 slices.
        csf_value: stored value of the brightest tissue.
        region: ``lumbar`` or ``cervical``.
    """

    anatomy: Anatomy
    look: Look
    view: View
    csf_value: float
    region: str = "lumbar"


def draw_spine(
    seed: int | np.random.Generator, size_hw: tuple[int, int] | None = (384, 384)
) -> PhantomImage:
    """Draw one synthetic lumbar spine, mid-sagittal, T2.

    Args:
        seed: a seed, or a generator (which is advanced).
        size_hw: rows and columns; None draws one of ``LUMBAR_SIZES_HW``.

    Returns:
        The image with its record: eleven levels with point, box and pathology, and pixel spacing.

    >>> image = draw_spine(0, (128, 128))
    >>> image.pixels.shape, len(image.record.structures)
    ((128, 128), 11)
    """
    drawn = draw_phantom(np.random.default_rng(seed), size_hw)
    values = sagittal_values(drawn)
    return PhantomImage(window_to_uint8(values), values, record_of(drawn, "000-000"))


def draw_phantom(rng: np.random.Generator, size_hw: tuple[int, int] | None = (384, 384)) -> Phantom:
    """Draw a random lumbar spine in a random frame that contains all eleven levels."""
    drawn_size = LUMBAR_SIZES_HW[int(rng.integers(len(LUMBAR_SIZES_HW)))]
    height, width = drawn_size if size_hw is None else size_hw
    anatomy, look = draw_anatomy(rng), draw_look(rng)
    spacing = round(float(rng.uniform(295, 400)) / max(height, width), 5)
    across, down = rng.normal(0.5, 0.04), rng.normal(0.465, 0.035)
    points = np.array([point for _, point, _ in anatomy.levels()]) / spacing
    low, high = points[:, 1].min(), points[:, 1].max()
    margin = 0.07 * height
    top = float(np.clip(down * height, margin - low, max(height - margin - high, margin - low)))
    view = View((height, width), spacing, (round(float(across * width), 2), round(top, 2)))
    csf = float(np.exp(rng.uniform(*np.log(_UNITS_OF_CSF))))
    return Phantom(anatomy, look, view, csf)


def draw_neck_phantom(
    rng: np.random.Generator, size_hw: tuple[int, int] | None = (384, 384)
) -> Phantom:
    """Draw a random neck in a random frame that contains C2 to T1."""
    drawn_size = NECK_SIZES_HW[int(rng.integers(len(NECK_SIZES_HW)))]
    height, width = drawn_size if size_hw is None else size_hw
    anatomy, look = draw_neck(rng), draw_look(rng)
    spacing = round(float(rng.uniform(215, 250)) / max(height, width), 5)
    x, y = rng.normal(0.52, 0.025) * width, rng.normal(0.53, 0.025) * height
    csf = float(np.exp(rng.uniform(*np.log(_UNITS_OF_CSF))))
    look = replace(look, noise=look.noise * 0.8, coil_centre_mm=float(rng.uniform(-10, 15)))
    view = View((height, width), spacing, (round(float(x), 2), round(float(y), 2)))
    return Phantom(anatomy, look, view, csf, region="cervical")


def sagittal_values(
    phantom: Phantom,
    *,
    contrast: Contrast = "t2",
    lateral_mm: float = 0.0,
    view: View | None = None,
) -> Float32Array:
    """Return grey values of one sagittal slice: (rows, columns) float32 integers, 0 … 4095."""
    signal = _RENDERERS[phantom.region](
        phantom.anatomy,
        phantom.look,
        view or phantom.view,
        contrast=contrast,
        lateral_mm=lateral_mm,
    )
    return stored_values(phantom, signal)


def stored_values(phantom: Phantom, signal: Float32Array) -> Float32Array:
    """Convert signals to stored values: integers, 0 … 4095."""
    return np.clip(np.rint(signal * phantom.csf_value), 0, STORED_MAX).astype(np.float32)


def record_of(phantom: Phantom, image_id: str) -> ImageRecord:
    """Return the annotation of the mid-sagittal slice; points are whole pixels, as in clicks."""
    levels = phantom.anatomy.levels()
    points = np.rint(phantom.view.to_pixels([point for _, point, _ in levels]))
    structures = tuple(
        Structure(level, kind_of_level(level), (float(x), float(y)), tuple(box.tolist()), tags)
        for (level, _, tags), (x, y), box in zip(
            levels, points, boxes_from_points(points), strict=True
        )
    )
    return framed_record(phantom, image_id, structures)


def framed_record(
    phantom: Phantom, image_id: str, structures: tuple[Structure, ...]
) -> ImageRecord:
    """Make a record of the phantom's frame; its study is the part of the id before the ``-``."""
    height, width = phantom.view.size_hw
    spacing = (phantom.view.spacing_mm, phantom.view.spacing_mm)
    study = image_id.split("-", maxsplit=1)[0]
    return ImageRecord(image_id, study, width, height, structures, spacing)
