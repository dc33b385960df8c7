"""The pipeline itself: frames in, named and graded structures out.

from spineline.pipeline import Pipeline

pipeline = Pipeline.load()
result = pipeline.predict("study-folder")
result.structures[0].level, result.structures[0].point_xy
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spineline.classify.combined import CombinedClassifier
from spineline.datasets.common.arrays import BoolArray
from spineline.datasets.common.devices import check_device
from spineline.datasets.common.errors import (
    ConfigError,
    SpinelineError,
    UnknownWeightsError,
    WeightsError,
)
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import Remark
from spineline.datasets.common.run_record import package_version
from spineline.datasets.common.settings import close_match
from spineline.datasets.crops.extract import extract_crops
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import LEVELS
from spineline.datasets.volumes.archives import unpacking
from spineline.pipeline.inference.bundles import (
    ROLES,
    exported_bundle,
    is_exported,
    load_exported,
    networks_needed,
    trained_networks,
)
from spineline.pipeline.inference.candidates import (
    Candidates,
    Context,
    DecodedStructure,
    LevelReader,
)
from spineline.pipeline.inference.decode import DecodedSpine, DecodeSettings
from spineline.pipeline.inference.find_spine import (
    LookSettings,
    find_spine,
    look_at,
    read_spine,
)
from spineline.pipeline.inference.grading import (
    Grade,
    Grader,
    combined_structure_grades,
    crop_boxes,
    grade_withheld,
    structure_grades,
    unlike_training,
    without_vertebrae,
)
from spineline.pipeline.inference.naming import NamingCoefficients, abstain
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.inference.runtimes.choice import Runtime, chosen_runtime, threads_of
from spineline.pipeline.inference.runtimes.loading import load_by_graphs
from spineline.pipeline.inference.settings import (
    ModelSettings,
    SliceCount,
    changed_settings,
    mixed_precision,
)
from spineline.pipeline.inference.slices.join import Joined, look_around
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import Frame, load_frame
from spineline.pipeline.inference.spine_warnings import spine_warnings
from spineline.pipeline.inference.suitability import (
    Refusal,
    SuitabilityLimits,
    judge,
    refusal_of_series,
)
from spineline.pipeline.inference.warnings import codes_of
from spineline.weights import (
    Bundle,
    WeightsFile,
    load_registry,
    make_bundle,
    names_in_list,
    read_metadata,
    resolve,
    resolve_bundle,
    resolve_classifiers,
    task_of,
)

if TYPE_CHECKING:
    from spineline.detect.backend import Detector


NAMING_PROBABILITY = "naming_probability"
"""Entry of a level reader's metadata that ``naming calibrate`` writes: ``coefficients``, and the
SHA-256 of the ``detector`` that they were fitted with.
"""

NO_SPINE = DecodedSpine((), ())
"""The spine of a refused frame."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """One frame with the findings in it.

    Attributes:
        frame: as the models saw it.
        spine: the decoded structures, in the frame's own coordinates (upright).
        result: the answer, in the coordinates of the stored pixels.
        settings: short hash of the changed model settings; empty by default.
    """

    frame: Frame
    spine: DecodedSpine
    result: StudyResult
    settings: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The whole pipeline: a detector, a level reader and a classifier, ready to analyse studies.

    Attributes:
        detector: see ``spineline.detect``.
        classifier: see ``spineline.classify``; several may be combined. None leaves structures
            ungraded.
        weights_name, weights_sha256: name and hash of the weights, for the results.
        settings: thresholds and options; its weights are those that were loaded.
        namer: the level reader, see ``spineline.detect.level_reader.model``; None leaves the naming
            to the detector.
        decoding: how candidates are weighted, except for what the settings decide.
        suitability: limits of a suitable frame; None accepts every frame.
        runtime: library that runs the networks: ``torch``, ``onnx`` or ``openvino``.
        works_in_forks: whether a fork of this process can run the networks.
    """

    detector: Detector
    classifier: Grader | CombinedClassifier | None
    weights_name: str = ""
    weights_sha256: str = ""
    settings: ModelSettings = field(default_factory=ModelSettings)
    namer: LevelReader | None = None
    decoding: DecodeSettings = field(default_factory=DecodeSettings)
    suitability: SuitabilityLimits | None = None
    runtime: Runtime = "torch"
    works_in_forks: bool = True

    def __post_init__(self) -> None:
        if not set(self.detector.names) & set(LEVELS):
            msg = (
                f"weights={self.weights_name}: the detector's classes {list(self.detector.names)} "
                f"are not levels; wanted one trained with labels=level ({', '.join(LEVELS)})"
            )
            raise WeightsError(msg)

    @classmethod
    def load(
        cls,
        weights: str = "default",
        *,
        classifier: str | Path | Sequence[str | Path] | None = None,
        device: str = "cpu",
        slices: SliceCount = "auto",
        runtime: str = "auto",
        trust: bool = False,
    ) -> Pipeline:
        """Load the models of a bundle, of ``"DETECTOR,CLASSIFIER"`` or of an exported folder.

        Args:
            weights: a bundle, two or three files, an exported folder, or the folder of
                ``pipeline train``.
            classifier: instead of that of weights; several are averaged.
            device: ``cpu``, ``cuda``, ``mps`` or the number of a CUDA device.
            slices: how many slices of a study [Pipeline.predict][] reads; ``auto``: three, and more
                in doubt.
            runtime: ``torch``, ``onnx``, ``openvino``, or ``auto``: ONNX Runtime on the CPU for
                weights that come with spineline, else torch.
            trust: allow weights that are pickles.

        Raises:
            WeightsError: unknown, altered, of the wrong kind, or a pickle without ``trust``.
        """
        settings = ModelSettings(
            weights=weights,
            classifier=None if classifier is None else ",".join(names_in_list(classifier)),
            device=device,
            slices=slices,
            runtime=runtime,
            trust=trust,
        )
        return cls.from_settings(settings)

    @classmethod
    def from_settings(cls, settings: ModelSettings) -> Pipeline:
        """Load the models that settings name.

        Raises:
            WeightsError: unknown, altered, of the wrong kind, or a pickle without ``trust=true``.
        """
        bundle = bundle_of(settings)
        runtime = chosen_runtime(settings, bundle)
        with networks_needed(settings.weights):
            networks = _loaded_networks(settings, bundle, runtime)
        exported, threads = is_exported(settings.weights), threads_of(settings)
        if networks.namer is None and settings.namer != "none":
            LOG.warning(
                "weights=%s: no level reader is used, because none belongs to this detector; "
                "namer=FILE names one, and namer=none says that there is none",
                bundle.name,
            )
        return cls(
            networks.detector,
            networks.classifier,
            bundle.name,
            bundle.sha256,
            settings,
            networks.namer,
            networks.decoding,
            SuitabilityLimits(),
            runtime,
            works_in_forks=runtime == "torch"
            or (runtime == "onnx" and threads == 1 and not exported),
        )

    def predict(self, source: str | Path, *, stack: bool = False) -> StudyResult:
        """Find, name and grade the structures of one study, DICOM file, volume, image or archive.

        Args:
            source: folder or file of the study.
            stack: treat the images of a folder as the slices of one study, in the order of their
                names.

        Raises:
            SpinelineError: not readable, or more than one study.
            TypeError: the source is no path.
        """
        if not isinstance(source, str | os.PathLike):
            msg = (
                f"source: wanted the path of one study or image, found {type(source).__name__}; "
                "save an array as PNG or with numpy.save, and call predict once for each study"
            )
            raise TypeError(msg)
        settings = self.settings
        with unpacking() as archives:
            cases = find_cases(
                Path(source),
                window=settings.window,
                slices=settings.slices,
                force=settings.force,
                stack=stack,
                unpacking=archives,
            )
            if len(cases) != 1:
                msg = (
                    f"{source}: holds {len(cases)} studies; name one of them, or run "
                    "spineline pipeline predict for all"
                )
                raise SpinelineError(msg)
            return self.analyse([load_frame(cases[0])])[0].result

    def analyse(self, frames: Sequence[Frame]) -> list[Analysis]:
        """Find and grade the structures of frames, in their order."""
        settings = self.settings
        how = replace(
            self.decoding,
            method="argmax" if settings.decode == "argmax" else "spine",
            confidence=settings.confidence,
        )
        with precision(settings):
            looked = self._look(frames, how)
            refusals = [
                refusal_of_series(each.frame.series_found)
                or self.refusal(each.frame.image, each.spine.candidates, each.spine.context)
                for each in looked
            ]
            if not settings.force:
                looked = [
                    replace(each, spine=NO_SPINE) if refusal and refusal.certain else each
                    for each, refusal in zip(looked, refusals, strict=True)
                ]
            frames, spines = [each.frame for each in looked], [each.spine for each in looked]
            grades, looks = self._grade(frames, spines)
        made_with = changed_settings(self.settings)
        return [
            Analysis(
                each.frame, each.spine, self._result(each, how, graded, refusal, look), made_with
            )
            for each, graded, refusal, look in zip(looked, grades, refusals, looks, strict=True)
        ]

    def refusal(
        self,
        image: npt.NDArray[np.uint8],
        candidates: Candidates,
        context: Context | None = None,
    ) -> Refusal | None:
        """Why an image is not, or may not be, a sagittal T2 of a lumbar spine with the head up.

        None if it is one. A refusal that is not certain is a doubt: the image is analysed.

        Args:
            image: (H, W) grey, as given to the detector.
            candidates: the detector's.
            context: the level reader's output along the spine, if there is one.
        """
        if self.suitability is None:
            return None
        return judge(
            image,
            candidates,
            self.offered,
            settings=self.decoding,
            reader=self.namer,
            limits=self.suitability,
            context=context,
        )

    def offered(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Candidates]:
        """The detector's candidates in images."""
        return look_at(self.detector, images, self._looking())

    def _looking(self) -> LookSettings:
        """The settings of the detector's runs."""
        settings = self.settings
        return LookSettings(
            confidence=settings.candidate_confidence,
            iou=settings.iou,
            batch=batch_size(settings),
            per_level=self.decoding.candidates_per_level,
        )

    def _look(self, frames: Sequence[Frame], how: DecodeSettings) -> list[Joined]:
        """The spine of each frame; all first detections share batches."""
        settings = self.settings
        if how.method == "argmax":  # names each box by itself: there is nothing to join
            frames = [replace(frame, around=None) for frame in frames]
        look = self._looking()
        offered = self.offered([frame.image for frame in frames])
        reader, least = self.namer, settings.min_naming_probability
        find = partial(find_spine, self.detector, reader, decoding=how)
        beside = partial(find, look=replace(look, again=False))  # each is a further look itself
        read = None if reader is None else partial(read_spine, reader, decoding=how)
        looked = [
            look_around(
                frame,
                find(image=frame.image, candidates=candidates, look=look),
                beside,
                sure=max(how.sure_naming, least),
                read=read,
                contrast=None if self.suitability is None else self.suitability.contrast,
            )
            for frame, candidates in zip(frames, offered, strict=True)
        ]
        return [
            replace(each, spine=replace(each.spine, naming=abstain(each.spine.naming, least)))
            for each in looked
        ]

    def _grade(
        self, frames: Sequence[Frame], spines: Sequence[DecodedSpine]
    ) -> tuple[list[list[Grade]], list[list[Remark]]]:
        """Grades of the structures of each frame, and warnings about its crops.

        All crops go through the classifier together.
        """
        counts = [len(spine.structures) for spine in spines]
        if self.classifier is None or not sum(counts):
            return [[(None, None)] * count for count in counts], [[] for _ in counts]
        combined = self.classifier if isinstance(self.classifier, CombinedClassifier) else None
        crops = [
            combined.cut(partial(self._crops, frame, spine), [s.kind for s in spine.structures])
            if combined
            else [self._crops(frame, spine, self.classifier.crop)]  # type: ignore[union-attr]
            for frame, spine in zip(frames, spines, strict=True)
        ]
        together = [np.concatenate(each) for each in zip(*crops, strict=True)]
        structures = [s for spine in spines for s in spine.structures]
        if combined:
            grades = iter(combined_structure_grades(combined, together, structures))
        else:
            levels = np.array([s.rank for s in structures], dtype=np.int64)
            found = self.classifier.grade(together[0], levels=levels)  # type: ignore[arg-type]
            grades = iter(structure_grades([s.kind for s in structures], found))
        of_frames = [[next(grades) for _ in range(count)] for count in counts]
        for n, (frame, spine) in enumerate(zip(frames, spines, strict=True)):
            if "fat_suppressed" in codes_of(frame.warnings) and not self.settings.force:
                of_frames[n] = without_vertebrae([s.kind for s in spine.structures], of_frames[n])
        graders = combined.members if combined else (self.classifier,)
        return of_frames, [
            unlike_training(graders, own, count) for own, count in zip(crops, counts, strict=True)
        ]

    def _crops(
        self, frame: Frame, spine: DecodedSpine, spec: CropSpec, only: BoolArray | None = None
    ) -> npt.NDArray[np.uint8]:
        """(N, size, size): the structures of a frame, all or some, cut as a classifier requires."""
        if not spine.structures:
            return np.empty((0, spec.size, spec.size), np.uint8)
        points = np.array([s.point_xy for s in spine.structures])
        boxes = crop_boxes(spine.structures, self.settings.crop_boxes)
        return extract_crops(frame.image, points, boxes, spec, only)

    def _result(
        self,
        looked: Joined,
        how: DecodeSettings,
        grades: Sequence[Grade],
        refusal: Refusal | None,
        look: Sequence[Remark],
    ) -> StudyResult:
        frame, spine = looked.frame, looked.spine
        header, unfit = frame.header, refusal is not None and refusal.certain
        refused = unfit and not self.settings.force
        unsuitable = [] if refusal is None else [refusal.remark(forced=not refused)]
        place = frame.file_and_slice
        structures = _structures(frame, spine.structures, grades)
        return StudyResult(
            study_uid=header.study_uid or None if header else None,
            series_uid=header.series_uid or None if header else None,
            instance_uid=header.instance_uid or None if header else None,
            file=place[0] if place else None,
            slice_index=place[1] if place else None,
            width=frame.width,
            height=frame.height,
            spacing_rc_mm=header.spacing_rc_mm if header else None,
            structures=structures,
            missing_levels=LEVELS if refused else tuple(level for level, _ in spine.missing),
            warnings=(
                *unsuitable,
                *frame.warnings,
                *(
                    ()
                    if refused
                    else spine_warnings(
                        frame,
                        looked.offered,
                        spine,
                        settings=how,
                        min_naming_probability=self.settings.min_naming_probability,
                    )
                ),
                *grade_withheld(structures),
                *look,
            ),
            status="refused" if refused else "forced" if unfit else "ok",
            weights_name=self.weights_name,
            weights_sha256=self.weights_sha256,
            version=_version(),
            naming=spine.naming,
            slices=looked.seen,
        )


