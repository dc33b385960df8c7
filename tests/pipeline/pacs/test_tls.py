"""TLS both ways: our certificate shown, the other's checked."""

from __future__ import annotations

import http.server
import re
import shutil
import ssl
import subprocess
import threading
from pathlib import Path

import pydicom
import pytest

from spineline.datasets.common.errors import ConfigError
from spineline.pipeline.pacs.address import PacsAccess, check_tls_files, tls_context
from spineline.pipeline.pacs.settings import PacsPull

pytest.importorskip("pynetdicom")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here, which makes the certificate")
    folder = tmp_path_factory.mktemp("pem")
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out",
        str(cert), "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
    ]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)
    return cert, key


@pytest.mark.slow
def test_dimse(pem, serving, make_study, run_cli, tmp_path) -> None:
    cert, key = pem
    make_study(tmp_path / "s")
    context = tls_context(PacsAccess(ca=cert, cert=cert, key=key), server=True)
    with serving(ssl_context=context) as peer:
        peer.has = [pydicom.dcmread(path) for path in sorted((tmp_path / "s").iterdir())]
        url = f"url=dicoms://PEER@127.0.0.1:{peer.port}"
        keys = ("query=PatientID=SECRET-ID", url, "timeout=5")
        ours = (f"cert={cert}", f"key={key}")
        code, _, warned = run_cli("pacs", "pull", *keys, *ours, f"out={tmp_path / 'a'}")
        assert code == 1
        assert "no TLS with it ([SSL: CERTIFICATE_VERIFY_FAILED]" in warned
        code, _, warned = run_cli("pacs", "pull", *keys, f"ca={cert}", f"out={tmp_path / 'b'}")
        assert code == 1
        assert "127.0.0.1" in warned
        keys = (*keys, *ours, f"ca={cert}", f"out={tmp_path / 'c'}")
        assert run_cli("pacs", "pull", *keys)[0] == 0
    assert len(list((tmp_path / "c").glob("*/*.dcm"))) == 3


def test_dicomweb(pem, run_cli, tmp_path) -> None:
    pytest.importorskip("dicomweb_client")
    cert, key = pem

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cert)
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        keys = (f"url=https://127.0.0.1:{server.server_port}/x", f"out={tmp_path / 'o'}")
        keys = (*keys, "query=PatientID=1", "timeout=5")
        ours = (f"cert={cert}", f"key={key}")
        _, _, warned = run_cli("pacs", "pull", *keys, *ours)
        assert "no TLS with it" in warned
        _, _, warned = run_cli("pacs", "pull", *keys, *ours, f"ca={cert}")
        assert "no study of the server matches" in warned
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_files_that_are_no_pem_are_refused_at_the_start(pem, tmp_path, name: str) -> None:
    bad = tmp_path / "x.pem"
    bad.write_text("x")
    files = {"cert": pem[0], "key": pem[1], name: bad}
    with pytest.raises(ConfigError, match=rf"^{name}={re.escape(str(bad))}: "):
        PacsPull(url="dicom://HER@127.0.0.1:104", study="1.2", out=tmp_path / "o", **files)
    with pytest.raises(ConfigError, match=rf"^{name}="):
        tls_context(PacsAccess(**files), server=True)


def test_a_key_of_another_certificate_is_refused(pem, tmp_path) -> None:
    other = tmp_path / "other.pem"
    words = ["openssl", "genrsa", "-out", str(other), "2048"]
    subprocess.run(words, check=True, capture_output=True)
    with pytest.raises(ConfigError, match=r"^key=.*other\.pem: .*of cert="):
        check_tls_files(None, pem[0], other)
