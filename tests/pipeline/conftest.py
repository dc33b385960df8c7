"""Models that need no weights, and small studies for them to look at.

`SpotDetector` finds bright spots and names them from the top; `ShadeClassifier` grades by the mean
brightness of a crop. Both are deterministic and have the interfaces of the real ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from spineline.datasets.common.remarks import Remark
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.detect.results import Detections, no_detections
from spineline.pipeline.inference.naming import Naming
from spineline.pipeline.inference.pipeline import Analysis, Pipeline
from spineline.pipeline.inference.results import (
    BinaryGrade,
    GradedStructure,
    SevenGrade,
    StudyResult,
)
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.outputs.writers import study_writer
from spineline.pipeline.run.settings import PipelinePredict
from spineline.weights import Bundle, WeightsFile

SAGITTAL = (0, 1, 0, 0, 0, -1)


def spine_points(gap: float = 10.0, top: float = 20.0, x: float = 60.0) -> np.ndarray:
    """(11, 2) points of a gently bent spine."""
    rank = np.arange(11)
    return np.stack([np.rint(x + 6 * np.sin(rank / 4)), top + gap * rank], axis=1)


def spot_image(
    points: np.ndarray | None = None, size_hw: tuple[int, int] = (150, 120)
) -> np.ndarray:
    """uint8 image, dim ramp with a 5 x 5 bright spot at each point."""
    height, width = size_hw
    image = np.tile(np.linspace(10, 60, width), (height, 1)).astype(np.uint8)
    for x, y in spine_points() if points is None else points:
        image[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = 250
    return image


@dataclass
class SpotDetector:
    """Bright spots as boxes of twice their gap, named from the top; counts its calls."""

    names: tuple[str, ...] = LEVELS
    imgsz: int = 128
    calls: list[int] = field(default_factory=list)

    def detect(
        self,
        images: Sequence[np.ndarray],
        *,
        confidence: float = 0.25,
        iou: float = 0.8,
        max_detections: int = 300,
        batch: int = 16,
    ) -> list[Detections]:
        self.calls.append(len(images))
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> Detections:
        assert image.dtype == np.uint8
        _, _, _, centres = cv2.connectedComponentsWithStats((image > 200).astype(np.uint8))
        points = centres[1:][np.argsort(centres[1:, 1])][:11]
        gap = np.diff(points[:, 1]).mean() if len(points) > 1 else 10.0
        half = np.array([1.4 * gap, gap])
        return Detections(
            np.concatenate([points - half, points + half], axis=1).astype(np.float32),
            np.linspace(0.9, 0.5, len(points)).astype(np.float32),
            np.arange(len(points), dtype=np.int64),
            self.names,
        )


@dataclass
class FakeGrades:
    seven: np.ndarray | None
    binary: np.ndarray | None


@dataclass
class ShadeClassifier:
    """The same probabilities for all crops: discs bulging, vertebrae normal, v5 at 0.2."""

    head: str = "both"
    crop: CropSpec = field(default_factory=lambda: CropSpec(size=16))
    seen: list[np.ndarray] = field(default_factory=list)

    def grade(self, crops: np.ndarray, *, levels: np.ndarray | None = None) -> FakeGrades:
        assert crops.dtype == np.uint8
        assert crops.shape[1:] == (16, 16)
        self.seen.append(crops)
        row = np.array([0.3, 0.1, 0.1, 0.3, 0.1, 0.05, 0.05], np.float32)
        return FakeGrades(np.tile(row, (len(crops), 1)), np.full(len(crops), 0.2, np.float32))


@pytest.fixture
def fake_pipeline() -> Pipeline:
    return Pipeline(SpotDetector(), ShadeClassifier(), "fake", "0" * 64, ModelSettings())  # type: ignore[arg-type]


@pytest.fixture
def fake_models(monkeypatch: pytest.MonkeyPatch) -> list[Pipeline]:
    """Commands load the fakes instead of weights; the list holds every pipeline that was loaded."""
    loaded: list[Pipeline] = []

    def from_settings(cls: type[Pipeline], settings: ModelSettings) -> Pipeline:
        loaded.append(Pipeline(SpotDetector(), ShadeClassifier(), "fake", "0" * 64, settings))  # type: ignore[arg-type]
        return loaded[-1]

    monkeypatch.setattr(Pipeline, "from_settings", classmethod(from_settings))

    def bundle(settings: ModelSettings) -> Bundle:
        names = [str(name) for name in (settings.detector, settings.classifier)]
        files = [WeightsFile(name, Path(name), name) for name in names]
        return Bundle("fake", files[0], files[1], "0" * 64)

    for module in ("run.predict", "evaluation.val"):
        monkeypatch.setattr(f"spineline.pipeline.{module}.bundle_of", bundle)
    monkeypatch.setattr("spineline.pipeline.run.engine_local.auto_workers", lambda: 0)
    return loaded


@pytest.fixture
def predict(run_cli, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run ``pipeline predict`` of a source, by default into ``o``: code, stdout, stderr."""

    def run(source: Path, *words: str, out: Path | None = None) -> tuple[int, str, str]:
        keys = (f"source={source}", f"out={tmp_path / 'o' if out is None else out}")
        found: tuple[int, str, str] = run_cli("pipeline", "predict", *keys, *words)
        return found

    return run