@dataclass(frozen=True, slots=True)
class _Networks:
    """The networks of a bundle, in any runtime, and how the detector's candidates are weighted."""

    detector: Detector
    classifier: Grader | CombinedClassifier
    namer: LevelReader | None
    decoding: DecodeSettings


def _loaded_networks(settings: ModelSettings, bundle: Bundle, runtime: Runtime) -> _Networks:
    """Load the networks of a bundle.

    Raises:
        ModuleNotFoundError: a package that they need is not installed.
        WeightsError: they cannot be used.
    """
    if is_exported(settings.weights):
        models = load_exported(settings)
        return _Networks(models.detector, models.classifier, models.namer, models.decoding)
    decoding = decoding_of(bundle)
    if runtime != "torch":
        models = load_by_graphs(bundle, runtime, threads_of(settings))
        return _Networks(models.detector, models.classifier, models.namer, decoding)
    from spineline.classify import load_classifier
    from spineline.detect import load_detector
    from spineline.detect.level_reader.model import load_level_reader

    device, trust = settings.device, settings.trust
    files = [file.path for file in bundle.classifiers]
    return _Networks(
        load_detector(bundle.detector.path, device=device, trust=trust),
        load_classifier(files, device=device, trust=trust),
        load_level_reader(bundle.namer.path, device=device) if bundle.namer else None,
        decoding,
    )


