"""``pacs push`` against peers in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("highdicom")


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("push") / "run"


@pytest.fixture
def run(kept, tmp_path, make_study, fake_models, predict) -> Path:
    """The folder of a run over two studies, made once and copied."""
    if not kept.exists():
        for name in ("a", "b"):
            make_study(tmp_path / "s" / name)
        code, _, _ = predict(tmp_path / "s", "to=sr,pr,sc", out=kept)
        assert code == 0
    return Path(shutil.copytree(kept, tmp_path / "run"))


@pytest.mark.slow
def test_over_dimse_and_a_second_time(run, peer, run_cli) -> None:
    for _ in range(2):
        code, said, _ = run_cli("pacs", "push", f"source={run}", f"url={peer.url}")
        assert code == 0
        assert "6 of 6 objects sent" in said
    files = [pydicom.dcmread(path) for path in run.glob("*/*.dcm")]
    assert {each.SOPInstanceUID for each in peer.got} == {each.SOPInstanceUID for each in files}
    assert {each.Modality for each in peer.got} == {"SR", "PR", "OT"}
    sent = {each.SOPInstanceUID: each for each in peer.got}
    assert all(sent[each.SOPInstanceUID] == each for each in files)


def test_over_dicomweb_the_bytes_are_those_of_the_files(run, web, run_cli) -> None:
    code, _, _ = run_cli("pacs", "push", f"source={run / 'a'}", f"url={web.url}")
    assert code == 0
    assert len(web.got) == 3
    for path, body in zip(sorted((run / "a").glob("*.dcm")), web.got, strict=True):
        assert path.read_bytes()[132:] in body


def test_what_a_server_refuses_is_named_and_the_rest_is_sent(run, peer, web, run_cli) -> None:
    peer.status = 0xA700
    code, said, warned = run_cli("pacs", "push", f"source={run}", f"url={peer.url}")
    assert code == 1
    assert "0 of 6 objects sent" in said
    assert warned.count("A700H, the server has no room left") == 6
    assert "error: a/report.sr.dcm: " in warned
    web.failure = 0x0122
    code, _, warned = run_cli("pacs", "push", f"source={run}", f"url={web.url}")
    assert code == 1
    assert warned.count("reason 0122H") == 6
    (run / "a" / "report.sr.dcm").write_bytes(b"no DICOM")
    peer.status = 0
    code, said, warned = run_cli("pacs", "push", f"source={run}", f"url={peer.url}")
    assert code == 1
    assert "5 of 6 objects sent" in said
    assert "error: a/report.sr.dcm: cannot be read as DICOM" in warned


def test_a_duplicate_is_no_failure(run, peer, run_cli) -> None:
    peer.status = 0x0111
    assert run_cli("pacs", "push", f"source={run}", f"url={peer.url}")[0] == 0


def test_a_server_that_lets_nobody_in_is_asked_once(run, web, run_cli) -> None:
    web.authorization = "Basic x"
    code, _, warned = run_cli("pacs", "push", f"source={run}", f"url={web.url}")
    assert code == 1
    assert warned.count("answered 401") == 6
    assert len(web.asked) == 1


def test_a_run_without_objects(tmp_path, peer, make_study, fake_models, predict, run_cli) -> None:
    make_study(tmp_path / "s")
    predict(tmp_path / "s", out=tmp_path / "run")
    code, _, warned = run_cli("pacs", "push", f"source={tmp_path / 'run'}", f"url={peer.url}")
    assert code == 1
    assert "to=sr,pr,sc makes them" in warned
    code, _, warned = run_cli("pacs", "push", f"source={tmp_path / 's'}", f"url={peer.url}")
    assert code == 1
    assert "holds no results" in warned
