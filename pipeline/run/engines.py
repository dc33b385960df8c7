"""Engines, which turn cases into outcomes on this machine or on a cluster.

An engine is a function ``run(cases, settings)`` that yields one [Outcome][] for every case, in any
order, as soon as each is ready. It reads (`load_frame`) and analyses (`Pipeline.analyse`); it
writes nothing. [spineline.pipeline.run.predict][] handles outcomes (the study's folder, the
manifest, the log) in the same way for every engine.

To add one, write a module ``engine_NAME`` in this folder with such a function ``run``, and add it
to [ENGINES][].
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from spineline.datasets.common.errors import ConfigError

if TYPE_CHECKING:
    from spineline.pipeline.inference.pipeline import Analysis

FailureKind = Literal["reading", "timeout", "crash", "memory", "models", "writing"]
"""The kinds of failures: the study could not be read; its process took too long, crashed or needed
too much memory; the models failed; or its files could not be written.
"""

FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)


@dataclass(frozen=True, slots=True)
class Failure:
    """A study that failed, and why.

    Attributes:
        name: of the study.
        reason: in plain words, the same whenever the study is tried again.
        kind: of the failure.
    """

    name: str
    reason: str
    kind: FailureKind = "reading"

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one case: an analysis or a failure.

    Attributes:
        name: of the case.
        analysis: None if it failed.
        failure: None if it succeeded.
        seconds: spent on it, or on reading it plus its share of its batch.
    """

    name: str
    analysis: Analysis | None = None
    failure: Failure | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if (self.analysis is None) == (self.failure is None):
            raise ValueError(f"{self.name}: an outcome is an analysis or a failure")


Engine = Callable[..., Iterator[Outcome]]
"""Takes cases and settings; closing the iterator stops the work and everything it started."""


ENGINES = {"local": "", "ray": "ray"}
"""The package that each engine needs, by value of ``engine=``; its extra has the same name."""


def check_engine(name: str) -> None:
    """Refuse an engine whose package is not installed, before anything is read.

    Raises:
        ConfigError: names the package and the extra.
    """
    package = ENGINES[name]
    if package and importlib.util.find_spec(package) is None:
        msg = (
            f"engine={name}: needs the package {package}, which is not installed; "
            f"pip install 'spineline[{package}]' brings it"
        )
        raise ConfigError(msg)


def load_engine(name: str) -> Engine:
    """The engine of that name; its module is imported now.

    Raises:
        KeyError: no such engine.
    """
    if name not in ENGINES:
        raise KeyError(name)
    engine: Engine = importlib.import_module(f"{__package__}.engine_{name}").run
    return engine


def reason_of(error: BaseException) -> str:
    """An error's message in one line, or its class if it has no message."""
    text = " ".join(str(error).split())
    return text or type(error).__name__