def batch_size(settings: ModelSettings) -> int:
    """The number of images per batch; ``batch=auto`` depends on the device.

    On the CPU, it is one: larger batches gain little there, and the last bits of a network's
    numbers depend on the batch size. So a study's result is the same to the byte whatever studies
    it is run with, also in a continued run or on a cluster.
    """
    if not isinstance(settings.batch, str):
        return settings.batch
    return 1 if on_cpu(settings) else 32


def on_cpu(settings: ModelSettings) -> bool:
    """Whether the models run on the CPU."""
    return check_device(settings.device) == "cpu"


def precision(settings: ModelSettings) -> AbstractContextManager[object]:
    """The context in which the models run: autocast for mixed precision."""
    if not mixed_precision(settings):
        return nullcontext()
    import torch

    kind = "mps" if check_device(settings.device) == "mps" else "cuda"
    return torch.autocast(kind, dtype=torch.float16)


_version = functools.cache(package_version)


def bundle_of(settings: ModelSettings) -> Bundle:
    """The checked files of the networks that settings name.

    A bundle's level reader belongs to the bundle's detector: with another detector, there is none
    unless it is named.

    Raises:
        ConfigError: ``none`` in place of a detector or classifier.
        WeightsError: unknown, altered, of the wrong kind, or a pickle without ``trust=true``.
    """
    if is_exported(settings.weights):
        return exported_bundle(settings)
    detector, classifier, namer = _members(settings)
    for what, name in (("detector", detector), ("classifier", classifier)):
        if name == "none":
            raise ConfigError(
                f"{what}=none: the pipeline needs one; only namer=none can be left out"
            )
    trust = settings.trust
    detecting = resolve(detector, task="detect", trust=trust) if detector else None
    naming = resolve(namer, task="name", trust=trust) if namer and namer != "none" else None
    classifiers = resolve_classifiers(classifier, trust=trust) if classifier else ()
    if detecting and classifiers:
        return _joined(detecting, classifiers, naming)
    bundle = _bundle_named(settings)
    detecting = detecting or bundle.detector
    same_detector = detecting.sha256 == bundle.detector.sha256
    of_bundle = bundle.namer if same_detector and namer != "none" else None
    files = detecting, classifiers or bundle.classifiers, naming or of_bundle
    same = files == (bundle.detector, bundle.classifiers, bundle.namer)
    return bundle if same else _joined(*files)


