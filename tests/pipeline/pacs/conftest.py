"""Peers to talk to: one that speaks DIMSE, in this process; a small DICOMweb; a real Orthanc."""

from __future__ import annotations

import base64
import contextlib
import http.server
import importlib.util
import json
import re
import shutil
import socket
import socketserver
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


_GIVEN: set[int] = set()  # the system may name a port again once its socket is closed


def _free_port() -> int:
    """A port of the loopback interface that is free, and was not given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port


@pytest.fixture
def free_port() -> Callable[[], int]:
    return _free_port


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"SPINELINE_PACS_{name}", raising=False)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server sees within 0.1 s that it shall end; a request is tried again at once."""
    monkeypatch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.1,))
    if importlib.util.find_spec("dicomweb_client") is not None:
        monkeypatch.setattr("spineline.pipeline.pacs.web._WAIT_MS", 1)


def _wait_for(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """Wait; the time is that of a hang, no test depends on how long it takes."""
    for _ in range(int(seconds / 0.05)):
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"waited in vain: {what}")


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    return _wait_for


@dataclass
class Peer:
    """A PACS that speaks DIMSE: what it has, and what it was sent."""

    port: int
    has: list[Dataset] = field(default_factory=list)
    got: list[Dataset] = field(default_factory=list)
    status: int = 0x0000
    leaves_out: set[str] = field(default_factory=set)
    ends_after: int | None = None

    @property
    def url(self) -> str:
        return f"dicom://PEER@127.0.0.1:{self.port}"

    def matching(self, query: Dataset) -> list[Dataset]:
        def fits(each: Dataset) -> bool:
            for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                wanted = query.get(name)
                wanted = [wanted] if isinstance(wanted, str) else list(wanted or ())
                if any(wanted) and str(each[name].value) not in wanted:
                    return False
            return True

        return [each for each in self.has if fits(each)]

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        rows = {
            tuple(str(each[name].value) for name in query.dir() if name in each)
            for each in self.matching(query)
        }
        names = [name for name in query.dir() if name not in ("QueryRetrieveLevel",)]
        for row in sorted(rows):
            found = Dataset()
            for name, value in zip(names, row, strict=True):
                setattr(found, name, value)
            yield 0xFF00, found

    def get(self, event: Any) -> Iterator[Any]:
        found = [e for e in self.matching(event.identifier) if e.SOPInstanceUID not in
                 self.leaves_out]  # fmt: skip
        yield len(found)
        for number, each in enumerate(found):
            if self.ends_after is not None and number >= self.ends_after:
                event.assoc.abort()
                return
            yield 0xFF00, each

    def store(self, event: Any) -> int:
        if self.status == 0:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.got.append(dataset)
        return self.status


@pytest.fixture
def peer() -> Iterator[Peer]:
    with _serving() as made:
        yield made


@contextlib.contextmanager
def _serving(**keys: Any) -> Iterator[Peer]:
    pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")
    from pynetdicom import AE, evt, sop_class

    from spineline.pipeline.pacs.dimse import storage_contexts

    entity = AE("PEER")
    entity.require_called_aet = True
    entity.supported_contexts = storage_contexts()
    for context in entity.supported_contexts:
        context.scp_role = context.scu_role = True
    for name in ("Find", "Get", "Move"):
        entity.add_supported_context(
            getattr(sop_class, f"StudyRootQueryRetrieveInformationModel{name}")
        )
    made = Peer(_free_port())
    handlers = [
        (evt.EVT_C_FIND, made.find),
        (evt.EVT_C_GET, made.get),
        (evt.EVT_C_STORE, made.store),
    ]
    server = entity.start_server(
        ("127.0.0.1", made.port), block=False, evt_handlers=handlers, **keys
    )
    try:
        yield made
    finally:
        server.shutdown()
    assert pynetdicom


@pytest.fixture
def serving() -> Callable[..., contextlib.AbstractContextManager[Peer]]:
    """Start a peer, such as one that speaks TLS."""
    return _serving


