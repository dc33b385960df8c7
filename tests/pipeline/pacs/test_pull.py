"""``pacs pull`` against peers in this process: whole, resumed, and what peers do wrong."""

from __future__ import annotations

import re

import pydicom
import pytest

from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.pacs.received import ReceivedStudies, received_header

STUDY = "study-[0-9a-f]{16}"


@pytest.fixture
def files(tmp_path, make_study) -> list[bytes]:
    for name in ("a", "b"):
        make_study(tmp_path / "s" / name)
    return [path.read_bytes() for path in sorted((tmp_path / "s").rglob("im*"))]


@pytest.fixture
def full_peer(peer, files):
    peer.has = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)) for data in files]
    return peer


@pytest.fixture
def full_web(web, files):
    web.files = files
    return web


def pulled(out) -> list:
    return sorted(out.glob("*/*.dcm"))


def uids(paths) -> list:
    return sorted(pydicom.dcmread(path).SOPInstanceUID for path in paths)


def test_over_dimse(full_peer, run_cli, tmp_path) -> None:
    out = tmp_path / "o"
    keys = (f"url={full_peer.url}", f"out={out}")
    code, said, _ = run_cli("pacs", "pull", *keys, "query=PatientID=SECRET-ID")
    assert code == 0
    assert "2 of 2 studies whole: 6 images came, 0 were there" in said
    assert uids(pulled(out)) == sorted(each.SOPInstanceUID for each in full_peer.has)
    assert all(re.fullmatch(STUDY, path.parent.name) for path in pulled(out))
    (first, *_) = pulled(out)
    sent = next(e for e in full_peer.has
                if e.SOPInstanceUID == pydicom.dcmread(first).SOPInstanceUID)  # fmt: skip
    assert pydicom.dcmread(first) == sent
    everything = said + "".join(str(path) for path in out.rglob("*"))
    everything += (out / ".pull" / "run.yaml").read_text()
    assert "SECRET" not in everything
    assert full_peer.has[0].StudyInstanceUID not in everything
    assert len(find_cases(out)) == 2


def test_over_dicomweb_the_bytes_are_those_of_the_server(
    full_web, files, run_cli, tmp_path
) -> None:
    """The server also gives the same page for every offset, which has to end."""
    out = tmp_path / "o"
    keys = (f"url={full_web.url}", f"out={out}", "query=PatientID=SECRET-ID")
    code, said, _ = run_cli("pacs", "pull", *keys)
    assert code == 0, said
    assert sorted(path.read_bytes() for path in pulled(out)) == sorted(files)


@pytest.mark.parametrize(
    "protocol", [pytest.param("full_peer", marks=pytest.mark.slow), "full_web"]
)
def test_a_second_pull_fetches_what_is_missing(protocol, request, run_cli, tmp_path) -> None:
    out, server = tmp_path / "o", request.getfixturevalue(protocol)
    keys = (f"url={server.url}", f"out={out}", "query=PatientID=SECRET-ID")
    assert run_cli("pacs", "pull", *keys)[0] == 0
    before = {path: path.read_bytes() for path in pulled(out)}
    lost = pulled(out)[1]
    lost.unlink()
    (lost.parent / f".{lost.name}.1234.partial").write_bytes(b"half")
    code, said, _ = run_cli("pacs", "pull", *keys)
    assert code == 0
    assert "2 of 2 studies whole: 1 images came, 5 were there" in said
    assert {path: path.read_bytes() for path in pulled(out)} == before
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_half_a_study_is_named_and_the_rest_comes_later(full_peer, run_cli, tmp_path) -> None:
    out = tmp_path / "o"
    keys = (f"url={full_peer.url}", f"out={out}", "query=PatientID=SECRET-ID")
    full_peer.leaves_out = {full_peer.has[0].SOPInstanceUID}
    code, said, warned = run_cli("pacs", "pull", *keys)
    assert code == 1
    assert re.search(f"error: {STUDY}: 1 of 3 images did not come; the same command", warned)
    assert "1 of 2 studies whole" in said
    full_peer.leaves_out = set()
    assert run_cli("pacs", "pull", *keys)[0] == 0
    assert len(pulled(out)) == 6


def test_a_connection_that_breaks(full_peer, run_cli, tmp_path) -> None:
    full_peer.ends_after = 1
    keys = (f"url={full_peer.url}", f"out={tmp_path / 'o'}", "query=PatientID=SECRET-ID")
    code, _, warned = run_cli("pacs", "pull", *keys, "timeout=5")
    assert code == 1
    assert "images did not come" in warned
    assert not list((tmp_path / "o").rglob("*.partial"))


