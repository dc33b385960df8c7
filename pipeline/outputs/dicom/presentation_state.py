"""``to=pr``: ``overlay.pr.dcm``, a presentation state that draws the result over the source image.

Boxes, points and labels lie on the stored instance itself, in layers of discs, vertebrae and notes
that a viewer can switch off. The window is the source's, or by percentile where it has none.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import ModalityLUTTransformation, PresentationLUTTransformation, pr
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset

from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.drawing import COLOURS_RGB
from spineline.datasets.labels import KINDS
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import GradedStructure
from spineline.pipeline.outputs.dicom.source import (
    NotRepresentableError,
    SourceInstance,
    body_part,
    identity,
    outline,
    plain_text,
    to_graphic,
    write_object,
)
from spineline.pipeline.outputs.settings import OutputSettings
from spineline.pipeline.outputs.study_files import label_of, title_of

_LAYERS = {"disc": "DISCS", "vertebra": "VERTEBRAE"}
_NOTES = "NOTES"
_NOTE_BOX = (0.02, 0.94, 0.98, 0.99)  # left, top, right, bottom of the area shown
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def write_presentation_state(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write ``overlay.pr.dcm`` of a study with a DICOM source.

    A colour image has no greyscale presentation state: it is warned of and left out.

    Raises:
        SpinelineError: the source cannot be read again, or the folder cannot be written to.
    """
    write_object(
        folder / "overlay.pr.dcm",
        "pr",
        analysis,
        lambda source: presentation_state_of(source, analysis, doubtful=settings.confidence),
    )


def presentation_state_of(
    source: SourceInstance, analysis: Analysis, *, doubtful: float = 0.25
) -> Dataset:
    """A result as a Grayscale Softcopy Presentation State of its source instance.

    Args:
        source: the instance that the result speaks of.
        analysis: what to draw.
        doubtful: labels of structures below this confidence carry a question mark.

    Raises:
        NotRepresentableError: a colour image, or one whose values go through a table.
    """
    if source.header.samples != 1:
        raise NotRepresentableError("a greyscale presentation state cannot show a colour image")
    if "ModalityLUTSequence" in source.raw:
        raise NotRepresentableError("its values go through a modality table")
    image = _image(source)
    colours = {_LAYERS[kind]: COLOURS_RGB[kind] for kind in KINDS} | {_NOTES: (255, 255, 255)}
    layers = {
        name: pr.GraphicLayer(name, order, display_color=CIELabColor.from_rgb(*colour))
        for order, (name, colour) in enumerate(colours.items(), 1)
    }  # the lowest first
    inverted = source.header.photometric == "MONOCHROME1"
    state = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        content_label="SPINELINE",
        content_description="Levels and grades of the spine, research use only",
        graphic_layers=list(layers.values()),
        graphic_annotations=_annotations(source, image, analysis, layers, doubtful),
        modality_lut_transformation=_modality_transformation(source),
        voi_lut_transformations=_window(source),
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if inverted else "IDENTITY"
        ),
        **identity("pr", source, analysis.result),
    )
    state.BodyPartExamined = body_part(source)
    _set_area(state, source)
    return state


def _image(source: SourceInstance) -> Dataset:
    """The source as highdicom looks at it, without what it would read wrongly or not at all."""
    image = Dataset()
    image.update(source.dataset)
    if source.frame_number is not None:
        image.SharedFunctionalGroupsSequence = [Dataset()]
        image.PerFrameFunctionalGroupsSequence = [Dataset() for _ in range(source.header.frames)]
    return image


