"""Event files for TensorBoard: curves of a training run, and one picture per epoch.

The records are those of ``torch.utils.tensorboard``. The file name is ours, because the package's
names contain the host and the time. An event's timestamp is its epoch, so that the same run gives
the same bytes. One file holds the epochs from a start or resumption. A resumption makes TensorBoard
discard the epochs that are trained again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.drawing import HEALTH_COLOURS_RGB, Mark, draw_overlay, side_by_side
from spineline.datasets.labels import kind_of_class
from spineline.detect.results import Detections

BOARD_FOLDER = "tensorboard"
"""Folder of the event files in a run folder."""

PICTURE = "val/labels_and_predictions"
"""Tag of the pictures."""

DRAWN_CONFIDENCE = 0.25
"""Lowest confidence of boxes in the pictures."""

_PREFIX, _SUFFIX = "events.out.tfevents.", ".spineline"
_SIDE_PX = 512
_MOST_DRAWN = 60


def check_tensorboard() -> None:
    """Refuse ``tensorboard=true`` if it cannot work, before anything is written.

    Raises:
        ConfigError: the package ``tensorboard`` is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        msg = (
            "tensorboard=true: needs the package tensorboard; install it by "
            f"pip install 'spineline[tensorboard]' ({error})"
        )
        raise ConfigError(msg) from error


class Board:
    """Writes the events of a run.

    Args:
        out: the run folder.
        done: number of epochs trained before; events of later ones are discarded.
    """

    def __init__(self, out: Path, done: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        folder = out / BOARD_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}")):
            if _start_of(file) >= done:
                file.unlink()
        self.file = folder / f"{_PREFIX}{done:010d}{_SUFFIX}"
        self._write(done, file_version="brain.Event:2")
        if done:
            self._write(done + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, epoch: int, row: Mapping[str, float]) -> None:
        """Write the numbers of an epoch, by tag; numbers that are not finite are left out."""
        from torch.utils.tensorboard.summary import scalar

        for tag, value in row.items():
            if math.isfinite(value):
                self._write(epoch, summary=scalar(tag, value))

    def picture(self, epoch: int, picture: npt.NDArray[np.uint8]) -> None:
        """Write the picture of an epoch: uint8 (h, w, 3) RGB."""
        from torch.utils.tensorboard.summary import image

        self._write(epoch, summary=image(PICTURE, picture, dataformats="HWC"))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=float(step), step=step, **content)
        with self.file.open("ab") as stream:
            RecordWriter(stream).write(event.SerializeToString(deterministic=True))


def _start_of(file: Path) -> int:
    number = file.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return int(number) if number.isdigit() else -1


def comparison(
    image: npt.NDArray[np.uint8],
    labels: tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]],
    found: Detections,
    *,
    title: str,
) -> npt.NDArray[np.uint8]:
    """Draw labels on the left and detections on the right, in one colour for healthy, one for sick.

    Args:
        image: uint8 (H, W).
        labels: boxes (N, 4) ``xyxy`` in native pixels and class indices (N,).
        found: detections; those of at least [DRAWN_CONFIDENCE][] are drawn.
        title: title of the left picture.

    Returns:
        uint8 (h, w, 3) RGB.
    """
    names = found.names
    legend = HEALTH_COLOURS_RGB if set(names) <= set(HEALTH_COLOURS_RGB) else None
    scale = max(1, min(4, _SIDE_PX // max(image.shape)))
    kept = found.at_least(DRAWN_CONFIDENCE)
    drawn = slice(0, _MOST_DRAWN)
    classes = [names[int(index)] for index in labels[1]]
    left = _marks(labels[0], classes, classes)
    found_names = [names[int(index)] for index in kept.class_index[drawn]]
    texts = [
        f"{name} {confidence:.2f}"
        for name, confidence in zip(found_names, kept.confidence[drawn].tolist(), strict=True)
    ]
    right = _marks(kept.boxes_xyxy[drawn], found_names, texts)
    return side_by_side(
        draw_overlay(image, left, title=title, scale=scale, legend=legend),
        draw_overlay(image, right, title="prediction", scale=scale, legend=legend),
    )


def _marks(
    boxes_xyxy: npt.NDArray[np.floating], names: Sequence[str], texts: Sequence[str]
) -> list[Mark]:
    marks = []
    for (left, top, right, bottom), name, text in zip(
        boxes_xyxy.tolist(), names, texts, strict=True
    ):
        centre = ((left + right) / 2, (top + bottom) / 2)
        colour = HEALTH_COLOURS_RGB.get(name)
        marks.append(Mark(centre, (left, top, right, bottom), kind_of_class(name), text, colour))
    return marks
