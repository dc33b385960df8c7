"""Phantoms: synthetic spines with their annotation, as images and as DICOM studies.

``spineline data phantom`` writes a small cohort; [draw_spine][] gives one image of a lumbar spine,
and ``spineline.datasets.phantoms.study`` one study; necks are drawn in
``spineline.datasets.phantoms.cervical``. Everything follows from the seed: the same seed
gives the same bytes. Coordinates are native pixels, origin at the centre of the top left pixel.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineline.datasets.common.settings import Settings, key

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from spineline.datasets.phantoms.anatomy import Anatomy
    from spineline.datasets.phantoms.render import Look, View
    from spineline.datasets.types import ImageRecord

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
    region: str = key("part of the spine", default="lumbar", choices=("lumbar", "cervical"))
    seed: int = key("decides every spine; another seed, other spines", default=0, minimum=0)
    format: tuple[str, ...] = key(
        "what to write: studies with a Tianchi annotation, frames with a report annotation; of "
        "necks studies without annotation, frames with CSV and LabelMe XML",
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
        region: ``lumbar`` or ``cervical``.
    """

    anatomy: Anatomy
    look: Look
    view: View
    csf_value: float
    region: str = "lumbar"


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

    from spineline.datasets.phantoms.anatomy import draw_anatomy
    from spineline.datasets.phantoms.render import View, draw_look

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

    signal = _renderer(phantom.region)(
        phantom.anatomy,
        phantom.look,
        view or phantom.view,
        contrast=contrast,
        lateral_mm=lateral_mm,
    )
    return np.clip(np.rint(signal * phantom.csf_value), 0, STORED_MAX).astype(np.float32)


def _renderer(region: str) -> Callable[..., npt.NDArray[np.float32]]:
    if region == "cervical":
        from spineline.datasets.phantoms.cervical import render_neck

        return render_neck
    from spineline.datasets.phantoms.render import render_sagittal

    return render_sagittal


def record_of(phantom: Phantom, image_id: str) -> ImageRecord:
    """The annotation of the mid-sagittal slice; points are whole pixels, as readers click them."""
    import numpy as np

    from spineline.datasets.boxes import boxes_from_points
    from spineline.datasets.labels import kind_of_level
    from spineline.datasets.types import ImageRecord, Structure

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
    ``dicom``, ``frames/ID.png`` and ``report_labels.json`` (the report's shape) for ``png``. Necks:
    ``studies`` without annotation, and ``frames`` with ``descr/*.csv``, a cervical source.

    Raises:
        OutputExistsError: the folder exists and ``overwrite`` is not set.
        SpinelineError: it cannot be written.
    """
    from spineline.datasets.common.files import staged_folder
    from spineline.datasets.common.run_record import write_run_record

    write = _write_necks if settings.region == "cervical" else _write_lumbar
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        records = write(stage, settings)
        write_run_record(stage, "data phantom", settings)
    LOG.info("%s: %d phantom%s", settings.out, settings.n, "s" * (settings.n != 1))
    return PhantomResult(settings.out, tuple(records))


def _write_lumbar(stage: Path, settings: DataPhantom) -> list[ImageRecord]:
    import numpy as np

    from spineline.datasets.common.files import write_json
    from spineline.datasets.common.log import progress

    size_hw = None if settings.size is None else (settings.size, settings.size)
    records, studies, frames = [], [], []
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
    return records


def _write_necks(stage: Path, settings: DataPhantom) -> list[ImageRecord]:
    """Necks: studies, and frames with a cervical source, every second patient in another file."""
    import numpy as np

    from spineline.datasets.common.files import write_bytes
    from spineline.datasets.common.log import progress
    from spineline.datasets.phantoms.cervical import draw_neck_phantom, neck_record, source_csv
    from spineline.datasets.phantoms.study import write_phantom_study

    size_hw = None if settings.size is None else (settings.size, settings.size)
    records: list[ImageRecord] = []
    tables: list[list[list[str]]] = [[], []]
    for number in progress(range(settings.n), description="phantoms", total=settings.n):
        drawn = draw_neck_phantom(np.random.default_rng([settings.seed, 1, number]), size_hw)
        record = neck_record(drawn, f"{number:03d}-000")
        if "dicom" in settings.format:
            folder, identity = (
                stage / "studies" / f"study{number}",
                f"neck.{settings.seed}.{number}",
            )
            record = write_phantom_study(
                folder, drawn, record, identity=identity, slices=settings.slices
            )
        if "png" in settings.format:
            tables[number % 2] += _write_neck_frames(stage, drawn, record, number, settings.seed)
        records.append(record)
    for number, rows in enumerate(tables):
        if rows:
            data = source_csv(rows, mark=number == 0)
            write_bytes(stage / "descr" / f"descr_{number:02d}.csv", data)
    return records


def _write_neck_frames(
    stage: Path, drawn: Phantom, record: ImageRecord, number: int, seed: int
) -> list[list[str]]:
    """The annotated frame and one beside the midline; their rows of the source."""
    import numpy as np

    from spineline.datasets.phantoms.cervical import (
        LATERAL_MM,
        labelme_xml,
        marked_objects,
        source_rows,
    )

    _write_png(stage, sagittal_values(drawn), record.image_id)
    beside = f"{record.study_id}-001"
    _write_png(stage, sagittal_values(drawn, lateral_mm=LATERAL_MM), beside)
    objects = marked_objects(drawn, np.random.default_rng([seed, 2, number]))
    xml = labelme_xml(
        f"{record.image_id}.png", drawn.view.size_hw, objects, wrapped=number % 3 == 1
    )
    return source_rows(number, record.image_id, xml)


def _write_dicom(
    stage: Path, drawn: Phantom, record: ImageRecord, settings: DataPhantom, number: int
) -> tuple[ImageRecord, dict[str, Any]]:
    from spineline.datasets.phantoms.study import write_phantom_study
    from spineline.datasets.tianchi import annotation_entry

    folder = stage / "studies" / f"study{number}"
    identity = f"{settings.seed}.{number}"
    placed = write_phantom_study(folder, drawn, record, identity=identity, slices=settings.slices)
    return placed, annotation_entry(placed, settings.slices // 2)


def _write_frame(stage: Path, drawn: Phantom, record: ImageRecord) -> dict[str, Any]:
    from spineline.datasets.phantoms.study import report_entry

    _write_png(stage, sagittal_values(drawn), record.image_id)
    return report_entry(record)


def _write_png(stage: Path, values: npt.NDArray[np.float32], image_id: str) -> None:
    import cv2

    from spineline.datasets.common.files import write_bytes
    from spineline.datasets.images import window_to_uint8

    _, data = cv2.imencode(".png", window_to_uint8(values))
    write_bytes(stage / "frames" / f"{image_id}.png", data.tobytes())
