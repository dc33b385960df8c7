"""Names that ``pipeline val`` writes: those of folders and images, or hashed by ``names=hash``.

Scoring matches labels and predictions by names and UIDs; only the output is renamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spineline.converters.sources.source import LeftOut
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.inference.ground_truth import GroundTruthSet
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.run.engines import Failure, Outcome
from spineline.pipeline.run.pseudonyms import SALT_NAME, Pseudonyms, kept_salt


class ValNames:
    """Replaces names in the output.

    Args:
        pseudonyms: hashed names; None leaves everything unchanged.
    """

    def __init__(self, pseudonyms: Pseudonyms | None = None) -> None:
        self.pseudonyms = pseudonyms

    def cases(self, cases: Sequence[Case]) -> tuple[Case, ...]:
        """The cases, marked as pseudonymous if names are hashed."""
        return tuple(replace(case, is_pseudonymous=self.pseudonyms is not None) for case in cases)

    def study(self, name: str) -> str:
        """The output name of a case, or of an image that is not a case."""
        if self.pseudonyms is None:
            return name
        return self.pseudonyms.name(name) or self.pseudonyms.other("image", name)

    def analysis(self, name: str, analysis: Analysis) -> Analysis:
        """An analysis of a case with names replaced."""
        if self.pseudonyms is None:
            return analysis
        shown = self.pseudonyms.outcome(Outcome(self.study(name), analysis)).analysis
        return analysis if shown is None else shown

    def result(self, name: str, result: StudyResult) -> StudyResult:
        """A result of a case with names replaced."""
        return (
            result if self.pseudonyms is None else self.pseudonyms.result(self.study(name), result)
        )

    def failure(self, failure: Failure) -> Failure:
        """A failure with names replaced."""
        if self.pseudonyms is None:
            return failure
        outcome = Outcome(self.study(failure.name), failure=failure)
        if self.pseudonyms.name(failure.name) is not None:
            outcome = self.pseudonyms.outcome(outcome)
        return replace(outcome.failure or failure, name=outcome.name)

    def left_out(self, entry: LeftOut) -> str:
        """A line about an omitted annotation entry; without details if names are hashed."""
        if self.pseudonyms is None:
            return str(entry)
        return f"{self.study(entry.image_id)}: left out ({entry.reason})"


def val_names(settings: PipelineVal, truth: GroundTruthSet, stage: Path) -> ValNames:
    """The names for a run by its settings; a random salt is stored in the run's folder.

    Args:
        settings: of the run.
        truth: holds the cases.
        stage: the folder that the run is written to.

    Raises:
        SpinelineError: two cases have the same name, or the salt cannot be stored.
    """
    if settings.names != "hash":
        return ValNames()
    salt = settings.salt or kept_salt(stage / SALT_NAME)
    source = settings.source or settings.data or Path()
    return ValNames(Pseudonyms(salt, truth.cases(), source))
