"""The three commands against a real Orthanc: there, back, and with the listener killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom

pytest.importorskip("highdicom")


@pytest.fixture
def credentials(monkeypatch) -> None:
    monkeypatch.setenv("SPINELINE_PACS_USER", "reader")
    monkeypatch.setenv("SPINELINE_PACS_PASSWORD", "secret")


def references_of(headers: dict) -> set[str]:
    """All UIDs that objects refer to, wherever they do."""
    found: set[str] = set()

    def look(value: object) -> None:
        if isinstance(value, dict):
            if "ReferencedSOPInstanceUID" in value:
                found.add(value["ReferencedSOPInstanceUID"])
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(list(headers.values()))
    return found


def test_there_and_back(
    orthanc, credentials, tmp_path, make_study, fake_models, predict, run_cli, monkeypatch
) -> None:
    for name in ("a", "b"):
        make_study(tmp_path / "s" / name)
    orthanc.add(tmp_path / "s")
    assert len(orthanc.instances()) == 6
    query = "query=PatientID=SECRET-*"
    ways = {
        "web": (f"url={orthanc.web}",),
        "modalities": (f"url={orthanc.web}", "query=ModalitiesInStudy=MR"),
        "get": (f"url={orthanc.dimse}",),
        "move": (f"url={orthanc.dimse}", f"port={orthanc.mover}"),
    }
    sent = sorted(path.read_bytes() for path in (tmp_path / "s").rglob("im*"))
    for way, keys in ways.items():
        asked = keys if any("query" in key for key in keys) else (*keys, query)
        code, said, warned = run_cli("pacs", "pull", *asked, f"out={tmp_path / way}")
        assert code == 0, (way, said, warned)
        found = sorted((tmp_path / way).glob("*/*.dcm"))
        assert len(found) == 6
        if "web" in keys[0][-9:]:
            assert sorted(path.read_bytes() for path in found) == sent
        pixels = {pydicom.dcmread(p).SOPInstanceUID: pydicom.dcmread(p).PixelData for p in found}
        assert sorted(pixels.values()) == sorted(
            pydicom.dcmread(p).PixelData for p in (tmp_path / "s").rglob("im*")
        )
    code, _, _ = predict(tmp_path / "web", "to=sr,pr,sc", out=tmp_path / "run")
    assert code == 0
    source = f"source={tmp_path / 'run'}"
    for url in (orthanc.web, orthanc.web, orthanc.dimse):  # again and again does no harm
        code, said, warned = run_cli("pacs", "push", source, f"url={url}")
        assert code == 0, warned
        assert "6 of 6 objects sent" in said
    there = orthanc.instances()
    assert len(there) == 12
    made = {uid: each for uid, each in there.items() if each.get("Modality") != "MR"}
    assert len(references_of(made)) == 2
    assert references_of(made) <= there.keys()
    assert len({each["StudyInstanceUID"] for each in there.values()}) == 2
    monkeypatch.setenv("SPINELINE_PACS_PASSWORD", "wrong")
    code, _, warned = run_cli("pacs", "push", source, f"url={orthanc.web}")
    assert code == 1
    assert "answered 401" in warned


LISTEN = "import sys; from spineline.pipeline.cli.main import main; sys.exit(main(sys.argv[1:]))"


def start(orthanc, out: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    words = [
        "pacs", "listen", f"out={out}", f"port={port}", "quiet=1", f"push={orthanc.web}",
        "allow=SENDER",
    ]  # fmt: skip
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", LISTEN, *words], stdout=file, stderr=file
        )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_twenty_studies_and_a_kill_on_the_way(  # noqa: C901 (a whole day of a listener)
    orthanc, credentials, tmp_path, free_port, wait_for
) -> None:
    """Twenty phantoms in, twenty results back; the listener is killed among them."""
    from pynetdicom import AE, build_context
    from pynetdicom.sop_class import MRImageStorage, Verification

    drawn = DataPhantom(out=tmp_path / "ph", n=20, format=("dicom",), size=192, slices=3)
    phantom(drawn)
    orthanc.add(tmp_path / "ph" / "studies")
    port, log, out = free_port(), tmp_path / "log", tmp_path / "o"
    entity = AE("SENDER")
    contexts = [build_context(MRImageStorage), build_context(Verification)]

    def line():
        found = entity.associate("127.0.0.1", port, contexts=contexts, ae_title="SPINELINE")
        return found if found.is_established else None

    def send(paths: list[Path]) -> None:
        """As a PACS does: what was not answered is sent again."""
        left = list(paths)
        while left:
            connection = wait_for(line, "the listener")
            try:
                while left:
                    answer = connection.send_c_store(pydicom.dcmread(left[0]))
                    if answer.get("Status") != 0:
                        break
                    left.pop(0)
            except RuntimeError:
                continue
            if connection.is_established:
                connection.release()

    studies = [sorted(path.glob("*.dcm")) for path in sorted((tmp_path / "ph/studies").iterdir())]
    process = start(orthanc, out, port, log)
    try:
        for study in studies[:10]:
            send(study)
        wait_for(lambda: len(list(out.glob("results/*/*/result.json"))) >= 2, "some results", 900)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(orthanc, out, port, log)
        for study in studies[10:]:
            send(study)

        def pushed() -> bool:
            assert process.poll() is None, log.read_text()
            texts = [path.read_text() for path in (out / "state").glob("study-*.json")]
            return sum('"stage": "pushed"' in text for text in texts) == 20

        wait_for(pushed, "all results", 1800)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    there = orthanc.instances()
    reports = [each for each in there.values() if each.get("Modality") == "SR"]
    assert len({each["StudyInstanceUID"] for each in reports}) == 20
    assert len(reports) == 20
    made = {uid: each for uid, each in there.items() if each.get("Modality") != "MR"}
    assert len(made) == 60
    assert references_of(made) <= there.keys()
    said = log.read_text()
    assert "PHANTOM" not in said
    assert not [uid for uid in there if uid in said]
