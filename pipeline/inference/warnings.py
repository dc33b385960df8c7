"""Warnings: what a reader should know before trusting an answer.

A warning is a [Remark][spineline.datasets.common.remarks.Remark] with one of the codes of `CODES`.
The codes are stable, for programs; people read the text. The same warnings are in ``result.json``,
``log.txt`` and on the terminal, their codes in ``results.csv`` and in the title of the overlay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from spineline.datasets.common.remarks import (
    FreeText,
    Parameter,
    PathText,
    Remark,
    SeriesText,
    remark,
)

CODES: dict[str, str] = {
    "not_lumbar_t2": "not a sagittal T2 image of a lumbar spine with the head up, and why",
    "suitability_in_doubt": "perhaps not a sagittal T2 image of a lumbar spine, and why",
    "missing_levels": "levels without a structure, and why",
    "few_levels": "less than half of the levels were found: not a lumbar spine, or not upright?",
    "low_confidence": "boxes with a low detection confidence",
    "naming_in_doubt": "every name may be one or two levels off",
    "naming_abstained": "the levels are a guess, by min_naming_probability",
    "transitional_anatomy": "more segments than levels: the count does not fit",
    "spacing_implausible": "structures or pixels lie further apart, or closer, than they can",
    "view_cuts_spine": "the edge of the image cuts the spine",
    "orientation_unusual": "the slice was set upright, is oblique, or its spine leans",
    "volume_geometry": "a volume's header places it in two ways that differ",
    "no_geometry": "no usable pixel spacing, orientation or position: points have no millimetres",
    "slice_choice": "what speaks against the chosen series or slice",
    "fat_suppressed": "fat is suppressed, by the header or by what the pixels show",
    "files_left_out": "files of the study that are damaged, missing, or copies of others",
    "burned_in_text": "the pixels may show text, such as the patient's name",
    "identity_in_name": "a folder's or file's name holds the patient's name, number or birth date",
    "grade_withheld": "structures that were found and are not graded, and why",
    "unlike_training": "the image is unlike those that the classifier was trained on",
    "reviewed": "a reader reviewed the result, and what was corrected by hand",
}
"""The codes and their meanings."""

_MARKS: dict[str, type[str]] = {
    "file": PathText,
    "series": SeriesText,
    "reason": FreeText,
}
"""The types of parameters with these names, also when a warning is read from a file."""


def warning(code: str, wording: str, **parameters: Parameter) -> Remark:
    """A warning; see `remark` for the wording.

    Raises:
        KeyError: no such code.
    """
    CODES[code]
    return remark(code, wording, **parameters)


def codes_of(warnings: Iterable[Remark]) -> tuple[str, ...]:
    """The codes of warnings, each once, in their order; warnings of early versions may have none.

    >>> codes_of([warning("view_cuts_spine", "T12-L1"), warning_from_json("by an early version")])
    ('view_cuts_spine',)
    """
    return tuple(dict.fromkeys(each.code for each in warnings if each.code in CODES))


def warning_to_json(made: Remark) -> dict[str, Any]:
    """A warning in the form of ``result.json``: code, text, and the parameters by name."""
    plain: dict[str, Any] = {"code": made.code, "text": made.text}
    for name, value in made.parameters:
        if isinstance(value, tuple):
            plain[name] = [str(part) if isinstance(part, Remark) else part for part in value]
        else:
            plain[name] = str(value) if isinstance(value, str) else value
    return plain


def warning_from_json(value: Mapping[str, Any] | str) -> Remark:
    """The inverse of [warning_to_json][]; in early versions, a warning is a line of text.

    >>> warning_from_json("view_cuts_spine: T12-L1").code
    'view_cuts_spine'

    Raises:
        KeyError, TypeError: it is not a warning.
    """
    if isinstance(value, str):
        code, _, text = value.partition(": ")
        return Remark(code, text) if code in CODES else Remark("", value)
    if not isinstance(value, Mapping):
        raise TypeError(f"a warning is {value!r:.60}, wanted an object")
    parts = dict(value)
    code, text = parts.pop("code"), parts.pop("text")
    if not isinstance(code, str) or not isinstance(text, str):
        raise TypeError("a warning's code or text is no text")
    parameters = ((name, _parameter(name, part)) for name, part in parts.items())
    return Remark(code, text, tuple(parameters))


def _parameter(name: str, value: Any) -> Parameter:
    if isinstance(value, list):
        value = tuple(value)
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, (str, int, float)) for part in parts):
        raise TypeError(f"a warning's {name} is neither a text nor a number, nor a list of these")
    return _MARKS[name](value) if name in _MARKS else value