@dataclass
class Web:
    """A DICOMweb service as small as can be."""

    port: int = 0
    files: list[bytes] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    authorization: str = ""
    answers: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    uids: Callable[[Dataset], tuple[str, str, str]] | None = None
    failure: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def rows(self, path: str) -> list[dict[str, Any]]:
        found = []
        for data in self.files:
            dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
            uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
            asked = re.search(r"/studies/([^/]+)/", path)
            uids = uids if self.uids is None else self.uids(dataset)
            if self.uids is None and asked and asked[1] != uids[0]:
                continue
            tags = ("0020000D", "0020000E", "00080018")
            found.append({tag: {"vr": "UI", "Value": [uid]} for tag, uid in zip(tags, uids)})  # noqa: B905
        return found

    def wado(self, path: str) -> bytes:
        uids = re.findall(r"/(?:series|instances)/([^/?]+)", path)
        found = []
        for data in self.files:
            dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data), stop_before_pixels=True)
            if set(uids) <= {dataset.SeriesInstanceUID, dataset.SOPInstanceUID}:
                found.append(data)
        parts = [b"--x\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n"
                 for data in found]  # fmt: skip
        return b"".join(parts) + b"--x--\r\n"


@pytest.fixture
def web() -> Iterator[Web]:  # noqa: C901 (the server's methods)
    pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed")
    made = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refused(self) -> bool:
            made.asked.append(self.path)
            if made.authorization and self.headers["Authorization"] != made.authorization:
                self.answer(401, "text/plain", b"")
                return True
            for part, answer in made.answers.items():
                if part in self.path:
                    self.answer(*answer)
                    return True
            return False

        def do_GET(self) -> None:
            if self.refused():
                return
            path, _, _ = self.path.partition("?")
            if path.endswith(("/studies", "/instances")):
                # Like some servers, it knows no offset, and gives the first page again and again.
                self.answer(200, "application/dicom+json", json.dumps(made.rows(path)).encode())
            else:
                kind = 'multipart/related; type="application/dicom"; boundary=x'
                self.answer(200, kind, made.wado(path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.headers["Transfer-Encoding"] == "chunked":  # bodies above a megabyte
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            if self.refused():
                return
            failed = {"00081198": {"vr": "SQ", "Value": [
                {"00081197": {"vr": "US", "Value": [made.failure]}}]}}  # fmt: skip
            if not made.failure:
                made.got.append(body)
            answer = json.dumps(failed if made.failure else {}).encode()
            self.answer(200, "application/dicom+json", answer)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()


@dataclass
class Orthanc:
    """A real Orthanc, empty at first."""

    http: int
    dicom: int
    mover: int

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"

    @property
    def dimse(self) -> str:
        return f"dicom://ORTHANC@127.0.0.1:{self.dicom}"

    def ask(self, path: str, data: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}/{path}", data)
        word = base64.b64encode(b"reader:secret").decode()
        request.add_header("Authorization", f"Basic {word}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def add(self, folder: Path) -> None:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            with contextlib.suppress(urllib.error.HTTPError):  # such as a file that is no DICOM
                self.ask("instances", path.read_bytes())

    def instances(self) -> dict[str, dict[str, Any]]:
        """Headers of all that it has, by UID."""
        found = (self.ask(f"instances/{each}/simplified-tags") for each in self.ask("instances"))
        return {each["SOPInstanceUID"]: each for each in found}


@pytest.fixture
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not ORTHANC_PLUGIN.is_file():
        pytest.skip("no Orthanc here: apt-get install orthanc orthanc-dicomweb")
    for name in ("pynetdicom", "dicomweb_client"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    folder = tmp_path_factory.mktemp("orthanc")
    made = Orthanc(_free_port(), _free_port(), _free_port())
    (folder / "orthanc.json").write_text(json.dumps({
        "Name": "test",
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "HttpPort": made.http, "DicomPort": made.dicom, "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
        "RegisteredUsers": {"reader": "secret"}, "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True, "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True,
        "Plugins": [str(ORTHANC_PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomModalities": {"us": ["SPINELINE", "127.0.0.1", made.mover]},
        "OverwriteInstances": False, "LimitFindResults": 0,
    }))  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], cwd=folder, stdout=log, stderr=log
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                return bool(made.ask("system"))
            except OSError:
                return False

        _wait_for(answers, "Orthanc to start")
        yield made
    finally:
        process.terminate()
        process.wait(60)
