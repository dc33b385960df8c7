"""What the fuzzer spoils and what then reads it: one `Target` per class of input.

A target spoils a copy of sound phantom data with a generator, runs an entry point of spineline on
it, and looks whether an answer, where there is one, makes sense.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutators import (
    HOSTILE_NAMES,
    Rng,
    pick,
    spoil_bytes,
    spoil_dicom,
    spoil_npy,
    spoil_png,
    spoil_safetensors,
)

from spineline.datasets.labels import LEVELS

Warnings = Sequence[str]


@dataclass(frozen=True, slots=True)
class Target:
    """One class of bad input.

    Attributes:
        name: of the class.
        what: is spoilt and what reads it, in a few words.
        spoil: writes a mutant into a folder that holds a copy of ``base``.
        run: reads it and may write into an output folder; gives warnings, or raises.
        base: folder of the sound data under that of all.
        networks: torch is needed.
    """

    name: str
    what: str
    spoil: Callable[[Path, Rng], None]
    run: Callable[[Path, Path], Warnings]
    base: str
    networks: bool = False


class InsaneError(AssertionError):
    """An answer was given that cannot be one."""


def sane(holds: object, what: str) -> None:
    if not holds:
        raise InsaneError(what)


# ---- sound data


def make_base(folder: Path) -> None:
    """Sound phantom data of every kind, small."""
    import cv2

    from spineline.converters.convert import convert_prepared, convert_report
    from spineline.converters.settings import ConvertPrepared, ConvertReport
    from spineline.datasets.commands.phantom import phantom
    from spineline.datasets.commands.settings import DataPhantom
    from spineline.datasets.common.files import write_json
    from spineline.weights.registry import BUNDLED

    size = {"n": 3, "slices": 3, "size": 128}
    phantom(DataPhantom(out=folder / "tianchi", format=("dicom",), **size))
    phantom(DataPhantom(out=folder / "report", format=("png",), **size))
    phantom(DataPhantom(out=folder / "neck", n=4, size=128, region="cervical", format=("png",)))
    shutil.copytree(folder / "tianchi" / "studies" / "study0", folder / "dicom" / "study0")
    report = folder / "report"
    labels, frames = report / "report_labels.json", report / "frames"
    convert_report(ConvertReport(annotations=labels, images=frames, out=folder / "dataset"))
    convert_prepared(
        ConvertPrepared(annotations=_prepared(report, folder / "prepared"),
                        images=folder / "prepared" / "images", out=folder / "p", to=("coco",))
    )  # fmt: skip
    images = folder / "image"
    images.mkdir()
    picture = cv2.imread(str(next(frames.glob("*.png"))), cv2.IMREAD_GRAYSCALE)
    for suffix in ("png", "jpg"):
        cv2.imwrite(str(images / f"a.{suffix}"), picture)
    np.save(images / "a.npy", picture)
    (folder / "result").mkdir()
    write_json(folder / "result" / "result.json", _some_result(picture).to_json())
    weights = folder / "weights"
    weights.mkdir()
    for name in ("lumbar-namer", "lumbar-gradients", "lumbar-yolov8n"):
        shutil.copy(BUNDLED / f"{name}.safetensors", weights / f"{name}.safetensors")
    (folder / "text").mkdir()
    (folder / "text" / "keys.yaml").write_text("source: a\nout: b\nconfidence: 0.3\nto: []\n")
    shutil.copy(BUNDLED / "registry.yaml", folder / "text" / "registry.yaml")


def _prepared(report: Path, folder: Path) -> Path:
    shutil.copytree(report / "frames", folder / "images")
    entries = [
        {"img_path": f"images/{path.name}", "annotation": [
            {"label": 1 + n % 2, "bbox": [10, 10 + 9 * n, 30, 18 + 9 * n]} for n in range(5)]}
        for path in sorted((folder / "images").iterdir())
    ]  # fmt: skip
    (folder / "markup.json").write_text(json.dumps(entries))
    return folder / "markup.json"


def _some_result(picture: np.ndarray) -> Any:
    from spineline.datasets.dicom.geometry import Reorientation
    from spineline.pipeline.inference.sources.frame import Frame

    turn = Reorientation(False, False, False, picture.shape[:2])
    frame = Frame("a", picture, turn, picture.shape[1], picture.shape[0])
    return toy_pipeline().analyse([frame])[0].result


# ---- a detector and a classifier that need no weights


class ToyDetector:
    """Eleven boxes down the middle, moved a little by what the image holds, and some nonsense."""

    names, imgsz = LEVELS, 64

    def detect(self, images: Sequence[np.ndarray], **_: object) -> list[Any]:
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> Any:
        from spineline.detect.results import Detections

        sane(image.dtype == np.uint8 and image.ndim == 2 and image.size, "models see no image")
        rng = np.random.default_rng(int(image.sum(dtype=np.int64)))
        height, width = image.shape
        gap = height / 12
        points = np.stack([np.full(11, width / 2), gap * np.arange(1, 12)], axis=1)
        points = np.concatenate([points + rng.normal(0, gap / 20, (11, 2)),
                                 rng.uniform(-1, 2, (20, 2)) * [width, height]])  # fmt: skip
        half = np.abs(rng.normal(1, 0.2, (31, 2))) * gap * [1.4, 1.0]
        boxes = np.concatenate([points - half, points + half], axis=1)
        boxes[-4:] = [[np.nan] * 4, [np.inf] * 4, [5, 5, 1, 1], [0, 0, 0, 0]]
        rank = np.concatenate([np.arange(11), rng.integers(0, 11, 20)])
        confidence = np.concatenate([np.full(11, 0.8), rng.uniform(0, 0.3, 20)])
        return Detections(boxes.astype(np.float32), confidence.astype(np.float32), rank, self.names)


class ToyClassifier:
    """The same grades for every crop."""

    head = "both"

    def __init__(self) -> None:
        from spineline.datasets.crops.spec import CropSpec

        self.crop = CropSpec(size=16)

    def grade(self, crops: np.ndarray, *, levels: np.ndarray | None = None) -> Any:
        from types import SimpleNamespace

        row = np.array([0.3, 0.1, 0.1, 0.3, 0.1, 0.05, 0.05], np.float32)
        sane(crops.dtype == np.uint8 and crops.shape[1:] == (16, 16), "crops are none")
        return SimpleNamespace(
            seven=np.tile(row, (len(crops), 1)), binary=np.full(len(crops), 0.2, np.float32)
        )


def toy_pipeline() -> Any:
    from spineline.pipeline.inference.pipeline import Pipeline

    return Pipeline(ToyDetector(), ToyClassifier(), "toy", "0" * 64)  # type: ignore[arg-type]


_PIPELINES: dict[str, Any] = {}


def _pipeline(bundled: bool = False) -> Any:
    from spineline.pipeline.inference.pipeline import Pipeline

    name = "bundled" if bundled else "toy"
    if name not in _PIPELINES:
        _PIPELINES[name] = Pipeline.load() if bundled else toy_pipeline()
    return _PIPELINES[name]


# ---- DICOM


def _spoil_slices(folder: Path, rng: Rng) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files if rng.random() < 0.5 else [pick(rng, files)]:
        path.write_bytes(spoil_dicom(path.read_bytes(), rng))


def _spoil_one_slice(folder: Path, rng: Rng) -> None:
    """One slice alone, so that nothing better can be chosen."""
    from spineline.datasets.dicom.select import choose_slice
    from spineline.datasets.dicom.study import scan

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    kept = choose_slice(scan(folder)[0]).slice.path
    data = spoil_dicom(kept.read_bytes(), rng)
    for path in files:
        path.unlink()
    kept.write_bytes(data)


def _frames(folder: Path) -> list[Any]:
    from spineline.pipeline.inference.sources.find_cases import find_cases
    from spineline.pipeline.inference.sources.frame import load_frame

    frames = [load_frame(case) for case in find_cases(folder)]
    for frame in frames:
        sane(frame.image.ndim == 2 and frame.image.dtype == np.uint8, "no 8-bit grey frame")
        sane(frame.image.min() < frame.image.max(), "an even frame")
        sane({frame.width, frame.height} == set(frame.image.shape) or frame.width == frame.height,
             "size of another image")  # fmt: skip
        if frame.header is not None:
            header = frame.header
            sane((header.rows, header.columns) == (frame.height, frame.width), "header's size")
            spacing = header.spacing_rc_mm or (1.0, 1.0)
            sane(all(0 < s < 100 for s in spacing), "a spacing that none has")
    return frames


def _check_analysis(analysis: Any) -> None:
    result, frame = analysis.result, analysis.frame
    levels = [LEVELS.index(s.level) for s in result.structures]
    sane(levels == sorted(set(levels)), "levels out of order, or twice")
    y = [s.point_xy[1] for s in analysis.spine.structures]
    sane(all(a < b for a, b in itertools.pairwise(y)), "places not from top to bottom")
    sane({*result.missing_levels} == {*LEVELS} - {s.level for s in result.structures}, "missing")
    for s in result.structures:
        x, y_ = s.point_xy
        sane(math.isfinite(x) and math.isfinite(y_), "a point that is no number")
        sane(-0.5 * frame.width < x < 1.5 * frame.width, "a point far outside")
        sane(0 <= s.confidence <= 1, "a confidence outside 0 … 1")
        sane(s.point_mm is None or all(map(math.isfinite, s.point_mm)), "mm that are not numbers")
        if s.seven is not None:
            sane(abs(sum(s.seven.probabilities) - 1) < 1e-3, "probabilities that do not add up")
    json.dumps(result.to_json(), allow_nan=False)


def _analysing(*, bundled: bool = False) -> Callable[[Path, Path], Warnings]:
    """Analyse what is found; of the bundled networks points lie inside the image besides."""

    def run(folder: Path, out: Path) -> Warnings:
        warnings: list[str] = []
        for analysis in _pipeline(bundled).analyse(_frames(folder)):
            _check_analysis(analysis)
            for s in analysis.result.structures if bundled else ():
                (x, y), frame = s.point_xy, analysis.frame
                sane(0 <= x < frame.width and 0 <= y < frame.height, "a point outside the image")
            warnings += map(str, analysis.result.warnings)
        return warnings

    return run


def _spoil_pixels(folder: Path, rng: Rng) -> None:
    """Sound files whose pixels are noise, wiped, shifted, doubled, turned or cut."""
    import pydicom

    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array.copy()
        how = int(rng.integers(7))
        if how == 0:
            pixels = rng.integers(0, 4000, pixels.shape).astype(pixels.dtype)
        elif how == 1:
            pixels[: int(rng.integers(pixels.shape[0]))] = 0
        elif how == 2:
            pixels = np.roll(pixels, int(rng.integers(pixels.size)))
        elif how == 3:
            pixels = pixels[::-1]
        elif how == 4:
            pixels = np.rot90(pixels, int(rng.integers(4)))
        elif how == 5:
            pixels = np.where(rng.random(pixels.shape) < 0.3, 65535, pixels)
        else:
            pixels = pixels * int(rng.integers(1, 500))
        dataset.PixelData = np.ascontiguousarray(pixels.astype(np.uint16)).tobytes()
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.save_as(path)


def _spoil_names(folder: Path, rng: Rng) -> None:
    """Files and folders with names that some file system allows."""
    for path in sorted(folder.rglob("*"), key=lambda p: -len(p.parts)):
        name = str(pick(rng, HOSTILE_NAMES)).replace("/", "_").replace("\0", "")
        name = name.encode("utf-8", "replace")[:255].decode("utf-8", "ignore")
        if rng.random() < 0.5 and name not in ("", ".", ".."):
            target = path.with_name(name)
            if not target.exists():
                path.rename(target)


def _run_predict(folder: Path, out: Path) -> Warnings:
    from spineline.pipeline.run.predict import predict
    from spineline.pipeline.run.settings import PipelinePredict

    settings = PipelinePredict(source=folder, out=out / "o", overlay=False, workers=0)
    result = predict(settings, pipeline=_pipeline())
    for name, study in result.results:
        sane((out / "o" / name / "result.json").is_file(), f"no result.json of {name!r}")
        sane(study.width > 0, "an empty image")
    sane((out / "o" / "results.csv").is_file(), "no results.csv")
    return [str(failure) for failure in result.failures] + [
        str(warning) for _, study in result.results for warning in study.warnings
    ]


# ---- images


def _spoil_images(folder: Path, rng: Rng) -> None:
    for path, spoil in (("a.png", spoil_png), ("a.jpg", spoil_bytes), ("a.npy", spoil_npy)):
        (folder / path).write_bytes(spoil((folder / path).read_bytes(), rng))


def _run_images(folder: Path, out: Path) -> Warnings:
    from spineline.converters.sources.frames import frame_size
    from spineline.datasets.common.errors import SpinelineError
    from spineline.datasets.images import read_colours, read_image
    from spineline.pipeline.inference.sources.find_cases import image_cases
    from spineline.pipeline.inference.sources.frame import load_frame

    said: list[str] = []
    for path in sorted(folder.iterdir()):
        for read in (read_image, frame_size, read_colours, lambda p: load_frame(*image_cases([p]))):
            try:
                found = read(path)
            except SpinelineError as error:
                sane(path.name in str(error), f"{path.name} is not named: {error}")
                said.append(str(error))
                continue
            if read is read_image:
                sane(found.ndim == 2 and found.size > 0, "no grey image")
                sane(found.dtype in (np.uint8, np.float32), f"{found.dtype} values")
    return said


# ---- weights


def _spoil_weights(name: str) -> Callable[[Path, Rng], None]:
    def spoil(folder: Path, rng: Rng) -> None:
        for path in folder.iterdir():
            if path.stem != name:
                path.unlink()
        path = folder / f"{name}.safetensors"
        path.write_bytes(spoil_safetensors(path.read_bytes(), rng))

    return spoil


def _spoil_pickle(folder: Path, rng: Rng) -> None:
    """A checkpoint as torch writes it, spoilt; its suffix or its lack of one is no help."""
    import io

    import torch

    for path in folder.iterdir():
        path.unlink()
    stream = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(4)}, "epoch": 1, "train_args": {}}, stream)
    name = pick(rng, ("a.pt", "a.pth", "a.safetensors", "a.ckpt", "a"))
    (folder / name).write_bytes(spoil_bytes(stream.getvalue(), rng))


def _run_weights(task: str, trust: bool = False) -> Callable[[Path, Path], Warnings]:
    def run(folder: Path, out: Path) -> Warnings:
        from spineline.classify import load_classifier
        from spineline.detect import load_detector
        from spineline.detect.level_reader.model import load_level_reader
        from spineline.weights import resolve

        (path,) = folder.iterdir()
        file = resolve(str(path), task=task, trust=trust)  # type: ignore[arg-type]
        image = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
        if task == "detect":
            for found in load_detector(file.path, trust=trust).detect([image]):
                sane(np.isfinite(found.boxes_xyxy).all(), "boxes that are not numbers")
        elif task == "classify":
            classifier = load_classifier(file.path, trust=trust)
            size = classifier.crop.size
            crop = np.resize(image, (1, size, size))
            grades = classifier.grade(crop)
            for values in (grades.seven, grades.binary):
                sane(values is None or np.isfinite(values).all(), "grades that are not numbers")
        else:
            load_level_reader(file.path)
        return ()

    return run


TARGETS: tuple[Target, ...] = (
    Target("dicom-study", "slices of a study; scan, choose, read, decode", _spoil_slices,
           _analysing(), "dicom"),
    Target("dicom-slice", "a study of one slice; the same", _spoil_one_slice, _analysing(),
           "dicom"),
    Target("dicom-pixels", "sound files with altered pixels; the same", _spoil_pixels, _analysing(),
           "dicom"),
    Target("names", "names of files and folders; pipeline predict", _spoil_names, _run_predict,
           "tianchi"),
    Target("images", "PNG, JPEG and NumPy files; read_image, frame_size", _spoil_images,
           _run_images, "image"),
    Target("weights-namer", "safetensors of a namer; resolve, load_level_reader",
           _spoil_weights("lumbar-namer"), _run_weights("name"), "weights", networks=True),
    Target("weights-classifier", "safetensors of a classifier; resolve, load_classifier",
           _spoil_weights("lumbar-gradients"), _run_weights("classify"), "weights", networks=True),
    Target("weights-detector", "safetensors of a detector; resolve, load_detector",
           _spoil_weights("lumbar-yolov8n"), _run_weights("detect"), "weights", networks=True),
    Target("pickle", "checkpoints without trust; resolve", _spoil_pickle, _run_weights("detect"),
           "weights", networks=True),
    Target("pickle-trusted", "checkpoints with trust=true; resolve, load_classifier",
           _spoil_pickle, _run_weights("classify", trust=True), "weights", networks=True),
    Target("bundled", "altered pixels; the bundled networks", _spoil_pixels,
           _analysing(bundled=True), "dicom", networks=True),
)  # fmt: skip

BY_NAME = {target.name: target for target in TARGETS}