@pytest.fixture
def val(run_cli, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run ``pipeline val`` of a source, by default into ``o``: code, stdout, stderr."""

    def run(
        source: Path, labels: Path, *words: str, out: Path | None = None
    ) -> tuple[int, str, str]:
        keys = (f"source={source}", f"annotations={labels}", "draws=20")
        out = tmp_path / "o" if out is None else out
        found: tuple[int, str, str] = run_cli("pipeline", "val", *keys, f"out={out}", *words)
        return found

    return run


@pytest.fixture
def make_result() -> Callable[..., StudyResult]:
    """Build a result: a code for each level, ``-`` where it is missing, ``u`` where not graded."""

    def make(
        codes: str = "20202020202",
        *,
        nodes: tuple[str, ...] = (),
        probability: float | None = 0.95,
        abstained: bool = False,
        warnings: tuple[Remark, ...] = (),
    ) -> StudyResult:
        structures = []
        for rank, (level, code) in enumerate(zip(LEVELS, codes, strict=True)):
            y, node, seven = 10.0 * rank, level in nodes, None
            if code not in "-u":
                seven = SevenGrade(int(code), tuple(float(n == int(code)) for n in range(7)))
            binary = BinaryGrade(int(node), 0.9 if node else 0.1)
            place = ((50.0, y), (40.0, y - 10, 60.0, y + 10), 0.9, None)
            if code != "-":
                structures.append(
                    GradedStructure(level, kind_of_level(level), *place, seven, binary)
                )
        missing = tuple(n for n, code in zip(LEVELS, codes, strict=True) if code == "-")
        naming = None if probability is None else Naming(probability, (), abstained)
        return StudyResult(
            "1.2.3.4", None, None, 100, 120, None, tuple(structures), missing, warnings,
            "w", "ab" * 32, "1", naming,
        )  # fmt: skip

    return make


@pytest.fixture
def bytes_of() -> Callable[..., dict[str, bytes]]:
    """The files of a run but those that say how it was run and how long things took."""

    def read(
        out: Path, without: Sequence[str] = ("manifest.jsonl", "run.yaml")
    ) -> dict[str, bytes]:
        files = (path for path in sorted(out.rglob("*")) if path.is_file())
        named = {str(path.relative_to(out)): path.read_bytes() for path in files}
        return {name: data for name, data in named.items() if Path(name).name not in without}

    return read


@pytest.fixture
def blind_to_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake detector finds nothing on images less than 140 pixels high."""
    whole = SpotDetector._one

    def one(self: SpotDetector, image: np.ndarray) -> Detections:
        found = whole(self, image)
        return found if len(image) >= 140 else no_detections(self.names)

    monkeypatch.setattr(SpotDetector, "_one", one)


def uid_of(*parts: object) -> str:
    return str(generate_uid(entropy_srcs=["spineline-tests", *map(str, parts)]))


def write_slice(
    path: Path,
    pixels: np.ndarray,
    *,
    study: str,
    series: str = "t2",
    number: int = 1,
    description: str = "T2_TSE_SAG",
    orientation: Sequence[float] = SAGITTAL,
    position: Sequence[float] = (0.0, -100.0, 100.0),
    spacing: float = 1.25,
    change: Callable[[Dataset], object] | None = None,
) -> Dataset:
    """One MR slice as a DICOM file; ``change`` may spoil it before it is written."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid_of(study, series, number)
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid_of(study), uid_of(study, series)
    ds.Modality, ds.SeriesDescription = "MR", description
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.PatientName, ds.PatientID = "SECRET^NAME", "SECRET-ID"
    ds.ImageOrientationPatient = [float(v) for v in orientation]
    ds.ImagePositionPatient = [float(v) for v in position]
    ds.PixelSpacing = [spacing, spacing]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.EchoTime, ds.RepetitionTime = 100.0, 3000.0
    ds.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    if change is not None:
        change(ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return ds


def write_study(
    folder: Path, image: np.ndarray | None = None, *, slices: int = 3, **options: Any
) -> None:
    """A T2 sagittal series with the image in its middle and dimmer copies beside it."""
    image = spot_image() if image is None else image
    for k in range(slices):
        offset = 4.0 * (k - slices // 2)
        pixels = image if offset == 0 else (image * 0.9).astype(np.uint8)
        position = (-offset, -100.0, 100.0)
        name = options.pop("study", folder.name)
        write_slice(
            folder / f"im{k}", pixels, study=name, number=k + 1, position=position, **options
        )
        options["study"] = name


@pytest.fixture(scope="session")
def make_study() -> Callable[..., None]:
    return write_study


@pytest.fixture
def make_slice() -> Callable[..., Dataset]:
    return write_slice


@pytest.fixture(scope="session")
def make_spots() -> Callable[..., np.ndarray]:
    return spot_image


@pytest.fixture
def make_points() -> Callable[..., np.ndarray]:
    return spine_points


@pytest.fixture
def make_annotation() -> Callable[..., Path]:
    """Write a Tianchi annotation: ``{study: points}`` of slice 2 of series t2."""

    def write(path: Path, studies: dict[str, np.ndarray], tag: str = "v2", number: int = 2) -> Path:
        entries = []
        for study, points in studies.items():
            marks = [
                {
                    "coord": [float(x), float(y)],
                    "tag": {
                        "identification": level,
                        ("disc" if "-" in level else "vertebra"): tag if "-" in level else "v1",
                    },
                    "zIndex": 1,
                }
                for level, (x, y) in zip(LEVELS, points, strict=False)
            ]
            entries.append({
                "studyUid": uid_of(study),
                "data": [{
                    "seriesUid": uid_of(study, "t2"),
                    "instanceUid": uid_of(study, "t2", number),
                    "annotation": [{"data": {"point": marks}}],
                }],
            })  # fmt: skip
        path.write_text(json.dumps(entries))
        return path

    return write


@pytest.fixture(scope="session")
def abc(tmp_path_factory: pytest.TempPathFactory, make_study) -> Path:
    """Studies a, b and c, which are written once; a test that changes them has a copy."""
    folder = tmp_path_factory.mktemp("abc")
    for name in ("a", "b", "c"):
        make_study(folder / name)
    return folder


@pytest.fixture
def cohort(tmp_path, abc, make_annotation, make_points) -> tuple[Path, Path]:
    """Three studies whose middle slice is annotated exactly, discs v2 and vertebrae v1."""
    shutil.copytree(abc, tmp_path / "studies")
    points = {name: make_points() for name in ("a", "b", "c")}
    return tmp_path / "studies", make_annotation(tmp_path / "labels.json", points)


@pytest.fixture
def frames(tmp_path, make_spots, make_points) -> tuple[Path, Path]:
    """Two plain frames with a report label file: discs (3,0), vertebrae (0,0)."""
    folder = tmp_path / "frames"
    folder.mkdir()
    entries = []
    for name in ("001-000", "002-000"):
        cv2.imwrite(str(folder / f"{name}.png"), make_spots())
        marks = [
            {"identification": 10 - n, "class": "(3,0)" if n % 2 == 0 else "(0,0)", "coord": [x, y]}
            for n, (x, y) in enumerate(make_points())
        ]
        entries.append({"id": name, "point": marks})
    labels = tmp_path / "report.json"
    labels.write_text(json.dumps(entries))
    return folder, labels


@pytest.fixture
def analyse() -> Callable[..., Analysis]:
    """What the fakes make of a source of one case; keys are those of the models' settings."""

    def run(source: Path, **keys: Any) -> Analysis:
        settings = ModelSettings(**keys)
        pipeline = Pipeline(SpotDetector(), ShadeClassifier(), "fake", "0" * 64, settings)  # type: ignore[arg-type]
        (case,) = find_cases(source)
        return pipeline.analyse([load_frame(case)])[0]

    return run


@pytest.fixture
def analysis(tmp_path: Path, analyse: Callable[..., Analysis]) -> Analysis:
    """What the fakes make of a study."""
    write_study(tmp_path / "study")
    return analyse(tmp_path / "study")


@pytest.fixture
def writer_of(tmp_path: Path) -> Callable[[str], Callable[..., Path]]:
    """Write the file of a word of ``to=`` for an analysis, and give its path."""

    def of(word: str) -> Callable[..., Path]:
        name = {
            "sr": "report.sr.dcm",
            "pr": "overlay.pr.dcm",
            "sc": "overlay.sc.dcm",
            "slicer": "points.mrk.json",
        }[word]

        def write(analysis: Analysis, folder: str = "o", **keys: Any) -> Path:
            settings = PipelinePredict(source=tmp_path, out=tmp_path / "out", to=(word,), **keys)
            study_writer(word)(tmp_path / folder, analysis, settings)
            return tmp_path / folder / name

        return write

    return of


@pytest.fixture
def monochrome1() -> Callable[[Dataset], None]:
    """Stores the spots of a slice dark on bright."""

    def change(ds: Dataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME1"
        ds.PixelData = (4095 - spot_image().astype(np.uint16) * 16).tobytes()

    return change


@pytest.fixture
def make_multi_frame() -> Callable[..., None]:
    """Write an enhanced MR file of frames 4 mm apart; the spots are on the middle one."""

    def write(path: Path, *, frames: int = 3, window: bool = False) -> None:
        image = spot_image()
        planes = [image if k == frames // 2 else image // 2 for k in range(frames)]
        ds = write_slice(path, image, study="enhanced")
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
        ds.NumberOfFrames = frames
        ds.PixelData = b"".join((plane.astype(np.uint16) * 16).tobytes() for plane in planes)
        for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
            delattr(ds, keyword)
        shared = Dataset()
        shared.PixelMeasuresSequence = [_item(PixelSpacing=[1.25, 1.25])]
        shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(SAGITTAL))]
        ds.SharedFunctionalGroupsSequence = [shared]
        groups = []
        for k in range(frames):
            group = Dataset()
            place = [4.0 * (k - frames // 2), -100.0, 100.0]
            group.PlanePositionSequence = [_item(ImagePositionPatient=place)]
            if window:
                group.FrameVOILUTSequence = [_item(WindowCenter=1000.0 + k, WindowWidth=2000.0)]
            groups.append(group)
        ds.PerFrameFunctionalGroupsSequence = groups
        ds.save_as(path, enforce_file_format=True)

    return write


def _item(**tags: Any) -> Dataset:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item
