"""``spineline pipeline export``: the pipeline's networks for another runtime, as one folder.

The exported folder is compared with the original: the whole pipeline runs with both on phantoms of
several sizes, and on images without content.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from spineline.classify.combined import CombinedClassifier
from spineline.classify.export import write_onnx
from spineline.classify.model import Classifier
from spineline.datasets.common.errors import ConfigError, SpinelineError, first_line
from spineline.datasets.common.files import check_output, staged_folder, write_bytes, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version, write_run_record
from spineline.datasets.dicom.geometry import Reorientation
from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.runtimes import PACKAGES, Form, import_runtime
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.detect.level_reader.export import level_reader_to_onnx
from spineline.detect.yolo.backend import UltralyticsDetector
from spineline.detect.yolo.export import yolo_to_onnx
from spineline.pipeline.export.settings import PipelineExport
from spineline.pipeline.inference.bundles import (
    BUNDLE_FILE,
    BUNDLE_SCHEMA,
    BY_KIND_SCHEMA,
    COMBINED_SCHEMA,
    KIND,
    NAMING_SCHEMA,
    USE,
    bundle_file,
    decoding_values,
    file_names,
    is_exported,
)
from spineline.pipeline.inference.naming import COEFFICIENTS
from spineline.pipeline.inference.pipeline import Analysis, Pipeline, bundle_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.frame import Frame
from spineline.weights import Bundle, Task, WeightsFile, load_registry

POINT_TOLERANCE_PX = 0.5
PROBABILITY_TOLERANCE = 1e-3
"""Largest allowed differences of an exported pipeline, in native pixels and in probability."""

_MAX_DETECTIONS = 300


@dataclass(frozen=True, slots=True)
class Agreement:
    """The worst disagreement between two pipelines.

    Attributes:
        images: number compared.
        structures: number found by both.
        points_px: largest distance of a point from the original's.
        probability: largest difference in a grade's probability, a confidence or a naming's
            probability.
    """

    images: int
    structures: int
    points_px: float
    probability: float


@dataclass(frozen=True, slots=True)
class ExportedBundle:
    """The output of ``pipeline export``: the folder, and its agreement with the original."""

    out: Path
    agreement: Agreement


def export(settings: PipelineExport) -> ExportedBundle:
    """Write a bundle that runs without the networks' own packages, and compare it.

    Raises:
        ConfigError: a network that cannot be exported, or a package is missing.
        WeightsError: the weights cannot be used.
        OutputExistsError: ``out`` exists.
        SpinelineError: the exported networks give other results; nothing is left behind.
    """
    form: Form = next(form for form in get_args(Form) if form == settings.format)
    check_output(settings.out, overwrite=settings.overwrite)
    if is_exported(settings.weights):
        raise ConfigError(f"weights={settings.weights}: is exported already; name what it is of")
    bundle = bundle_of(settings.models())
    import_runtime(PACKAGES[form])
    original = Pipeline.from_settings(settings.models())
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_networks(original, form, stage)
        write_json(stage / BUNDLE_FILE, bundle_description(original, bundle, form, stage))
        write_run_record(stage, "pipeline export", settings)
        agreement = check_agreement(
            original,
            Pipeline.from_settings(ModelSettings(weights=str(stage))),
            check_frames(),
        )
    LOG.info("%s: %s as %s", settings.out, bundle.name, form)
    LOG.info(
        "on %d images it finds the same %d structures; largest difference: point %.2g px, "
        "probability %.2g",
        *(agreement.images, agreement.structures, agreement.points_px, agreement.probability),
    )
    LOG.info("run it: spineline pipeline predict weights=%s source=… out=…", settings.out)
    return ExportedBundle(settings.out, agreement)


def write_networks(pipeline: Pipeline, form: Form, folder: Path) -> None:
    """Write the files of all networks into a folder.

    Raises:
        ConfigError: a detector that is not a YOLO network, or a package is missing.
        SpinelineError: a network that the format cannot represent.
    """
    if not isinstance(pipeline.detector, UltralyticsDetector):
        msg = (
            f"{pipeline.weights_name}: its detector is not a YOLO network, and only those can be "
            "exported with the pipeline; use detect export for a Faster R-CNN"
        )
        raise ConfigError(msg)
    classifiers = _classifiers(pipeline)
    networks: dict[str, Any] = {"detector": pipeline.detector, **classifiers}
    if pipeline.namer is not None:
        networks["namer"] = pipeline.namer
    for name, network in networks.items():
        path = folder / f"{name}.onnx"
        try:
            write_network("classifier" if name in classifiers else name, network, path)
            if form == "openvino":
                openvino = import_runtime("openvino")
                model = openvino.Core().read_model(path.read_bytes())
                file = folder / file_names(name, form)[0]
                openvino.save_model(model, str(file), compress_to_fp16=False)
                path.unlink()
        except SpinelineError:
            raise
        except Exception as error:  # the exporters raise errors of many kinds
            reason = first_line(error)
            msg = f"{name}: cannot be written as {form} ({reason}); choose another network"
            raise SpinelineError(msg) from error


def _classifiers(pipeline: Pipeline) -> dict[str, Classifier]:
    """The classifiers by the names of their files."""
    if isinstance(pipeline.classifier, CombinedClassifier):
        members = enumerate(pipeline.classifier.members)
        return {f"classifier{n}": cast(Classifier, member) for n, member in members}
    return {"classifier": cast(Classifier, pipeline.classifier)}


def write_network(role: str, network: Any, path: Path) -> None:
    """Write one of a pipeline's networks as ONNX."""
    if role == "classifier":
        write_onnx(network.network.requires_grad_(False), path)
    elif role == "namer":
        write_bytes(path, level_reader_to_onnx(network))
    else:
        write_bytes(path, yolo_to_onnx(network, network.imgsz))