def test_names_by_uid_only_where_asked(full_peer, run_cli, tmp_path) -> None:
    out, uid = tmp_path / "o", full_peer.has[0].StudyInstanceUID
    keys = (f"url={full_peer.url}", f"out={out}", f"study={uid}")
    assert run_cli("pacs", "pull", *keys, "names=uid")[0] == 0
    assert {path.parent.name for path in pulled(out)} == {uid}
    code, _, warned = run_cli("pacs", "pull", *keys)
    assert code == 2
    assert "was begun with names=uid" in warned


@pytest.mark.slow
def test_names_are_those_that_predict_gives(
    full_peer, run_cli, tmp_path, make_study, fake_models, predict
) -> None:
    out = tmp_path / "o"
    keys = (f"url={full_peer.url}", f"out={out}", "query=PatientID=SECRET-ID", "salt=pepper-and-")
    assert run_cli("pacs", "pull", *keys)[0] == 0
    predict(tmp_path / "s", "names=hash", "salt=pepper-and-", out=tmp_path / "p")
    named = {path.parent.name for path in (tmp_path / "p").glob("*/result.json")}
    assert {path.parent.name for path in pulled(out)} == named
    code, _, warned = run_cli("pacs", "pull", *keys[:-1], "salt=other-salt")
    assert code == 2
    assert "begun with" in warned


def test_uids_that_a_server_makes_up_lead_nowhere(full_web, run_cli, tmp_path) -> None:
    out = tmp_path / "deep" / "er" / "o"
    full_web.uids = lambda ds: (ds.StudyInstanceUID, "../../../evil", "../../evil")
    before = sorted(tmp_path.rglob("*"))
    for names in ("hash", "uid"):
        keys = (f"url={full_web.url}", f"out={out}-{names}", f"names={names}")
        code, _, warned = run_cli("pacs", "pull", *keys, "study=1.2.3")
        assert code == 1
        assert warned.startswith("error: ")
    new = {path for path in tmp_path.rglob("*") if path not in before}
    assert not [path for path in new if "evil" in path.name]
    assert all(tmp_path / "deep" in (path, *path.parents) for path in new)
    assert not [path for path in full_web.asked if "evil" in path]


def test_a_study_that_was_not_asked_for_is_not_kept(full_web, run_cli, tmp_path) -> None:
    full_web.uids = lambda ds: ("1.2.3", ds.SeriesInstanceUID, ds.SOPInstanceUID)
    code, _, warned = run_cli(
        "pacs", "pull", f"url={full_web.url}", f"out={tmp_path / 'o'}", "study=1.2.3"
    )
    assert code == 1
    assert "an image of another study" in warned
    assert not pulled(tmp_path / "o")


@pytest.mark.parametrize(
    ("status", "kind", "body", "said"),
    [
        (200, "text/html", b"<html>SECRET</html>", "not that of a DICOMweb server"),
        (200, "application/dicom+json", b"[{", "not that of a DICOMweb server"),
        (200, "application/dicom+json", b'{"a": 1}', "not that of a DICOMweb server"),
        (200, "application/dicom+json", b'["x"]', "not that of a DICOMweb server"),
        (404, "text/plain", b"", "root of the DICOMweb service"),
        (401, "text/plain", b"", "SPINELINE_PACS_USER"),
        (503, "text/plain", b"", "answered 503"),
        (204, "text/plain", b"", "no study of the server matches"),
    ],
)
def test_what_a_server_may_answer(web, run_cli, tmp_path, status, kind, body, said) -> None:
    web.answers = {"/studies": (status, kind, body)}
    keys = (f"url={web.url}", f"out={tmp_path / 'o'}", "query=PatientID=SECRET-ID")
    code, _, warned = run_cli("pacs", "pull", *keys)
    assert code == 1
    assert said in warned
    assert "SECRET" not in warned
    assert not (tmp_path / "o").exists()


def test_an_image_that_is_none(full_web, run_cli, tmp_path) -> None:
    answer = b"--x\r\nContent-Type: application/dicom\r\n\r\nno DICOM at all\r\n--x--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=x'
    full_web.answers = {"/series/": (200, kind, answer)}
    keys = (f"url={full_web.url}", f"out={tmp_path / 'o'}", "query=PatientID=SECRET-ID")
    code, _, warned = run_cli("pacs", "pull", *keys)
    assert code == 1
    assert "3 of 3 images did not come" in warned
    assert not pulled(tmp_path / "o")


