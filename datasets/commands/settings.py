"""Keys of the commands ``spineline data stats``, ``show``, ``crops`` and ``phantom``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.settings import Settings, key
from spineline.datasets.crops.spec import ALIGNS, CropSpec
from spineline.datasets.splits import PARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStats(Settings):
    """Keys of ``data stats``."""

    data: Path = key(
        "dataset: its folder or data.yaml, converted or plain YOLO; or a COCO JSON file"
    )
    images: Path | None = key(
        "for a COCO JSON file: folder of its images; none searches near the file", default=None
    )
    out: Path = key("folder to write stats.json, stats.md and histograms to")
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataShow(Settings):
    """Keys of ``data show``."""

    data: Path = key(
        "dataset: its folder or data.yaml, converted or plain YOLO; or a COCO JSON file"
    )
    images: Path | None = key(
        "for a COCO JSON file: folder of its images; none searches near the file", default=None
    )
    out: Path = key("folder to write one PNG per image and a contact sheet to")
    part: str = key("part to draw", default="all", choices=("all", *PARTS))
    ids: tuple[str, ...] = key(
        "image ids to draw; none selects evenly, among those with predictions if "
        "predictions are given",
        default=(),
    )
    limit: int = key("number of images to draw without ids", default=16, minimum=1)
    labels: str = key(
        "text beside each structure",
        default="pathology",
        choices=("none", "level", "pathology"),
    )
    boxes: bool = key("draw the boxes", default=True)
    scale: int | None = key(
        "enlargement factor of the images; none fits the image",
        default=None,
        minimum=1,
        maximum=8,
    )
    predictions: Path | None = key(
        "predictions.json of detect predict on this dataset; labels are drawn on the "
        "left, predictions on the right",
        default=None,
    )
    confidence: float = key(
        "lowest confidence of predictions to draw", default=0.25, minimum=0, maximum=1
    )
    columns: int = key("number of columns of the contact sheet", default=4, minimum=1, maximum=16)
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCrops(Settings):
    """Keys of ``spineline data crops``."""

    data: Path = key(
        "dataset: its folder or data.yaml, converted or plain YOLO; or a COCO JSON file"
    )
    images: Path | None = key(
        "for a COCO JSON file: folder of its images; none searches near the file", default=None
    )
    out: Path = key("folder to write to")
    size: int = key("side of a crop in pixels", default=64, minimum=8, maximum=1024)
    margin: float = key(
        "size of the crop relative to the box", default=1.0, minimum=0.1, maximum=10
    )
    align: str = key("rotate crops so that the spine is upright", default="none", choices=ALIGNS)
    jitter: bool = key("add training crops shifted by a tenth of the larger side", default=False)
    balance: str = key(
        "add noisy training crops until classes are balanced",
        default="none",
        choices=("none", "noise"),
    )
    balance_by: str = key("classes to balance", default="seven", choices=("seven", "binary"))
    noise_std: float = key(
        "noise of the copies, in grey levels", default=10.0, minimum=0, maximum=128
    )
    seed: int = key("random seed for the copies and their noise", default=0, minimum=0)
    overwrite: bool = key("replace out if it exists", default=False)

    def spec(self) -> CropSpec:
        """Return how crops are cut."""
        return CropSpec(self.size, self.margin, "spine" if self.align == "spine" else "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPhantom(Settings):
    """Keys of ``spineline data phantom``."""

    out: Path = key("folder to write to")
    n: int = key("number of studies", default=4, minimum=1, maximum=9999)
    region: str = key("part of the spine", default="lumbar", choices=("lumbar", "cervical"))
    seed: int = key("random seed for the drawn spines", default=0, minimum=0)
    format: tuple[str, ...] = key(
        "what to write: studies with a Tianchi annotation, or frames with a report "
        "annotation; for cervical spines, studies without annotation, or frames with "
        "CSV and LabelMe XML",
        default=("dicom", "png"),
        choices=("dicom", "png"),
    )
    size: int | None = key(
        "rows and columns of the T2 sagittal images; none: various sizes",
        default=None,
        minimum=128,
        maximum=1024,
    )
    slices: int = key("slices per series", default=7, minimum=1, maximum=31)
    overwrite: bool = key("replace out if it exists", default=False)