def decoding_of(bundle: Bundle) -> DecodeSettings:
    """The decoding with a bundle's networks.

    The coefficients of the naming's probability are those in the level reader's file, if they were
    fitted with the bundle's detector, else those of the default bundle.

    Raises:
        WeightsError: the coefficients are not what ``naming calibrate`` writes.
    """
    namer = bundle.namer
    stored = read_metadata(namer.path).get(NAMING_PROBABILITY) if namer else None
    if namer is None or stored is None:
        return DecodeSettings()
    try:
        coefficients = NamingCoefficients.from_json(stored["coefficients"])
        detector = stored["detector"]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        msg = f"{namer.path}: {NAMING_PROBABILITY} cannot be used ({reason:.200})"
        raise WeightsError(f"{msg}; run naming calibrate again") from error
    if detector == bundle.detector.sha256:
        return DecodeSettings(coefficients=coefficients)
    LOG.warning(
        "namer=%s: its naming probability was fitted with another detector, so that of the default "
        "bundle applies; naming calibrate fits it to this one", namer.name
    )  # fmt: skip
    return DecodeSettings()


def _members(settings: ModelSettings) -> tuple[str | None, str | None, str | None]:
    """Names or paths of detector, classifier and level reader (or ``none``), if they are set."""
    namer = None if settings.namer == "bundle" else settings.namer
    parts = [part.strip() or None for part in settings.weights.split(",")]
    if trained := trained_networks(settings.weights):
        parts = [trained.get(role) for role in ROLES]
    if len(parts) == 1:
        return settings.detector, settings.classifier, namer
    if len(parts) > 3:
        msg = f"weights={settings.weights}: wanted a bundle, or DETECTOR,CLASSIFIER[,NAMER]"
        raise ConfigError(msg)
    first, second, third = [*parts, None][:3]
    return settings.detector or first, settings.classifier or second, namer or third