def _annotations(
    source: SourceInstance,
    image: Dataset,
    analysis: Analysis,
    layers: dict[str, pr.GraphicLayer],
    doubtful: float,
) -> list[pr.GraphicAnnotation]:
    """One annotation per kind, and the note below."""
    result = analysis.result
    limit = math.inf if result.abstained else doubtful
    beside = not analysis.frame.turn.transpose
    found = []
    for kind in KINDS:
        structures = [s for s in result.structures if s.kind == kind]
        if structures:
            graphics = [
                pr.GraphicObject(shape, place, "PIXEL")
                for s in structures
                for shape, place in (
                    ("POLYLINE", outline(s.box_xyxy, source)),
                    ("POINT", to_graphic(s.point_xy, source)),
                )
            ]
            texts = [_text(source, s, label_of(s, limit), beside) for s in structures]
            found.append((_LAYERS[kind], graphics, texts))
    guess = "; levels are a guess" if result.abstained else ""
    note = plain_text(f"{title_of(analysis)}{guess}; research use only")
    found.append((_NOTES, [], [pr.TextObject(note, "DISPLAY", bounding_box=_NOTE_BOX)]))
    return [
        pr.GraphicAnnotation(
            referenced_images=[image],
            graphic_layer=layers[layer],
            referenced_frame_number=source.frame_number,
            graphic_objects=graphics or None,
            text_objects=texts,
        )
        for layer, graphics, texts in found
    ]


def _text(
    source: SourceInstance, structure: GradedStructure, label: str, beside: bool
) -> pr.TextObject:
    """The label right of the box, or left of it where there is more room; else at the point.

    A viewer that turns the image keeps the text upright, and boxes of text side by side would then
    lie over each other: ``beside`` is false for an image stored lying.
    """
    x, y = (float(v) for v in to_graphic(structure.point_xy, source)[0])
    if not beside:
        return pr.TextObject(label, "PIXEL", anchor_point=(x, y), anchor_point_visible=False)
    left, right = (float(v) for v in outline(structure.box_xyxy, source)[:2, 0])
    columns, rows = float(source.header.columns), float(source.header.rows)
    half = max(rows / 60, 2.0)
    top, bottom = max(y - half, 0.0), min(y + half, rows)
    if columns - right >= left:
        place, justification = (min(right + 2, columns - 1), top, columns, bottom), "LEFT"
    else:
        place, justification = (0.0, top, max(left - 2, 1.0), bottom), "RIGHT"
    return pr.TextObject(
        label,
        "PIXEL",
        bounding_box=place,
        text_justification=justification,
        anchor_point=(x, y),
        anchor_point_visible=False,
    )


def _modality_transformation(source: SourceInstance) -> Any:
    """The source's rescaling, or None."""
    slope, intercept = source.numbers("RescaleSlope"), source.numbers("RescaleIntercept")
    if len(slope) != 1 or len(intercept) != 1 or slope[0] == 0:
        return None
    unit = source.text("RescaleType")
    unit = unit if 0 < len(unit) <= 64 and unit.isascii() else "US"
    return ModalityLUTTransformation(intercept[0], slope[0], unit)


def _window(source: SourceInstance) -> list[pr.SoftcopyVOILUTTransformation] | None:
    """The source's first window, or one by percentile; None where neither can be given."""
    centers, widths = source.numbers("WindowCenter"), source.numbers("WindowWidth")
    if centers and widths and widths[0] >= 1:
        function = source.text("VOILUTFunction")
        return [
            pr.SoftcopyVOILUTTransformation(
                centers[0], widths[0], voi_lut_function=function if function in _FUNCTIONS else None
            )
        ]
    if source.header.photometric == "MONOCHROME1":  # its pixels are read inverted
        return None
    low, high = (float(v) for v in np.percentile(read_pixels(source.header), (0.5, 99.5)))
    # PS3.3 C.11.2.1.2.1: a linear window reaches from center - 0.5 by half of (width - 1).
    center, width = (low + high) / 2 + 0.5, max(high - low + 1, 1.0)
    # As lists: highdicom writes the letters of a bare explanation one by one.
    return [pr.SoftcopyVOILUTTransformation([center], [width], ["percentile window"])]


def _set_area(state: Dataset, source: SourceInstance) -> None:
    """Physical shape of the pixels, and the frame that is spoken of."""
    for area in state.DisplayedAreaSelectionSequence:
        if "PixelOriginInterpretation" in area:  # for tiled images alone
            del area.PixelOriginInterpretation
        if source.header.spacing_rc_mm is not None:
            area.PresentationPixelSpacing = [f"{v:.10g}" for v in source.header.spacing_rc_mm]
            del area.PresentationPixelAspectRatio
    if source.frame_number is not None:
        for series in state.ReferencedSeriesSequence:
            for reference in series.ReferencedImageSequence:
                reference.ReferencedFrameNumber = source.frame_number
