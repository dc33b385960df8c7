"""Settings of ``spineline convert`` and ``spineline data check``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spineline.converters.sources.exports.kinds import SLICE_VIEWS, ExportKind
from spineline.datasets.cervical import USABLE_VALUE, CervicalClasses, CervicalColumns
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.labels import KINDS, LABEL_SETS

FORMATS: tuple[str, ...] = ("yolo", "voc", "coco")
OTHER_FORMATS: tuple[str, ...] = ("imagefolder", "pose", "labelstudio", "fasterrcnn")
"""Formats that are only written on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSettings(Settings):
    """Keys that all sources share."""

    annotations: Path = key("annotation file of the source (JSON)")
    images: Path = key("folder of the source's images")
    out: Path = key("folder to write the dataset to")
    to: tuple[str, ...] = key(
        "formats to write", default=FORMATS, choices=(*FORMATS, *OTHER_FORMATS)
    )
    labels: str = key("classes of the boxes", default="level", choices=tuple(LABEL_SETS))
    split: str = key(
        "split by patient: train, val or test (everything into one part), report "
        "(studies up to 150 train, the rest test), a ratio such as 0.67 (train, the "
        "rest val), 0.7,0.15,0.15, or a manifest file",
        default="0.67",
    )
    kfold: int | None = key(
        "number of folds to write, as out/fold0 … each a whole dataset; the test part "
        "of split is the test part of every fold",
        default=None,
        minimum=2,
    )
    patients: Path | None = key(
        "CSV, JSON or YAML file that maps images or studies to patients, whose studies "
        "ratios and folds keep together; none: use PatientID of DICOM images",
        default=None,
    )
    seed: int = key("random seed for ratios and folds", default=0, minimum=0)
    window: str = key(
        "grey values: stretched between percentiles 0.5 and 99.5, or unchanged (8 bit only)",
        default="percentile",
        choices=("percentile", "none"),
    )
    overwrite: bool = key("replace out if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertLumbar(ConvertSettings):
    """Keys that the lumbar sources share."""

    empty_tag: str | None = key(
        "grade to use for a missing or empty tag; none leaves the structure unlabelled",
        default=None,
        choices=("v1",),
    )
    kinds: tuple[str, ...] = key(
        "kinds of structures to keep in the dataset; the others are counted and dropped",
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
    """Keys that sources of discs without level share."""

    labels: str = key(
        "classes of the boxes: health, because the source does not name levels",
        default="health",
        choices=tuple(LABEL_SETS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertCervical(ConvertWithoutLevels):
    """Keys of ``spineline convert cervical``."""

    annotations: Path = key("folder of the source's CSV files, or a single file")
    images: Path | None = key(  # type: ignore[assignment]
        "folder of the source's images; none writes only the labels, with sizes from the XML",
        default=None,
    )
    min_boxes: int = key("images with fewer discs are left out", default=3, minimum=1)
    min_bin_size: int | None = key(
        "images whose disc count is shared by fewer images are left out; none: 9, or 1 "
        "if the source has fewer than 100 images",
        default=None,
        minimum=1,
    )
    iou: float = key(
        "if two boxes overlap by more, the healthy one is dropped",
        default=0.65,
        minimum=0,
        maximum=1,
    )
    train_ratio: float | None = key(
        "instead of split: share of images to train on, rounded down, chosen by seed; "
        "the rest is val",
        default=None,
    )
    require_images: bool = key("treat a missing image as an error", default=False)
    usable_value: str = key("value that marks a slice as usable", default=USABLE_VALUE)
    columns: CervicalColumns = key("names of the columns", default=CervicalColumns())
    classes: CervicalClasses = key("meanings of the classes", default=CervicalClasses())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertPrepared(ConvertWithoutLevels):
    """Keys of ``spineline convert prepared``."""

    annotations: Path = key(
        "the prepared JSON, or a folder with train.json, val.json and test.json"
    )
    images: Path | None = key(  # type: ignore[assignment]
        "folder of the source's images; none treats all of them as missing, see image_size",
        default=None,
    )
    split: str = key(
        "source keeps the parts of the files (0.67 if there is only one file); "
        "otherwise as in the other conversions",
        default="source",
    )
    image_size: tuple[int, ...] = key(
        "width,height in pixels to use if an image is missing; none leaves the image out",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertPredicted(ConvertLumbar):
    """Keys of ``spineline convert result``."""

    annotations: Path = key("output folder of pipeline predict, a result.json, or a folder of them")
    images: Path = key("source of that run: DICOM studies, or the folder of images")
    studies: str = key(
        "all, with the corrections stored beside them, or only those that a reader has "
        "reviewed in spineline review",
        default="all",
        choices=("all", "reviewed"),
    )
    min_confidence: float = key(
        "structures with a lower detection confidence are left out",
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
        "keep or leave out results in which levels are missing",
        default="keep",
        choices=("keep", "leave_out"),
    )
    boxes: str = key(
        "boxes made from the points by the box rule, or the result's own boxes",
        default="rule",
        choices=("rule", "result"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertExport(ConvertLumbar):
    """Keys that the exports of other tools share."""

    kind: ClassVar[ExportKind]

    images: Path = key(
        "folder of the source's images: DICOM, plain images or volumes, at any depth"
    )
    names: Path | None = key(
        "YAML file that maps the source's words: levels: {LWK1: L1, …}, grades: "
        "{attribute: pfirrmann, 1: v1, …}; none: only common spellings are known",
        default=None,
    )
    patient: str | None = key(
        "attribute or column that names the patient, or a file that maps images to "
        "patients, as in patients=",
        default=None,
    )
    boxes: str = key(
        "keep rectangles as boxes and use the box rule for points, or use the rule for all",
        default="own",
        choices=("own", "rule"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertPictures(ConvertExport):
    """Keys of the exports of tools that mark pictures, which may be slices of volumes."""

    slices: str | None = key(
        "for pictures of a volume's slices: the field that holds the slice number, or a"
        " regular expression for the picture's name such as "
        "(?P<volume>.+)_s(?P<slice>\\d+); none: the usual fields and names "
        "(case7_s12.png, case7/012.png)",
        default=None,
    )
    first_slice: int = key("number of a volume's first slice", default=0, minimum=0, maximum=1)
    view: str = key(
        "how these pictures show a slice: upright (head up, face left), stored (the "
        "file's axes as x and y), array (nibabel's volume[n]), or rot90 (np.rot90 of "
        "it)",
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

    annotations: Path = key("JSON export of Label Studio, or a folder of them")
    predictions: bool = key("use the prediction of a task that nobody annotated", default=False)
    annotator: str | None = key(
        "annotator whose annotations to use (completed_by, a number or e-mail address);"
        " none: a task may have only one annotation",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertLabelme(ConvertPictures):
    """Keys of ``spineline convert labelme``."""

    kind: ClassVar[ExportKind] = "labelme"

    annotations: Path = key("folder of LabelMe's JSON files, or a single file")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSlicer(ConvertExport):
    """Keys of ``spineline convert slicer``."""

    kind: ClassVar[ExportKind] = "slicer"

    annotations: Path = key(
        "folder of 3D Slicer's .mrk.json and .fcsv files, named after studies, or a single file"
    )
    images: Path = key("folder of the DICOM studies or volumes that were annotated")
    off_slice_mm: float = key(
        "points farther than this from the nearest slice are left out, in mm",
        default=10.0,
        minimum=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvColumns(Settings):
    """Names of the columns of a CSV of points, regardless of case."""

    image: str = key(
        "column of the image's file name; several columns joined by / form a path from their cells",
        default="image",
    )
    uid: str = key("column of the SOP instance UID", default="sop_instance_uid")
    x: str = key("column of the point's x in pixels", default="x")
    y: str = key("column of the point's y in pixels", default="y")
    level: str = key("column of the level", default="level")
    grade: str = key("column of the grade", default="grade")
    slice: str = key(
        "column of a volume's slice number, counted from 0 or first_slice", default="slice"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertCsv(ConvertPictures):
    """Keys of ``spineline convert csv``."""

    kind: ClassVar[ExportKind] = "csv"

    annotations: Path = key("the CSV file of points, or a folder of them")
    columns: CsvColumns = key("names of the columns", default=CsvColumns())
    view: str = key(
        "how to count x and y in a volume's slice: stored (the file's axes), or as in a"
        " picture of the slice: upright, array, rot90",
        default="stored",
        choices=tuple(SLICE_VIEWS),
    )
    only: str | None = key(
        "COLUMN:VALUE of the rows to use, such as condition:Spinal Canal Stenosis", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck(Settings):
    """Keys of ``spineline data check``."""

    out: Path = key("folder to write check.json and check.csv to")
    annotations: Path | None = key(
        "annotation file of a source, or folder of CSV files or results (the kind is recognised)",
        default=None,
    )
    images: Path | None = key(
        "folder of the source's images; optional for a cervical or prepared source, and"
        " for a COCO file as data= with its images nearby",
        default=None,
    )
    data: Path | None = key(
        "dataset: its folder or data.yaml, converted or plain YOLO; or a COCO JSON file",
        default=None,
    )
    empty_tag: str | None = key(
        "grade that conversion uses for a missing or empty tag; none leaves the "
        "structure unlabelled",
        default=None,
        choices=("v1",),
    )
    predictions: tuple[Path, ...] | None = key(
        "with data=: out-of-fold predictions.csv, or folders with one (kfold classify "
        "OUT/VARIANT, or classify val); labels that contradict them are listed, with "
        "pictures",
        default=None,
    )
    names: Path | None = key(
        "for another tool's export: YAML file that maps its words, as in convert", default=None
    )
    limit: int = key(
        "largest number of contradicted labels to list, the most certain first",
        default=50,
        minimum=1,
    )
    overwrite: bool = key("replace out if it exists", default=False)
    usable_value: str = key(
        "for a cervical source: value that marks a slice as usable", default=USABLE_VALUE
    )
    columns: CervicalColumns = key("names of its columns", default=CervicalColumns())
    classes: CervicalClasses = key("meanings of its classes", default=CervicalClasses())


CORRECTION_TOOLS: tuple[str, ...] = ("cvat", "labelstudio", "slicer")
"""Tools that ``data export`` supports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataExport(Settings):
    """Keys of ``data export``."""

    to: tuple[str, ...] = key("tools to export for", choices=CORRECTION_TOOLS)
    out: Path = key("folder to write: the images, and a folder for each tool")
    data: Path | None = key(
        "dataset: its folder or data.yaml, converted or plain YOLO; or a COCO JSON file",
        default=None,
    )
    source: Path | None = key(
        "instead of data: output folder of pipeline predict, a result.json, or a folder of them",
        default=None,
    )
    images: Path | None = key(
        "with source=: the source of that run; with data= and to=slicer: the DICOM "
        "studies that the dataset was made from; for a COCO JSON file: the folder of "
        "its images",
        default=None,
    )
    shape: str = key(
        "shape of the marks in CVAT and Label Studio",
        default="points",
        choices=("points", "boxes"),
    )
    address: str = key(
        "prefix of an image's name in Label Studio's tasks",
        default="/data/local-files/?d=images/",
    )
    overwrite: bool = key("replace out if it exists", default=False)
