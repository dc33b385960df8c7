"""``to=sr``: ``report.sr.dcm``, a structured report by DICOM's template TID 1500.

Each structure has one measurement group (TID 1410): finding site by level, kind, finding with its
probability, box as image region, point as center, confidence, and the algorithm with the hash of
its weights. The first measurement repeats the outline as what it is inferred from, and a comment
gives level and grade in words: OHIF builds its rectangles and labels from these.

Information on the whole study (naming, warnings) is in the container of qualitative evaluations.
The document is preliminary and unverified, and partial if levels are missing.
"""

from __future__ import annotations

import math
from pathlib import Path

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.outputs.dicom import codes as code
from spineline.pipeline.outputs.dicom.source import (
    SourceInstance,
    fingerprint,
    identity,
    outline,
    plain_text,
    to_graphic,
    uid_of,
    write_object,
)
from spineline.pipeline.outputs.settings import OutputSettings
from spineline.pipeline.outputs.study_files import label_of

RESEARCH_USE = (
    "Research use only, not for diagnosis. Made by software and not verified by any person."
)

_FORCED = (
    "FORCED: this is not a sagittal T2 image of a lumbar spine; levels and grades are given all "
    "the same, do not rely on them."
)


def write_structured_report(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write ``report.sr.dcm`` of a study with a DICOM source.

    Raises:
        SpinelineError: the source cannot be read again, or the folder cannot be written to.
    """
    write_object(
        folder / "report.sr.dcm",
        "sr",
        analysis,
        lambda source: structured_report_of(source, analysis.result, doubtful=settings.confidence),
    )


def structured_report_of(
    source: SourceInstance, result: StudyResult, *, doubtful: float = 0.25
) -> Dataset:
    """A result as a Comprehensive SR document.

    Args:
        source: the instance that was analysed.
        result: what to report.
        doubtful: structures below this confidence are marked as doubtful.
    """
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid_of("device", result.version, result.weights_sha256),
        name="spineline",
        manufacturer_name="spineline",
        model_name=plain_text(result.weights_name) or "unknown",
        serial_number=result.weights_sha256 or "unknown",
    )
    observer = sr.ObserverContext(code.DEVICE, device)
    groups = [_group(source, result, structure, doubtful) for structure in result.structures]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=code.MRI if source.header.modality == "MR" else code.IMAGING,
        imaging_measurements=groups or [_empty_group(source, result)],
    )
    *context, measurements = content[0].ContentSequence
    # The document's constructor copies and reads again all that it is given: the items, which do
    # not depend on each other, follow when it is built.
    content[0].ContentSequence = sr.ContentSequence(context)
    report = sr.ComprehensiveSR(
        evidence=[source.dataset],
        content=content,
        is_complete=not result.missing_levels and bool(result.structures),
        is_final=False,
        is_verified=False,
        coding_schemes=[
            CodingSchemeIdentificationItem(code.PRIVATE_SCHEME, name=code.PRIVATE_SCHEME_NAME)
        ],
        **identity("sr", source, result),
    )
    items = [*context, _image_library(source), measurements, _evaluations(result)]
    report.ContentSequence = sr.ContentSequence(items)
    if result.missing_levels:
        found = len(LEVELS) - len(result.missing_levels)
        report.CompletionFlagDescription = f"{found} of {len(LEVELS)} levels found"
    return report


def _image_library(source: SourceInstance) -> sr.ContainerContentItem:
    """The image library, without which some viewers read no report."""
    image = sr.ImageContentItem(
        name=code.SOURCE,
        referenced_sop_class_uid=source.header.sop_class_uid,
        referenced_sop_instance_uid=source.header.instance_uid,
        referenced_frame_numbers=source.frame_numbers,
        relationship_type="CONTAINS",
    )
    library, group = (
        sr.ContainerContentItem(name=name, relationship_type="CONTAINS")
        for name in (code.IMAGE_LIBRARY, code.IMAGE_LIBRARY_GROUP)
    )
    group.ContentSequence = sr.ContentSequence([image])
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _group(
    source: SourceInstance, result: StudyResult, structure: GradedStructure, doubtful: float
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """The measurement group of one structure."""
    seven, box = structure.seven, outline(structure.box_xyxy, source)
    finding = None if seven is None else code.finding_of(seven.class_index, structure.kind)
    # The constructor of ImageRegion searches the standard's tables for each region; the outcome
    # does not depend on the region.
    region = sr.ImageRegion.from_dataset(
        _place(source, code.IMAGE_REGION, "POLYLINE", box), copy=False
    )
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(source, result, structure.level),
        referenced_region=region,
        finding_category=code.KIND_CODES[structure.kind],
        finding_type=finding,
        finding_sites=[sr.FindingSite(code.SITES[structure.level])],
        algorithm_id=_algorithm(result),
        measurements=_measurements(structure),
        qualitative_evaluations=_qualities(structure, result, doubtful) or None,
    )
    items = group[0].ContentSequence
    # highdicom accepts no coordinates of a measurement in a group with a region.
    first = next(item for item in items if item.ValueType == "NUM")
    inferred = _place(source, code.IMAGE_REGION, "POLYLINE", box, relationship="INFERRED FROM")
    first.ContentSequence = sr.ContentSequence([inferred])
    label = label_of(structure, math.inf if result.abstained else doubtful)
    items.append(sr.TextContentItem(name=code.COMMENT, value=label, relationship_type="CONTAINS"))
    center = to_graphic(structure.point_xy, source)
    items.append(_place(source, code.CENTER, "POINT", center))
    return group


def _empty_group(
    source: SourceInstance, result: StudyResult
) -> sr.MeasurementsAndQualitativeEvaluations:
    """A group that states that nothing was found in the image."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(source, result, "no structure"),
        source_images=[
            sr.SourceImageForMeasurementGroup(
                source.header.sop_class_uid, source.header.instance_uid, source.frame_numbers
            )
        ],
        finding_type=code.NO_STRUCTURE,
        finding_sites=[sr.FindingSite(code.LUMBAR_SPINE)],
        algorithm_id=_algorithm(result),
    )