def bundle_description(
    pipeline: Pipeline, bundle: Bundle, form: Form, folder: Path
) -> dict[str, Any]:
    """The content of ``bundle.json`` for the files in a folder."""
    detector = cast(UltralyticsDetector, pipeline.detector)
    settings, combined = pipeline.settings, pipeline.classifier
    classifiers = {
        name: _classifier_values(network, name, _weights_of(bundle, n), form, folder)
        for n, (name, network) in enumerate(_classifiers(pipeline).items())
    }
    schema = BUNDLE_SCHEMA
    if isinstance(combined, CombinedClassifier):
        schema = BY_KIND_SCHEMA if combined.combination.vertebra else COMBINED_SCHEMA
    coefficients = pipeline.decoding.coefficients
    naming: dict[str, Any] = {}
    if coefficients != COEFFICIENTS:
        schema, naming = NAMING_SCHEMA, {"naming": asdict(coefficients)}
    namer: dict[str, Any] | None = None
    if pipeline.namer is not None and bundle.namer is not None:
        namer = {
            **_member_values("name", bundle.namer, form, folder, "namer"),
            "input": "float32 (1, 1, ranks * rank_px, 2 * half_width * rank_px) in 0 … 1: the "
            "strip along the spine, rank_px rows for each vertebra and disc",
            "output": "logits (1, 13, ranks) of names",
            "strip": asdict(pipeline.namer.strip),
            "names": ["above", *LEVELS, "below"],
        }
    networks = (bundle.detector, *bundle.classifiers, bundle.namer)
    names = [file.name for file in networks if file]
    return {
        "kind": KIND,
        "schema": schema,
        "version": package_version(),
        "format": form,
        "name": f"{bundle.name}-{form}",
        "made_from": {"name": bundle.name, "sha256": bundle.sha256},
        "card": f"{', '.join(names)}; {USE}",
        "use": USE,
        "image": "grey, 8 bits, percentiles 0.5 … 99.5 of its values to 0 … 255; face to the left, "
        "head up",
        "networks": {
            "detector": {
                **_member_values("detect", bundle.detector, form, folder, "detector"),
                "input": "float32 (N, channels, h, w) in 0 … 1: longer side scaled to imgsz, "
                "bilinear; padded with 114 / 255 to multiples of the stride, evenly to both sides",
                "output": "float32 (N, 4 + classes, places): centre and size in pixels of the "
                "input, a score per class",
                "imgsz": detector.imgsz,
                "stride": detector.stride,
                "channels": detector.meta.channels,
                "names": list(detector.names),
            },
            "classifier": {
                "members": list(classifiers.values()),
                "combination": combined.combination.to_json(),
            }
            if isinstance(combined, CombinedClassifier)
            else classifiers["classifier"],
            "namer": namer,
        },
        "decode": {
            "suppression": "per class; a place may keep several classes",
            "candidate_confidence": settings.candidate_confidence,
            "iou": settings.iou,
            "max_detections": _MAX_DETECTIONS,
            "method": settings.decode,
            "crop_boxes": settings.crop_boxes,
            "spine": decoding_values(pipeline.decoding),
            **naming,
        },
    }


def _weights_of(bundle: Bundle, number: int) -> WeightsFile:
    """The file of a classifier; members of a combination in one file share it."""
    return bundle.classifiers[min(number, len(bundle.classifiers) - 1)]