def test_bearer_and_basic(full_web, run_cli, tmp_path, monkeypatch) -> None:
    keys = (f"url={full_web.url}", "query=PatientID=SECRET-ID")
    full_web.authorization = "Bearer abc"
    assert run_cli("pacs", "pull", *keys, f"out={tmp_path / 'o'}")[0] == 1
    monkeypatch.setenv("SPINELINE_PACS_TOKEN", "abc")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))  # which requests would put in its place
    assert run_cli("pacs", "pull", *keys, f"out={tmp_path / 'o'}")[0] == 0
    monkeypatch.delenv("SPINELINE_PACS_TOKEN")
    full_web.authorization = "Basic w7w6cA=="
    monkeypatch.setenv("SPINELINE_PACS_USER", "ü")
    monkeypatch.setenv("SPINELINE_PACS_PASSWORD", "p")
    assert run_cli("pacs", "pull", *keys, f"out={tmp_path / 'p'}")[0] == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("dicom://OTHER@127.0.0.1:{port}", "Called AE title not recognised"),
        ("dicom://PEER@127.0.0.1:1", "cannot be reached (Connection refused)"),
        ("dicom://PEER@nowhere.invalid:104", "cannot be reached"),
        ("dicoms://PEER@127.0.0.1:{port}", "127.0.0.1"),
        ("http://127.0.0.1:1/x", "cannot be reached (Connection refused)"),
        ("http://nowhere.invalid/x", "cannot be reached"),
        ("https://127.0.0.1:{port}/x", "127.0.0.1"),
        pytest.param(
            "http://127.0.0.1:{port}/x", "127.0.0.1", marks=pytest.mark.slow
        ),  # waits 10 s
    ],
)
def test_servers_that_are_not_what_they_should_be(full_peer, run_cli, tmp_path, url, said) -> None:
    keys = (f"url={url.format(port=full_peer.port)}", f"out={tmp_path / 'o'}", "timeout=3")
    code, _, warned = run_cli("pacs", "pull", *keys, "query=PatientID=SECRET-ID")
    assert code == 1
    assert said in warned
    assert "SECRET" not in warned
    assert not (tmp_path / "o").exists()


def test_a_full_disk_ends_it_and_leaves_nothing_half(
    full_web, run_cli, tmp_path, monkeypatch
) -> None:
    import errno
    import os

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    keys = (f"url={full_web.url}", f"out={tmp_path / 'o'}", "query=PatientID=SECRET-ID")
    with monkeypatch.context() as patched:
        patched.setattr(
            "spineline.pipeline.pacs.received.write_bytes",
            lambda path, data: _write_full(path, data, full, os),
        )
        code, _, warned = run_cli("pacs", "pull", *keys)
    assert code == 1
    assert "No space left" in warned
    assert not list((tmp_path / "o").rglob("*.partial"))
    assert run_cli("pacs", "pull", *keys)[0] == 0


def _write_full(path, data, full, os) -> None:
    from spineline.datasets.common.files import write_bytes

    fsync, os.fsync = os.fsync, full
    try:
        write_bytes(path, data)
    finally:
        os.fsync = fsync


@pytest.mark.slow
def test_a_folder_of_something_else_is_left_alone(full_peer, run_cli, tmp_path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine").write_text("x")
    keys = (f"url={full_peer.url}", f"out={tmp_path / 'o'}", "query=PatientID=SECRET-ID")
    assert run_cli("pacs", "pull", *keys)[0] == 1
    assert run_cli("pacs", "pull", *keys, "overwrite=true")[0] == 1
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["mine"]
    assert run_cli("pacs", "pull", *keys[:1], f"out={tmp_path / 'p'}", *keys[2:])[0] == 0
    names = [path.name for path in pulled(tmp_path / "p")]
    keys = (*keys[:1], f"out={tmp_path / 'p'}", *keys[2:], "overwrite=true")
    assert run_cli("pacs", "pull", *keys)[0] == 0
    assert [path.name for path in pulled(tmp_path / "p")] != names  # another salt


def test_two_contents_under_one_uid_are_both_kept(tmp_path, make_slice, make_spots) -> None:
    """Some exports give a whole series one UID; DICOM forbids it, and nothing may be lost."""
    studies = ReceivedStudies(tmp_path / "o", "salt-salt")
    sent = []
    for number in (1, 2, 2):
        path = tmp_path / "im"
        make_slice(path, make_spots(), study="s", position=(number, 0, 0))
        data = path.read_bytes()
        sent.append((data, studies.keep(received_header(data), data)))
    assert [new for _, new in sent] == [True, True, False]
    assert sorted(p.read_bytes() for p in pulled(tmp_path / "o")) == sorted({d for d, _ in sent})


def test_no_next_command_is_named_where_nothing_came(run_cli, tmp_path) -> None:
    keys = ("url=dicom://PEER@127.0.0.1:1", "study=1.2.3", f"out={tmp_path / 'o'}")
    code, said, _ = run_cli("pacs", "pull", *keys)
    assert code == 1
    assert "0 of 1 studies whole" in said
    assert "pipeline predict" not in said
