"""``to=pr``: ``overlay.pr.dcm``, a presentation state that draws the result over the source image.

Boxes, points and labels refer to the stored instance itself, in layers of discs, vertebrae and
notes that a viewer can switch off. The window is the source's, or by percentile if it has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import ModalityLUTTransformation, PresentationLUTTransformation, pr
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset

from spineline.datasets.dicom.pixels import read_pixels, rescaling_of
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
_GREYS = 256


def write_presentation_state(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write ``overlay.pr.dcm`` of a study with a DICOM source.

    A colour image has no greyscale presentation state: it is skipped with a warning.

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
        source: the instance that was analysed.
        analysis: what to draw.
        doubtful: labels of structures below this confidence get a question mark.

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
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if inverted else "IDENTITY"
        ),
        **_transformations(source),
        **identity("pr", source, analysis.result),
    )
    state.BodyPartExamined = body_part(source)
    _set_area(state, source)
    return state


def _image(source: SourceInstance) -> Dataset:
    """The source as highdicom needs it, without elements that it would misread or cannot read."""
    image = Dataset()
    image.update(source.dataset)
    # highdicom requires functional groups of enhanced classes, which files of one image may lack.
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
    """The text right of the box, or left of it where there is more space; else at the point.

    A viewer that rotates the image keeps the text upright, so texts beside boxes would overlap.
    ``beside`` is therefore false for an image stored lying down.
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


@dataclass(frozen=True, slots=True)
class _Greys:
    """The mapping from stored values to greys: the rescaling, then the window."""

    slope: float
    intercept: float
    center: float
    width: float
    function: str | None = None
    explanation: str = ""

    def of_stored_values(self) -> _Greys:
        """The same greys without a rescaling."""
        # PS3.3 C.11.2.1.2.1: a linear window reaches from center - 0.5 by half of (width - 1).
        shift = 0.5 if self.function in (None, "LINEAR") else 0.0
        center = (self.center - shift - self.intercept) / self.slope + shift
        width = (self.width - 2 * shift) / self.slope + 2 * shift
        return replace(self, slope=1.0, intercept=0.0, center=center, width=width)


def _greys_of(source: SourceInstance) -> _Greys:
    """The source's rescaling and first window, or a percentile window."""
    rescaling = rescaling_of(source.raw, source.header.frame)
    centers, widths = source.numbers("WindowCenter"), source.numbers("WindowWidth")
    if centers and widths and widths[0] >= 1:
        function = source.text("VOILUTFunction")
        known = function if function in _FUNCTIONS else None
        return _Greys(*rescaling, centers[0], widths[0], known)
    # The window applies before the inversion.
    pixels = read_pixels(source.header, invert=False)
    low, high = (float(v) for v in np.percentile(pixels, (0.5, 99.5)))
    place = (low + high) / 2 + 0.5, max(high - low + 1, 1.0)
    return _Greys(*rescaling, *place, explanation="percentile window")


def _transformations(source: SourceInstance) -> dict[str, Any]:
    """The rescaling and the window, in the form that highdicom takes.

    Some viewers, such as those of DCMTK, round rescaled values to whole numbers. If a window would
    then hold too few values, it is given for stored values, without a rescaling.
    """
    greys, unit = _greys_of(source), source.text("RescaleType")
    unit = unit if 0 < len(unit) <= 64 and unit.isascii() else "US"
    rescaled = (greys.slope, greys.intercept) != (1.0, 0.0)
    if 0 < greys.slope < 1 and greys.width <= _GREYS:
        greys, unit = greys.of_stored_values(), "US"
    modality = ModalityLUTTransformation(greys.intercept, greys.slope, unit)
    window = pr.SoftcopyVOILUTTransformation(
        # As lists: highdicom writes a plain explanation letter by letter.
        [greys.center],
        [greys.width],
        [greys.explanation] if greys.explanation else None,
        greys.function,
    )
    return {
        "modality_lut_transformation": modality if rescaled else None,
        "voi_lut_transformations": [window],
    }


def _set_area(state: Dataset, source: SourceInstance) -> None:
    """Set the displayed area: the physical shape of the pixels, and the frame."""
    for area in state.DisplayedAreaSelectionSequence:
        if "PixelOriginInterpretation" in area:  # only for tiled images
            del area.PixelOriginInterpretation
        if source.header.spacing_rc_mm is not None:
            area.PresentationPixelSpacing = [f"{v:.10g}" for v in source.header.spacing_rc_mm]
            del area.PresentationPixelAspectRatio
    if source.frame_number is not None:
        for series in state.ReferencedSeriesSequence:
            for reference in series.ReferencedImageSequence:
                reference.ReferencedFrameNumber = source.frame_number
