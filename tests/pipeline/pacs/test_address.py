"""Addresses, credentials and keys: what is refused, before anything is sent."""

from __future__ import annotations

import os

import pytest

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.pipeline.pacs.address import parse_address, read_credentials
from spineline.pipeline.pacs.settings import PacsListen, PacsPull, PacsPush


@pytest.mark.parametrize(
    ("url", "protocol", "place", "tls"),
    [
        ("http://h/dicom-web/", "web", "h:80", False),
        ("https://h:8443/x", "web", "h:8443", True),
        ("dicom://A%20B@h:104", "dimse", "A B at h:104", False),
        ("dicoms://AE@[::1]:2762", "dimse", "AE at ::1:2762", True),
    ],
)
def test_addresses(url: str, protocol: str, place: str, tls: bool) -> None:
    found = parse_address(url)
    assert (found.protocol, str(found), found.tls) == (protocol, place, tls)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://u:secret@h/x", "SPINELINE_PACS_PASSWORD"),
        ("https://token@h/x", "credentials=FILE"),
        ("dicom://AE:secret@h:104", "SPINELINE_PACS_PASSWORD"),
        ("dicom://h:104", "not an AE title"),
        ("dicom://SEVENTEEN-LETTERS@h:104", "not an AE title"),
        ("dicom://AE@h", r"wanted dicom://AET@HOST:PORT"),
        ("dicom://AE@h:99999", "is not an address"),
        ("ftp://h/x", "is not an address of a PACS"),
        ("h:104", "is not an address of a PACS"),
        ("http://h/x?a=1", "the root of the service"),
    ],
)
def test_addresses_that_are_none(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)


def test_credentials_come_from_the_environment_or_a_file(tmp_path, monkeypatch) -> None:
    assert not read_credentials(None)
    monkeypatch.setenv("SPINELINE_PACS_USER", "u")
    with pytest.raises(SpinelineError, match="belong together"):
        read_credentials(None)
    monkeypatch.setenv("SPINELINE_PACS_PASSWORD", "p")
    assert read_credentials(None).password == "p"
    assert "p" not in repr(read_credentials(None)).replace("Credentials", "").split("user=")[1]
    file = tmp_path / "c.yaml"
    file.write_text("token: abc")
    file.chmod(0o600)
    assert read_credentials(file).token == "abc"
    assert "abc" not in repr(read_credentials(file))


@pytest.mark.parametrize("text", ["- a", "user: u\npasswort: secret", "user: [secret", "secret"])
def test_files_that_hold_no_credentials_are_not_quoted(tmp_path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(SpinelineError, match="wanted YAML") as caught:
        read_credentials(file)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_file_that_all_can_read_is_refused(tmp_path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("user: u\npassword: p\n")
    file.chmod(0o644)
    with pytest.raises(SpinelineError, match="chmod 600"):
        read_credentials(file)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "give only one"),
        ({"study": "1.2", "query": "PatientID=1"}, "give only one"),
        ({"study": "../../x"}, "is no UID"),
        ({"query": "PatientID"}, "wanted KEYWORD=VALUE"),
        ({"query": "PatientID=*"}, "wanted KEYWORD=VALUE"),
        ({"query": "PatientIdd=1"}, "no keyword of DICOM"),
        ({"query": "Modality=MR"}, "ModalitiesInStudy"),
        ({"study": "1.2", "port": 104}, "is of dicom"),
        ({"study": "1.2", "cert": "none.pem"}, "no such file"),
        ({"study": "1.2", "aet": "A\\B"}, "not an AE title"),
    ],
)
def test_keys_of_pull_that_do_not_fit(keys: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PacsPull(url="http://h/x", out="o", **keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"host": "0.0.0.0"}, "allow=AET"),
        ({"allow": "TOO-LONG-A-TITLE-"}, "not an AE title"),
        ({"tls": True}, "needs cert="),
        ({"push": "http://u:p@h/x"}, "push=.*holds a user or password"),
    ],
)
def test_keys_of_listen_that_do_not_fit(keys: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PacsListen(out="o", **keys)


def test_a_password_on_the_command_line_is_refused_and_not_repeated(run_cli, tmp_path) -> None:
    code, said, warned = run_cli("pacs", "push", f"source={tmp_path}", "url=http://u:hush@h/x")
    assert code == 2
    assert "hush" not in said + warned
    assert PacsPush(source=tmp_path, url="http://h/x").credentials is None
