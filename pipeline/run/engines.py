"""Engines: what takes cases to outcomes, on this machine or on a cluster.

An engine is a function ``run(cases, settings)`` that yields one [Outcome][] for every case, in any
order, as soon as each is there. It reads (`load_frame`) and analyses (`Pipeline.analyse`); it
writes nothing. What happens to an outcome (the study's folder, the manifest, the log) is
[spineline.pipeline.run.predict][]'s, the same for every engine.

To add one: a module ``engine_NAME`` of this folder with such a function ``run``, and a word in
[ENGINES][].
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
"""Why a study could not be done: it could not be read; the process that did it took too long, ended
or needed too much memory; the models failed on it; or its files could not be written."""

FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)


@dataclass(frozen=True, slots=True)
class Failure:
    """A study that could not be done, and why.

    Attributes:
        name: of the study.
        reason: in plain words, the same whenever the study is tried again.
        kind: in one word.
    """

    name: str
    reason: str
    kind: FailureKind = "reading"

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case: an analysis or a failure.

    Attributes:
        name: of the case.
        analysis: what was found, or None.
        failure: why nothing was, or None.
        seconds: spent on it, or on its reading and its share of the batch it was analysed in.
    """

    name: str
    analysis: Analysis | None = None
    failure: Failure | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if (self.analysis is None) == (self.failure is None):
            raise ValueError(f"{self.name}: an outcome is an analysis or a failure")


Engine = Callable[..., Iterator[Outcome]]
"""Takes cases and settings; closing the iterator ends the work and what was started for it."""


ENGINES = {"local": "", "ray": "ray"}
"""What package each engine needs, by the word of ``engine=``; its extra has the same name."""


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
    """An error's message in one line, or its class where it says nothing."""
    text = " ".join(str(error).split())
    return text or type(error).__name__