def _bundle_named(settings: ModelSettings) -> Bundle:
    """The bundle of ``weights=``; the name or path of one network replaces it in the default."""
    name, registry = settings.weights, load_registry()
    path_like = Path(name).suffix or len(Path(name).parts) > 1 or Path(name).is_file()
    if name in registry.bundles:
        return resolve_bundle(name)
    if not (registry.find(name) or path_like):
        known = [*registry.bundles, *(entry.name for entry in registry.entries)]
        msg = f"weights={name}: no such bundle, network or file"
        raise UnknownWeightsError(msg + close_match(name, known))
    task, default = task_of(name, trust=settings.trust), resolve_bundle()
    given = resolve(name, task=task, trust=settings.trust)
    if task == "detect":
        same_detector = given.sha256 == default.detector.sha256
        return _joined(given, default.classifiers, default.namer if same_detector else None)
    if task == "classify":
        return _joined(default.detector, [given], default.namer)
    return _joined(default.detector, default.classifiers, given)


def _joined(
    detector: WeightsFile, classifiers: Sequence[WeightsFile], namer: WeightsFile | None
) -> Bundle:
    """A bundle of files that the user combined, named after them."""
    names = [file.name for file in (detector, *classifiers, namer) if file is not None]
    return make_bundle(",".join(names), detector, classifiers, namer)


def _structures(
    frame: Frame, structures: Sequence[DecodedStructure], grades: Sequence[Grade]
) -> tuple[GradedStructure, ...]:
    """Structures with grades, in stored pixels and in patient coordinates."""
    if not structures:
        return ()
    points = frame.turn.to_native(np.array([s.point_xy for s in structures]))
    boxes = frame.turn.boxes_to_native(np.array([s.box_xyxy for s in structures]))
    points_mm = frame.points_mm(points)
    return tuple(
        GradedStructure(
            level=s.level,
            kind=s.kind,
            point_xy=(float(points[n, 0]), float(points[n, 1])),
            box_xyxy=tuple(float(v) for v in boxes[n]),  # type: ignore[arg-type]
            confidence=s.confidence,
            point_mm=None if points_mm is None else tuple(float(v) for v in points_mm[n]),  # type: ignore[arg-type]
            seven=grades[n][0],
            binary=grades[n][1],
        )
        for n, s in enumerate(structures)
    )
