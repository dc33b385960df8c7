"""Texts for the user that can be repeated without identifying values.

A [Marked][] value names a file, a series, a study or a UID. A [Remark][] is a text that keeps its
values: `Remark.hidden` makes the text again with replaced values. No text is ever searched for
identifying values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

UNNAMED = "a file"


class Marked(str):
    """A value that may identify the patient; its class says what it is."""

    __slots__ = ()


class UidText(Marked):
    """A DICOM UID."""

    __slots__ = ()


class NameText(Marked):
    """The name of a study, or of its folder."""

    __slots__ = ()


class FreeText(Marked):
    """Text from outside, such as an error message, which may contain any of the others."""

    __slots__ = ()


class PathText(Marked):
    """The path or the name of a file or folder.

    >>> PathText("im0").shown, PathText(UNNAMED).shown
    ('file im0', 'a file')
    """

    __slots__ = ()

    @property
    def shown(self) -> str:
        """The file as it appears in a sentence."""
        return str(self) if self == UNNAMED else f"file {self}"


class SeriesText(Marked):
    """The description of a series, or an empty one.

    >>> SeriesText("T2 SAG", 3).shown, SeriesText("T2 SAG", 3).left_out().shown
    ("series 'T2 SAG' (number 3)", 'series 3')
    """

    number: int | None
    is_left_out: bool

    def __new__(
        cls, description: str, number: int | None = None, *, is_left_out: bool = False
    ) -> SeriesText:
        """Make a description with the series' number; optionally only the number is shown."""
        made = super().__new__(cls, description)
        made.number, made.is_left_out = number, is_left_out
        return made

    @property
    def shown(self) -> str:
        """The series as it appears in a sentence."""
        if self.is_left_out:
            return "a series" if self.number is None else f"series {self.number}"
        named = f"'{self}'" if self else "without description"
        return f"series {named}" + ("" if self.number is None else f" (number {self.number})")

    def left_out(self) -> SeriesText:
        """Return the series identified only by its number."""
        return SeriesText("", self.number, is_left_out=True)


ParameterPart: TypeAlias = "str | float | Remark"
Parameter: TypeAlias = "ParameterPart | tuple[ParameterPart, ...]"


@dataclass(frozen=True, slots=True)
class Remark:
    """A text for the user with the values in it.

    Attributes:
        code: a stable identifier of its kind; empty without one.
        text: the plain text.
        parameters: the values in the text, by name; some are [Marked][].
        wording: the text with parameter names in braces; None if unknown, such as for a text read
            from a file.
    """

    code: str
    text: str
    parameters: tuple[tuple[str, Parameter], ...] = ()
    wording: str | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.code else self.text

    def hidden(self, hide: Callable[[str], str]) -> Remark:
        """Return the remark with replaced values.

        Args:
            hide: replaces a [Marked][] value, or a text of unknown wording.
        """
        parameters = {name: _hidden(value, hide) for name, value in self.parameters}
        if self.wording is None:
            text = FreeText(self.text)
            return Remark(self.code, str(hide(text)), tuple(parameters.items()))
        return remark(self.code, self.wording, **parameters)


def remark(code: str, wording: str, **parameters: Parameter) -> Remark:
    """Make a remark and its text.

    Args:
        code: its identifier, or an empty one.
        wording: the text; ``{name}`` stands for a parameter, ``{name.shown}`` for a file or series
            as it appears in a sentence.
        parameters: values by name; several remarks in one value are joined by semicolons.

    >>> str(remark("files_left_out", "{file.shown} was left out", file=PathText("im0")))
    'files_left_out: file im0 was left out'
    """
    shown = {
        name: "; ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in parameters.items()
    }
    return Remark(code, wording.format_map(shown), tuple(parameters.items()), wording)


def _hidden(value: Parameter, hide: Callable[[str], str]) -> Parameter:
    if isinstance(value, tuple):
        return tuple(_hidden_part(part, hide) for part in value)
    return _hidden_part(value, hide)


def _hidden_part(value: ParameterPart, hide: Callable[[str], str]) -> ParameterPart:
    if isinstance(value, Remark):
        return value.hidden(hide)
    if not isinstance(value, Marked):
        return value
    instead = hide(value)
    return instead if isinstance(instead, Marked) else type(value)(instead)