def _classifier_values(
    classifier: Classifier, name: str, weights: WeightsFile, form: Form, folder: Path
) -> dict[str, Any]:
    """The description of a classifier."""
    return {
        **_member_values("classify", weights, form, folder, name),
        "input": "float32 (N, size, size) in 0 … 255: the structure's box times margin, "
        "turned along the spine where align is spine, scaled to size",
        "output": "probabilities: (N, 7) and (N,), of the second class, where both are",
        "crop": asdict(classifier.crop),
        **({} if classifier.greys is None else {"greys": asdict(classifier.greys)}),
        **_levels_of(classifier),
        "outputs": {k: list(v) for k, v in classifier.network.config.outputs().items()},
    }


def _levels_of(classifier: Classifier) -> dict[str, Any]:
    """The description of a classifier's second input, if it has one."""
    if not classifier.level_input:
        return {}
    text = "float32 (N,): place of the level among the eleven, -1 where it is unknown"
    return {"level_input": True, "levels": text}


def _member_values(
    task: Task, weights: WeightsFile, form: Form, folder: Path, network: str
) -> dict[str, Any]:
    """The files of a network, and the registry's entries for its original weights."""
    entry = load_registry().find(weights.name)
    known = entry if entry and (entry.task, entry.sha256) == (task, weights.sha256) else None
    return {
        "files": [asdict(bundle_file(folder / name)) for name in file_names(network, form)],
        "made_from": {"name": weights.name, "sha256": weights.sha256},
        "licence": known.licence if known else None,
        "trained_on": known.trained_on if known else None,
    }


def check_frames() -> list[Frame]:
    """The images to compare: phantoms of several sizes, two of one size, noise, and a faint one."""
    sizes = {"square": (384, 384), "same": (384, 384), "tall": (448, 260), "small": (150, 120)}
    images = {
        name: draw_spine(seed, size).pixels for seed, (name, size) in enumerate(sizes.items())
    }
    rng = np.random.default_rng(0)
    images["noise"] = rng.integers(0, 256, (96, 320), dtype=np.uint8)
    images["dark"] = np.tile((np.arange(256) // 32).astype(np.uint8), (256, 1))
    return [frame_of(name, image) for name, image in images.items()]


def frame_of(name: str, image: npt.NDArray[np.uint8]) -> Frame:
    """A frame with an image and nothing else."""
    height, width = image.shape
    return Frame(name, image, Reorientation(False, False, False, (height, width)), width, height)


def check_agreement(original: Pipeline, exported: Pipeline, frames: Sequence[Frame]) -> Agreement:
    """Run both pipelines on the same frames, the exported one in batches and one by one.

    Raises:
        SpinelineError: different levels, or points, confidences, grades or namings that differ by
            more than the tolerances.
    """
    original, exported = (replace(each, suitability=None) for each in (original, exported))
    wanted = original.analyse(frames)
    points = probability = 0.0
    batched = replace(exported, settings=replace(exported.settings, batch=len(frames)))
    for found in (batched.analyse(frames), [exported.analyse([f])[0] for f in frames]):
        for mine, other in zip(wanted, found, strict=True):
            levels, others = ([s.level for s in a.result.structures] for a in (mine, other))
            if levels != others:
                msg = (
                    f"export: on the image {mine.frame.name!r} the exported networks find "
                    f"{', '.join(others) or 'nothing'}, the original "
                    f"{', '.join(levels) or 'nothing'}; nothing was written"
                )
                raise SpinelineError(msg)
            points = max(points, _largest(_points(mine), _points(other)))
            probability = max(probability, _largest(_probabilities(mine), _probabilities(other)))
    if not (points < POINT_TOLERANCE_PX and probability < PROBABILITY_TOLERANCE):
        msg = (
            f"export: the exported networks are off by {points:.3g} px and {probability:.3g} in "
            "probability; nothing was written"
        )
        raise SpinelineError(msg)
    structures = sum(len(analysis.result.structures) for analysis in wanted)
    return Agreement(len(frames), structures, points, probability)


def _points(analysis: Analysis) -> list[float]:
    return [v for s in analysis.result.structures for v in (*s.point_xy, *s.box_xyxy)]


def _probabilities(analysis: Analysis) -> list[float]:
    found = [] if analysis.result.naming is None else [analysis.result.naming.probability]
    for structure in analysis.result.structures:
        found.append(structure.confidence)
        found += structure.seven.probabilities if structure.seven else ()
        found += [structure.binary.probability] if structure.binary else []
    return found


def _largest(wanted: Iterable[float], found: Iterable[float]) -> float:
    pairs = list(zip(wanted, found, strict=True))
    worst = max((abs(a - b) for a, b in pairs), default=0.0)
    return worst if all(math.isfinite(b) for _, b in pairs) else math.inf
