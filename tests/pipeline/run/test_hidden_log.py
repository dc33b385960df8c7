"""Nothing of the data stands in the log of a run with names=hash, whichever module logs it."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable, Iterator

import pytest

from spineline import classify, converters, datasets, detect, pipeline, weights
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import NameText, PathText, SeriesText, UidText
from spineline.datasets.dicom.index import StudyFiles
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.run.hidden_log import hidden_in_log
from spineline.pipeline.run.pseudonyms import Pseudonyms
from spineline.pipeline.run.settings import PipelinePredict

SALT = "pepper-and-salt"
PARTS = (classify, converters, datasets, detect, pipeline, weights)
MODULES = sorted(
    found.name
    for part in PARTS
    for found in pkgutil.walk_packages(part.__path__, f"{part.__name__}.")
)


@pytest.fixture
def hidden_log(tmp_path, caplog) -> Iterator[Callable[..., str]]:
    """What comes of a record in a run with ``names=hash``; of one module, or of none."""
    caplog.set_level(logging.INFO, "spineline")
    source, out = tmp_path / "in", tmp_path / "in" / "out"
    path = source / "Qwertzmann, X" / "Xaverine 1.dcm"
    path.parent.mkdir(parents=True)
    path.touch()
    files = StudyFiles("1.2.3.4", "Qwertzmann_X", path.parent, (str(path),))
    names = Pseudonyms(SALT, [Case("Qwertzmann_X", files=files)], source)
    settings = PipelinePredict(source=source, out=out, names="hash", salt=SALT)

    def said(message: str, *values: object, module: str = "spineline.any") -> str:
        caplog.clear()
        record = LOG.makeRecord(LOG.name, logging.WARNING, f"{module}.py", 1, message, values, None)
        LOG.handle(record)
        return caplog.text

    said.path, said.out = path, out  # type: ignore[attr-defined]
    with hidden_in_log(settings, names):
        yield said


@pytest.mark.parametrize("module", MODULES)
def test_a_path_that_any_module_logs_is_hidden(hidden_log, module: str) -> None:
    path = hidden_log.path
    for message, values in (
        ("%s: odd", (path,)),
        (f"{path}: odd", ()),
        ("odd: %s", (ValueError(f"{path}: at 3"),)),
    ):
        text = hidden_log(message, *values, module=module)
        assert "odd" in text
        assert not [word for word in ("Qwertz", "Xaver", ", X") if word in text], text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(PathText("sub/Xaverine 1.dcm"), "file-", id="path"),
        pytest.param(UidText("1.2.3.4"), "2.25.", id="UID"),
        pytest.param(NameText("Qwertzmann_X"), "study-", id="name"),
        pytest.param(SeriesText("T2 Qwertzmann", 3), "", id="series"),
        pytest.param("Qwertzmann_X (Xaverine 1.dcm, 1.2.3.4)", "study-", id="free text"),
        pytest.param("{out}/results.csv", "{out}/results.csv", id="the output"),
    ],
)
def test_a_value_in_the_log_is_hidden_by_what_it_is(hidden_log, value: str, shown: str) -> None:
    if "{out}" in value:
        value, shown = (text.format(out=hidden_log.out) for text in (value, shown))
    for message, values in (("%s: odd", (value,)), ("%(what)s: odd", ({"what": value},))):
        text = hidden_log(message, *values)
        assert shown in text
        assert not [word for word in ("Qwertz", "Xaver", "1.2.3.4") if word in text]
