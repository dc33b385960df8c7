"""Texts for the user that know what they speak of, so that they can be told without it.

A [Marked][] value tells of a file, a series, a study or a UID. A [Remark][] is a text with the
values in it: `Remark.hidden` makes the text again with others in their places. No text is ever
searched for what it may give away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

UNNAMED = "a file"


class Marked(str):
    """A value that may tell who the patient is; what it is a value of is its class."""

    __slots__ = ()


class UidText(Marked):
    """A DICOM UID."""

    __slots__ = ()


class NameText(Marked):
    """The name of a study, or of its folder."""

    __slots__ = ()


class FreeText(Marked):
    """Words that others made, such as an error's: they may hold any of the others."""

    __slots__ = ()


class PathText(Marked):
    """The path or the name of a file or folder.

    >>> PathText("im0").shown, PathText(UNNAMED).shown
    ('file im0', 'a file')
    """

    __slots__ = ()

    @property
    def shown(self) -> str:
        """The file as a sentence calls it."""
        return str(self) if self == UNNAMED else f"file {self}"


class SeriesText(Marked):
    """The description of a series, empty where it has none.

    >>> SeriesText("T2 SAG", 3).shown, SeriesText("T2 SAG", 3).left_out().shown
    ("series 'T2 SAG' (number 3)", 'series 3')
    """

    number: int | None
    is_left_out: bool

    def __new__(
        cls, description: str, number: int | None = None, *, is_left_out: bool = False
    ) -> SeriesText:
        """A description, the number of its series, and whether to speak of the number alone."""
        made = super().__new__(cls, description)
        made.number, made.is_left_out = number, is_left_out
        return made

    @property
    def shown(self) -> str:
        """The series as a sentence calls it."""
        if self.is_left_out:
            return "a series" if self.number is None else f"series {self.number}"
        named = f"'{self}'" if self else "without description"
        return f"series {named}" + ("" if self.number is None else f" (number {self.number})")

    def left_out(self) -> SeriesText:
        """The series by its number alone."""
        return SeriesText("", self.number, is_left_out=True)


ParameterPart: TypeAlias = "str | float | Remark"
Parameter: TypeAlias = "ParameterPart | tuple[ParameterPart, ...]"


@dataclass(frozen=True, slots=True)
class Remark:
    """A text for the user, and what it speaks of.

    Attributes:
        code: a stable word for what it says; empty where it has none.
        text: in plain words.
        parameters: the values that the text speaks of, by name; some are [Marked][].
        wording: the text with the names of parameters in braces; None where it is not known, as
            of a text read from a file.
    """

    code: str
    text: str
    parameters: tuple[tuple[str, Parameter], ...] = ()
    wording: str | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.code else self.text

    def hidden(self, hide: Callable[[str], str]) -> Remark:
        """The remark with other values in the places of its own.

        Args:
            hide: gives the value in place of a [Marked][] one, or of a text of unknown wording.
        """
        parameters = {name: _hidden(value, hide) for name, value in self.parameters}
        if self.wording is None:
            text = FreeText(self.text)
            return Remark(self.code, str(hide(text)), tuple(parameters.items()))
        return remark(self.code, self.wording, **parameters)


def remark(code: str, wording: str, **parameters: Parameter) -> Remark:
    """A remark whose text is made here.

    Args:
        code: its word, or nothing.
        wording: the text, in which ``{name}`` stands for a parameter and ``{name.shown}`` for the
            words of a file or series.
        parameters: by name; several remarks in one are parted by semicolons.

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