def _tracking(source: SourceInstance, result: StudyResult, name: str) -> sr.TrackingIdentifier:
    uid = uid_of("tracking", source.header.instance_uid, fingerprint(result), name)
    return sr.TrackingIdentifier(uid=uid, identifier=name)


def _algorithm(result: StudyResult) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name="spineline",
        version=result.version or "unknown",
        parameters=[
            f"weights: {plain_text(result.weights_name) or 'unknown'}",
            f"sha256 of the weights: {result.weights_sha256 or 'unknown'}",
        ],
    )


def _measurements(structure: GradedStructure) -> list[sr.Measurement]:
    """Confidence and probabilities, in percent."""
    shares = [(code.CERTAINTY_OF_FEATURE, structure.confidence)]
    if structure.seven is not None:
        chosen = structure.seven.probabilities[structure.seven.class_index]
        shares.append((code.CERTAINTY_OF_FINDING, chosen))
    if structure.binary is not None and structure.kind == "disc":
        shares.append((code.SCHMORL_PROBABILITY, structure.binary.probability))
    return [
        sr.Measurement(name, value=round(100 * share, 4), unit=code.PERCENT)
        for name, share in shares
    ]


def _qualities(
    structure: GradedStructure, result: StudyResult, doubtful: float
) -> list[sr.QualitativeEvaluation]:
    """Schmorl's node or not, and doubts."""
    found = []
    if structure.binary is not None and structure.kind == "disc":
        found.append(
            (code.SCHMORLS_NODE, code.PRESENT if structure.binary.class_index else code.ABSENT)
        )
    if structure.confidence < doubtful:
        found.append((code.DETECTION, code.DOUBTFUL))
    if result.abstained:
        found.append((code.NAMING, code.GUESSED))
    return [sr.QualitativeEvaluation(name, value) for name, value in found]


def _place(
    source: SourceInstance,
    name: Code,
    kind: str,
    graphic: FloatArray,
    *,
    relationship: str = "CONTAINS",
) -> sr.ContentItem:
    """A place on the source image: the outline that the template requires, or the point."""
    item = sr.ScoordContentItem(
        name=name, graphic_type=kind, graphic_data=graphic, relationship_type=relationship
    )
    image = sr.SourceImageForRegion(
        source.header.sop_class_uid, source.header.instance_uid, source.frame_numbers
    )
    item.ContentSequence = sr.ContentSequence([image])
    return item


def _evaluations(result: StudyResult) -> sr.ContainerContentItem:
    """Evaluations of the study: whether the naming is a guess, warnings, and the intended use."""
    container = sr.ContainerContentItem(
        name=code.EVALUATIONS, relationship_type="CONTAINS", is_content_continuous=False
    )
    items: list[sr.ContentItem] = []
    comments = [RESEARCH_USE, *([_FORCED] if result.forced else [])]
    if result.naming is not None:
        value = code.GUESSED if result.abstained else code.NAMED
        items.append(
            sr.CodeContentItem(name=code.NAMING, value=value, relationship_type="CONTAINS")
        )
        comments.append(f"Probability of the naming of levels: {result.naming.probability:.4f}")
    if result.missing_levels:
        comments.append(f"Missing levels: {', '.join(result.missing_levels)}")
    comments += [f"Warning: {text}" for text in result.warnings]
    items += [
        sr.TextContentItem(name=code.COMMENT, value=text, relationship_type="CONTAINS")
        for text in map(plain_text, comments)
    ]
    container.ContentSequence = sr.ContentSequence(items)
    return container
