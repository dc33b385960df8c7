"""The error tree of spineline.

Every error that the user can fix derives from [SpinelineError][]. Its message says where it
happened, what was found, what is allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SpinelineError(Exception):
    """Base of all errors that spineline raises on purpose."""


class AnnotationError(SpinelineError):
    """An annotation source or a converted dataset cannot be read."""


class DicomReadError(SpinelineError):
    """A DICOM file or study cannot be read, or holds no usable image."""


class ConfigError(SpinelineError):
    """A key or a value of the command line, a settings file or a recipe is not allowed."""


class WeightsError(SpinelineError):
    """A weights file is missing, altered, for another task, or not trusted."""


class RunFinishedError(WeightsError):
    """The training run to resume has already finished."""


class UnknownWeightsError(WeightsError, ConfigError):
    """A name that is neither in the registry nor the path of a file."""


class OutputExistsError(SpinelineError):
    """The output exists and ``overwrite=true`` was not given."""


@contextmanager
def naming_key(key: str, path: Path) -> Iterator[None]:
    """Within this context, an error about a path names the key that gave it.

    >>> with naming_key("source", Path("a")):
    ...     raise DicomReadError("a: an empty folder")
    Traceback (most recent call last):
    spineline.datasets.common.errors.DicomReadError: source=a: an empty folder
    """
    try:
        yield
    except SpinelineError as error:
        if not str(error).startswith(f"{path}:"):
            raise
        raise type(error)(f"{key}={error}") from error


def first_line(error: BaseException, limit: int = 200) -> str:
    r"""Return the first line of an error for a message, shortened, or its class if it is empty.

    For an error of the system, this is the reason without the path, which the message has itself.

    >>> first_line(ValueError("\na header of many\nlines")), first_line(KeyError())
    ('a header of many', 'KeyError')
    """
    text = getattr(error, "strerror", None) or str(error)
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:limit]
