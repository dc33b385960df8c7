"""Phantoms: synthetic lumbar spines with their annotation, as images and as DICOM studies.

``spineline data phantom`` writes a small cohort; [draw_spine][] gives one image, and
``spineline.datasets.phantom_study`` one study. Everything follows from the seed: the same seed
gives the same bytes. Coordinates are native pixels, origin at the centre of the top left pixel.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineline.datasets.settings import Settings, key

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from spineline.datasets.annotations import ImageRecord
    from spineline.datasets.phantom_anatomy import Anatomy
    from spineline.datasets.phantom_render import Look, View

LOG = logging.getLogger("spineline")

FRAME_SIZES_HW: tuple[tuple[int, int], ...] = (
    (256, 256), (320, 320), (346, 384), (384, 384), (432, 480), (448, 448), (512, 512),
)  # fmt: skip
"""Sizes that are drawn from where none is asked for."""

_UNITS_OF_CSF = (260.0, 2600.0)  # stored value of cerebrospinal fluid, drawn on a log scale
STORED_MAX = 4095  # twelve bits, as scanners store them


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPhantom(Settings):
    """Keys of ``spineline data phantom``."""

    out: Path = key("folder to write to")
    n: int = key("how many studies", default=4, minimum=1, maximum=9999)
    region: str = key("part of the spine", default="lumbar", choices=("lumbar",))
    seed: int = key("decides every spine; another seed, other spines", default=0, minimum=0)
    format: tuple[str, ...] = key(
        "what to write: studies with a Tianchi annotation, frames with a report annotation",
        default=("dicom", "png"),
        choices=("dicom", "png"),
    )
    size: int | None = key(
        "rows and columns of the T2 sagittal images, none for various",
        default=None,
        minimum=128,
        maximum=1024,
    )
    slices: int = key("slices per series", default=7, minimum=1, maximum=31)
    overwrite: bool = key("replace an existing out folder", default=False)


@dataclass(frozen=True, slots=True)
class PhantomResult:
    """What ``data phantom`` wrote.

    Attributes:
        out: the folder.
        records: one per study, in order.
    """

    out: Path
    records: tuple[ImageRecord, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PhantomImage:
    """One synthetic mid-sagittal T2 image.

    Attributes:
        pixels: (rows, columns) uint8, windowed as every image that a model sees.
        values: (rows, columns) float32 grey values before the window, 0 … 4095, whole numbers.
        record: its annotation.
    """

    pixels: npt.NDArray[np.uint8]
    values: npt.NDArray[np.float32]
    record: ImageRecord


@dataclass(frozen=True, slots=True)
class Phantom:
    """All that decides the pictures of one synthetic patient.

    Attributes:
        anatomy, look: what is seen, and how.
        view: the frame of the sagittal T2 slices.
        csf_value: stored value of the brightest tissue.
    """

    anatomy: Anatomy
    look: Look
    view: View
    csf_value: float


def draw_spine(
    seed: int | np.random.Generator,
    size_hw: tuple[int, int] | None = (384, 384),
    *,
    image_id: str = "000-000",
) -> PhantomImage:
    """Draw one synthetic lumbar spine, mid-sagittal, T2.

    Args:
        seed: a seed, or a generator (which is advanced).
        size_hw: rows and columns; None draws one of ``FRAME_SIZES_HW``.
        image_id: of the record; its study is the part before the ``-``.

    Returns:
        The image with its record: eleven levels with point, box and pathology, and pixel spacing.
    """
    import numpy as np

    from spineline.datasets.images import window_to_uint8

    rng = np.random.default_rng(seed)
    drawn = draw_phantom(rng, size_hw)
    values = sagittal_values(drawn)
    return PhantomImage(window_to_uint8(values), values, record_of(drawn, image_id))


def draw_phantom(rng: np.random.Generator, size_hw: tuple[int, int] | None = (384, 384)) -> Phantom:
    """A random patient in a random frame; all eleven levels lie inside it."""
    import numpy as np

    from spineline.datasets.phantom_anatomy import draw_anatomy
    from spineline.datasets.phantom_render import View, draw_look

    drawn_size = FRAME_SIZES_HW[int(rng.integers(len(FRAME_SIZES_HW)))]
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


def sagittal_values(
    phantom: Phantom, *, contrast: Any = "t2", lateral_mm: float = 0.0, view: View | None = None
) -> npt.NDArray[np.float32]:
    """Stored grey values of one sagittal slice: (rows, columns) float32, whole, 0 … 4095."""
    import numpy as np

    from spineline.datasets.phantom_render import render_sagittal

    signal = render_sagittal(
        phantom.anatomy,
        phantom.look,
        view or phantom.view,
        contrast=contrast,
        lateral_mm=lateral_mm,
    )
    return np.clip(np.rint(signal * phantom.csf_value), 0, STORED_MAX).astype(np.float32)


def record_of(phantom: Phantom, image_id: str) -> ImageRecord:
    """The annotation of the mid-sagittal slice; points are whole pixels, as readers click them."""
    import numpy as np

    from spineline.datasets.annotations import ImageRecord, Structure
    from spineline.datasets.boxes import boxes_from_points
    from spineline.datasets.labels import kind_of_level

    levels = phantom.anatomy.levels()
    points = np.rint(phantom.view.to_pixels([point for _, point, _ in levels]))
    structures = tuple(
        Structure(level, kind_of_level(level), (float(x), float(y)), tuple(box.tolist()), tags)
        for (level, _, tags), (x, y), box in zip(
            levels, points, boxes_from_points(points), strict=True
        )
    )
    height, width = phantom.view.size_hw
    spacing = (phantom.view.spacing_mm, phantom.view.spacing_mm)
    study = image_id.split("-", maxsplit=1)[0]
    return ImageRecord(image_id, study, width, height, structures, spacing)


def phantom(settings: DataPhantom) -> PhantomResult:
    """Write ``settings.n`` phantoms.

    Writes ``studies/studyN/*.dcm`` and ``annotations.json`` (the official Tianchi shape) for
    ``dicom``, ``frames/ID.png`` and ``report_labels.json`` (the report's shape) for ``png``.

    Raises:
        OutputExistsError: the folder exists and ``overwrite`` is not set.
        SpinelineError: it cannot be written.
    """
    import numpy as np

    from spineline.datasets.files import staged_folder, write_json
    from spineline.datasets.runs import progress, write_run_record

    size_hw = None if settings.size is None else (settings.size, settings.size)
    records, studies, frames = [], [], []
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        for number in progress(range(settings.n), description="phantoms", total=settings.n):
            drawn = draw_phantom(np.random.default_rng([settings.seed, number]), size_hw)
            record = record_of(drawn, f"{number:03d}-000")
            if "dicom" in settings.format:
                record, entry = _write_dicom(stage, drawn, record, settings, number)
                studies.append(entry)
            if "png" in settings.format:
                frames.append(_write_frame(stage, drawn, record))
            records.append(record)
        if studies:
            write_json(stage / "annotations.json", studies)
        if frames:
            write_json(stage / "report_labels.json", frames)
        write_run_record(stage, "data phantom", settings)
    LOG.info("%s: %d phantom%s", settings.out, settings.n, "s" * (settings.n != 1))
    return PhantomResult(settings.out, tuple(records))


def _write_dicom(
    stage: Path, drawn: Phantom, record: ImageRecord, settings: DataPhantom, number: int
) -> tuple[ImageRecord, dict[str, Any]]:
    from spineline.datasets.phantom_study import annotation_entry, write_phantom_study

    folder = stage / "studies" / f"study{number}"
    identity = f"{settings.seed}.{number}"
    placed = write_phantom_study(folder, drawn, record, identity=identity, slices=settings.slices)
    return placed, annotation_entry(placed, settings.slices // 2)


def _write_frame(stage: Path, drawn: Phantom, record: ImageRecord) -> dict[str, Any]:
    import cv2

    from spineline.datasets.files import write_bytes
    from spineline.datasets.images import window_to_uint8
    from spineline.datasets.phantom_study import report_entry

    _, data = cv2.imencode(".png", window_to_uint8(sagittal_values(drawn)))
    write_bytes(stage / "frames" / f"{record.image_id}.png", data.tobytes())
    return report_entry(record)
