"""The registry of outputs that ``to=`` selects besides result.json and overlay.png."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from spineline.datasets.common.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RegisteredOutput:
    """One value of ``to=``.

    Attributes:
        word: the value.
        study_writer: the function that writes a study's file, ``module:function`` below this
            package, imported on use; empty if there is none.
        cohort_writer: the same for the file of the whole run.
        needs_dicom: whether only studies with a DICOM source have it.
        of_refused: whether it includes refused studies.
        package, extra: the required package, and the extra that installs it.
    """

    word: str
    study_writer: str = ""
    cohort_writer: str = ""
    needs_dicom: bool = False
    of_refused: bool = False
    package: str = ""
    extra: str = ""


def _dicom_object(word: str, writer: str) -> RegisteredOutput:
    return RegisteredOutput(
        word, f"dicom.{writer}", needs_dicom=True, package="highdicom", extra="dicom"
    )


_OUTPUTS = (
    _dicom_object("sr", "structured_report:write_structured_report"),
    _dicom_object("pr", "presentation_state:write_presentation_state"),
    _dicom_object("sc", "secondary_capture:write_secondary_capture"),
    RegisteredOutput("slicer", "slicer:write_markups"),
    RegisteredOutput("tianchi", "tianchi:write_study_submission", "tianchi:write_submission"),
    RegisteredOutput("report", "html.study_page:write_report_page", of_refused=True),
    RegisteredOutput("coco", cohort_writer="coco:write_coco_files"),
    RegisteredOutput("page", cohort_writer="html.cohort_page:write_index_page", of_refused=True),
)


def list_outputs() -> dict[str, RegisteredOutput]:
    """All outputs by value of ``to=``.

    >>> [word for word, output in list_outputs().items() if output.cohort_writer]
    ['tianchi', 'coco', 'page']
    """
    return {output.word: output for output in _OUTPUTS}


def check_packages(words: Iterable[str]) -> None:
    """Refuse outputs whose package is not installed, before any study is read.

    Raises:
        ConfigError: names the package and the extra.
    """
    for output in map(list_outputs().__getitem__, words):
        if output.package and importlib.util.find_spec(output.package) is None:
            msg = (
                f"to={output.word}: needs the package {output.package}, which is not installed; "
                f"install it with pip install 'spineline[{output.extra}]'"
            )
            raise ConfigError(msg)
