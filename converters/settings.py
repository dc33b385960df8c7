"""Settings of ``spineline convert`` and ``spineline data check``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spineline.converters.sources.exports.kinds import ExportKind
from spineline.converters.sources.exports.slices import SLICE_VIEWS
from spineline.datasets.cervical import USABLE_VALUE, CervicalClasses, CervicalColumns
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.labels import KINDS, LABEL_SETS

FORMATS: tuple[str, ...] = ("yolo", "voc", "coco")
OTHER_FORMATS: tuple[str, ...] = ("imagefolder", "pose", "labelstudio", "fasterrcnn")
"""Formats that are written only where they are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSettings(Settings):
    """Keys that every source shares."""

    annotations: Path = key("the source's annotation file (JSON)")
    images: Path = key("folder of its images")
    out: Path = key("folder to write the dataset to")
    to: tuple[str, ...] = key(
        "formats to write", default=FORMATS, choices=(*FORMATS, *OTHER_FORMATS)
    )
    labels: str = key("what the boxes' classes are", default="level", choices=tuple(LABEL_SETS))
    split: str = key(
        "by patient: train, val or test (all into one part), report (number up to 150 train, the "
        "rest test), a ratio such as 0.67 (train, the rest val), 0.7,0.15,0.15, or a manifest file",
        default="0.67",
    )
    kfold: int | None = key(
        "write out/fold0 … each a whole dataset; what split makes test is tested in every fold",
        default=None,
        minimum=2,
    )
    patients: Path | None = key(
        "CSV, JSON or YAML of patient by image or study, whose studies no ratio or fold parts; "
        "none: by PatientID where the images are DICOM",
        default=None,
    )
    seed: int = key("decides ratios and folds", default=0, minimum=0)
    window: str = key(
        "grey values: stretched between percentiles 0.5 and 99.5, or left as they are (8 bit only)",
        default="percentile",
        choices=("percentile", "none"),
    )
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertLumbar(ConvertSettings):
    """Keys that the lumbar sources share."""

    empty_tag: str | None = key(
        "what a missing or empty tag is taken as; none leaves it unlabelled",
        default=None,
        choices=("v1",),
    )
    kinds: tuple[str, ...] = key(
        "structures to keep in the dataset; the others are counted and dropped",
        default=KINDS,
        choices=KINDS,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport(ConvertLumbar):
    """Keys of ``spineline convert report``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertTianchi(ConvertLumbar):
    """Keys of ``spineline convert tianchi``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertWithoutLevels(ConvertSettings):
    """Keys that the sources of discs without level share."""

    labels: str = key(
        "what the boxes' classes are: health, as the source names no levels",
        default="health",
        choices=tuple(LABEL_SETS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertCervical(ConvertWithoutLevels):
    """Keys of ``spineline convert cervical``."""

    annotations: Path = key("folder of the source's CSV files, or one of them")
    images: Path | None = key(  # type: ignore[assignment]
        "folder of its images; none writes the labels alone, with sizes from the XML", default=None
    )
    min_boxes: int = key("images with fewer discs are left out", default=3, minimum=1)
    min_bin_size: int | None = key(
        "images whose number of discs occurs in fewer images are left out; none takes 9, or 1 in a "
        "source of fewer than 100 images",
        default=None,
        minimum=1,
    )
    iou: float = key(
        "of two boxes that overlap by more, one is dropped (the healthy one)",
        default=0.65,
        minimum=0,
        maximum=1,
    )
    train_ratio: float | None = key(
        "in place of split: this share trains, rounded down, the rest is val; seed decides which",
        default=None,
    )
    require_images: bool = key("a missing image is an error", default=False)
    usable_value: str = key("what says that a slice is usable", default=USABLE_VALUE)
    columns: CervicalColumns = key("names of the columns", default=CervicalColumns())
    classes: CervicalClasses = key("meanings of the classes", default=CervicalClasses())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertPrepared(ConvertWithoutLevels):
    """Keys of ``spineline convert prepared``."""

    annotations: Path = key("the prepared JSON, or a folder of train.json, val.json, test.json")
    images: Path | None = key(  # type: ignore[assignment]
        "folder of its images; none takes all as missing, see image_size", default=None
    )
    split: str = key(
        "source keeps the parts of the files (0.67 where there is one file); else as in the other "
        "conversions",
        default="source",
    )
    image_size: tuple[int, ...] = key(
        "width,height in pixels to take where an image is missing; none leaves it out", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertPredicted(ConvertLumbar):
    """Keys of ``spineline convert result``."""

    annotations: Path = key("out folder of pipeline predict, a result.json, or a folder of them")
    images: Path = key("the source of that run: DICOM studies, or the folder of images")
    studies: str = key(
        "all, with the corrections that lie beside them; or those alone that a reader has looked "
        "at in spineline review",
        default="all",
        choices=("all", "reviewed"),
    )
    min_confidence: float = key(
        "structures of which the detector was less sure are left out of their record",
        default=0.0,
        minimum=0,
        maximum=1,
    )
    abstained: str = key(
        "keep or leave out results whose levels are a guess",
        default="leave_out",
        choices=("leave_out", "keep"),
    )
    missing: str = key(
        "results in which levels are missing: kept with those that are there, in order",
        default="keep",
        choices=("keep", "leave_out"),
    )
    boxes: str = key(
        "made from the points by the box rule, or the result's own",
        default="rule",
        choices=("rule", "result"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertExport(ConvertLumbar):
    """Keys that the exports of other tools share."""

    kind: ClassVar[ExportKind]

    images: Path = key("folder of its images: DICOM, plain images or volumes, at any depth")
    names: Path | None = key(
        "YAML of what its words stand for: levels: {LWK1: L1, …}, grades: {attribute: pfirrmann, "
        "1: v1, …}; none knows common spellings alone",
        default=None,
    )
    patient: str | None = key(
        "attribute or column that names the patient, or a file of patient by image as patients=",
        default=None,
    )
    boxes: str = key(
        "rectangles stay boxes, and the box rule makes those of points; or it makes all",
        default="own",
        choices=("own", "rule"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertPictures(ConvertExport):
    """Keys of the exports of tools that mark pictures, such as slices of volumes."""

    slices: str | None = key(
        "of pictures of a volume's slices: the field that holds the number of the slice, or a "
        r"regular expression of the picture's name such as (?P<volume>.+)_s(?P<slice>\d+); none "
        "takes the usual fields and names (case7_s12.png, case7/012.png)",
        default=None,
    )
    first_slice: int = key("the number of a volume's first slice", default=0, minimum=0, maximum=1)
    view: str = key(
        "how these pictures show a slice: upright (head up, face left), stored (the file's axes "
        "as x and y), array (nibabel's volume[n]), rot90 (np.rot90 of it)",
        default="upright",
        choices=tuple(SLICE_VIEWS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertCoco(ConvertPictures):
    """Keys of ``spineline convert coco``."""

    kind: ClassVar[ExportKind] = "coco"

    annotations: Path = key("the COCO file (boxes or key points), or a folder of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertCvat(ConvertPictures):
    """Keys of ``spineline convert cvat``."""

    kind: ClassVar[ExportKind] = "cvat"

    annotations: Path = key("annotations.xml of CVAT for images 1.1 (or for video), or its folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertLabelStudio(ConvertPictures):
    """Keys of ``spineline convert labelstudio``."""

    kind: ClassVar[ExportKind] = "labelstudio"

    annotations: Path = key("Label Studio's export as JSON, or a folder of them")
    predictions: bool = key("take the prediction of a task that nobody annotated", default=False)
    annotator: str | None = key(
        "whose annotations count (completed_by, a number or address); none: a task may have one",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertLabelme(ConvertPictures):
    """Keys of ``spineline convert labelme``."""

    kind: ClassVar[ExportKind] = "labelme"

    annotations: Path = key("folder of LabelMe's JSON files, or one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSlicer(ConvertExport):
    """Keys of ``spineline convert slicer``."""

    kind: ClassVar[ExportKind] = "slicer"

    annotations: Path = key(
        "folder of 3D Slicer's .mrk.json and .fcsv, named after studies, or one of them"
    )
    images: Path = key("folder of the DICOM studies or volumes that were marked")
    off_slice_mm: float = key(
        "points that lie further off the nearest slice are left out", default=10.0, minimum=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvColumns(Settings):
    """Names of the columns of a CSV of points; letters' case does not matter."""

    image: str = key(
        "column of the image's file name; several joined by / make a path of their cells",
        default="image",
    )
    uid: str = key("column of the SOP instance UID", default="sop_instance_uid")
    x: str = key("column of the point's x in pixels", default="x")
    y: str = key("column of the point's y in pixels", default="y")
    level: str = key("column of the level", default="level")
    grade: str = key("column of the grade", default="grade")
    slice: str = key("column of a volume's slice, from 0 or first_slice", default="slice")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertCsv(ConvertPictures):
    """Keys of ``spineline convert csv``."""

    kind: ClassVar[ExportKind] = "csv"

    annotations: Path = key("the CSV file of points, or a folder of them")
    columns: CsvColumns = key("names of the columns", default=CsvColumns())
    view: str = key(
        "how the x and y of a volume's slice count: stored (the file's axes), or as a picture of "
        "it shows them: upright, array, rot90",
        default="stored",
        choices=tuple(SLICE_VIEWS),
    )
    only: str | None = key(
        "COLUMN:VALUE of the rows to take, such as condition:Spinal Canal Stenosis", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck(Settings):
    """Keys of ``spineline data check``."""

    out: Path = key("folder to write check.json and check.csv to")
    annotations: Path | None = key(
        "a source's annotation file, or folder of CSV files or results (its kind is recognised)",
        default=None,
    )
    images: Path | None = key(
        "the source's images folder; a cervical or prepared source can do without, and a COCO file "
        "as data= whose images lie around it",
        default=None,
    )
    data: Path | None = key(
        "a dataset: its folder or data.yaml, converted or bare YOLO; or a COCO JSON file",
        default=None,
    )
    empty_tag: str | None = key(
        "what conversion takes a missing or empty tag as; none leaves it unlabelled",
        default=None,
        choices=("v1",),
    )
    predictions: tuple[Path, ...] | None = key(
        "of data=: predictions.csv on studies that the networks did not see, or folders with one, "
        "of kfold classify OUT/VARIANT or classify val; labels that they contradict are found, "
        "with pictures",
        default=None,
    )
    names: Path | None = key(
        "of another tool's export: YAML of what its words stand for, as of convert", default=None
    )
    limit: int = key("contradicted labels to list at most, the surest first", default=50, minimum=1)
    overwrite: bool = key("replace out if it exists", default=False)
    usable_value: str = key(
        "of a cervical source: what says that a slice is usable", default=USABLE_VALUE
    )
    columns: CervicalColumns = key("names of its columns", default=CervicalColumns())
    classes: CervicalClasses = key("meanings of its classes", default=CervicalClasses())


CORRECTION_TOOLS: tuple[str, ...] = ("cvat", "labelstudio", "slicer")
"""Tools that ``data export`` writes for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataExport(Settings):
    """Keys of ``data export``."""

    to: tuple[str, ...] = key("tools to write for", choices=CORRECTION_TOOLS)
    out: Path = key("folder to write to: images, and a folder for each tool")
    data: Path | None = key(
        "a dataset: its folder or data.yaml, converted or bare YOLO; or a COCO JSON file",
        default=None,
    )
    source: Path | None = key(
        "in place of data: out folder of pipeline predict, a result.json, or a folder of them",
        default=None,
    )
    images: Path | None = key(
        "of source=: that run's source; of data= with to=slicer: the DICOM studies it is of; of a "
        "COCO JSON file: folder of its images",
        default=None,
    )
    shape: str = key(
        "shape that marks a structure in CVAT and Label Studio",
        default="points",
        choices=("points", "boxes"),
    )
    address: str = key(
        "prefix of an image's name in Label Studio's tasks",
        default="/data/local-files/?d=images/",
    )
    overwrite: bool = key("replace out if it exists", default=False)
