"""``pacs listen`` in this process, with models that need no weights."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from spineline.datasets.common.errors import SpinelineError
from spineline.pipeline.pacs.address import PacsAccess
from spineline.pipeline.pacs.settings import PacsListen

pynetdicom = pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")

from pynetdicom.sop_class import Verification  # noqa: E402

from spineline.pipeline.pacs.dimse import DimseServer  # noqa: E402
from spineline.pipeline.pacs.listen import listen  # noqa: E402
from spineline.pipeline.pacs.servers import connect_to  # noqa: E402


class Running:
    """A listener in a thread."""

    def __init__(self, settings: PacsListen) -> None:
        self.settings, self.stop = settings, threading.Event()
        self.result: Any = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.result = listen(self.settings, stop=self.stop)

    def states(self) -> dict[str, str]:
        folder = self.settings.out / "state"
        found = {}
        for path in sorted(folder.glob("study-*.json")):
            found[path.stem] = json.loads(path.read_text())["stage"]
        return found

    def stages(self) -> list[str]:
        return sorted(self.states().values())


@pytest.fixture
def listening(tmp_path, fake_models, free_port, wait_for) -> Callable[..., Any]:
    @contextlib.contextmanager
    def run(**keys: Any) -> Iterator[Running]:
        keys = {"out": tmp_path / "o", "port": free_port(), "quiet": 0.2, "timeout": 20.0} | keys
        made = Running(PacsListen(**keys))
        wait_for(lambda: _answers(made), "the listener")
        try:
            yield made
        finally:
            made.stop.set()
            made.thread.join(300)
            assert not made.thread.is_alive()

    return run


def _answers(made: Running) -> bool:
    assert made.thread.is_alive()
    line = associated(made, [Verification])
    answers: bool = line.is_established
    if answers:
        line.release()
    return answers


def associated(made: Running, kinds: list, called: str = "SPINELINE", calling: str = "SENDER"):
    entity = pynetdicom.AE(calling)
    for kind in kinds:
        entity.add_requested_context(kind)
    return entity.associate("127.0.0.1", made.settings.port, ae_title=called)


def send(made: Running, *paths: Path, aet: str = "SENDER") -> list[str]:
    """Send files; of each why it was refused, or nothing."""
    url = f"dicom://SPINELINE@127.0.0.1:{made.settings.port}"
    server = connect_to(url, PacsAccess(aet=aet, timeout=20.0))
    assert isinstance(server, DimseServer)
    return [reason for _, reason in server.store(paths)]


@pytest.fixture
def study(tmp_path, make_study) -> Callable[..., list[Path]]:
    def make(name: str, **options: Any) -> list[Path]:
        make_study(tmp_path / "s" / name, **options)
        return sorted((tmp_path / "s" / name).iterdir())

    return make


def test_studies_come_and_results_go(listening, study, peer, wait_for, caplog, tmp_path) -> None:
    caplog.set_level("INFO", "spineline")
    with listening(push=peer.url, allow="SENDER") as made:
        for name in ("a", "b"):
            assert send(made, *study(name)) == ["", "", ""]
        wait_for(lambda: made.stages() == ["pushed"] * 2, "both studies")
    assert len(peer.got) == 6
    assert (made.result.predicted, made.result.pushed, made.result.failures) == (2, 2, ())
    sent = {
        pydicom.dcmread(p).SOPInstanceUID: p.read_bytes() for p in (tmp_path / "s").rglob("im*")
    }
    kept = {pydicom.dcmread(p).SOPInstanceUID: pydicom.dcmread(p)
            for p in (tmp_path / "o" / "incoming").rglob("*.dcm")}  # fmt: skip
    assert sent.keys() == kept.keys()
    for report in (each for each in peer.got if each.Modality == "SR"):
        (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
        (series,) = evidence.ReferencedSeriesSequence
        assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID in sent
    names = [str(path) for path in (tmp_path / "o").rglob("*")]
    said = "\n".join([*names, *(record.getMessage() for record in caplog.records)])
    assert "SECRET" not in said
    assert next(iter(sent)) not in said


def test_who_may_not_send(listening, study, wait_for, caplog) -> None:
    with listening(allow="SENDER") as made:
        assert "Calling AE title not recognised" in send(made, *study("a"), aet="OTHER")[0]
        line = associated(made, [Verification], called="ELSE")
        assert line.is_rejected
        assert not list((made.settings.out / "incoming").iterdir())
        wait_for(lambda: "an association refused" in caplog.text, "the log")
    assert "OTHER" not in caplog.text


@pytest.mark.slow
def test_more_images_are_looked_at_again(listening, study, peer, wait_for) -> None:
    first, second = study("a", slices=2)
    with listening(push=peer.url) as made:
        send(made, first)
        wait_for(lambda: made.stages() == ["pushed"], "the first image")
        before = len(peer.got)
        assert send(made, first) == [""]  # the same once more changes nothing
        send(made, second)
        wait_for(lambda: len(peer.got) == before + 3, "the results of both images")
        wait_for(lambda: made.stages() == ["pushed"], "its state")
    series = {each.SeriesInstanceUID for each in peer.got}
    assert len(series) == 6
    assert made.result.predicted == 2


@pytest.mark.slow
def test_one_that_fails_does_not_stop_the_others(listening, study, wait_for, caplog) -> None:
    def spoil(ds) -> None:
        ds.PixelData = ds.PixelData[:100]

    with listening() as made:
        send(made, *study("bad", change=spoil))
        send(made, *study("good"))
        wait_for(lambda: made.stages() == ["failed", "predicted"], "both")
    ((name, reason),) = made.result.failures
    assert name.startswith("study-")
    assert reason
    with listening() as made:  # it is not tried again,
        assert made.stages() == ["failed", "predicted"]
    assert made.result.predicted == 0
    with listening(retry=True) as made:  # unless that is asked for
        wait_for(lambda: made.stages() == ["failed", "predicted"], "it again")
    assert "1 studies failed earlier" in caplog.text


@pytest.mark.slow
def test_a_server_that_is_away_is_asked_again(
    listening, study, serving, wait_for, monkeypatch
) -> None:
    monkeypatch.setattr("spineline.pipeline.pacs.listen._FIRST_WAIT", 0.1)
    with serving() as peer:
        peer.status = 0xA700
        with listening(push=peer.url) as made:
            send(made, *study("a"))
            wait_for(lambda: made.stages() == ["predicted"], "the results")
            peer.status = 0
            wait_for(lambda: made.stages() == ["pushed"], "the results to be sent")
    assert {each.Modality for each in peer.got} == {"SR", "PR", "OT"}


@pytest.mark.slow
def test_results_of_ours_that_come_back_are_not_looked_at(
    listening, study, peer, wait_for, caplog
) -> None:
    """A PACS may send on to us what we sent to it, for ever."""
    caplog.set_level("INFO", "spineline")
    with listening(push=peer.url) as made:
        send(made, *study("a"))
        wait_for(lambda: made.stages() == ["pushed"], "the study")
        results = sorted((made.settings.out / "results").rglob("*.dcm"))
        assert send(made, *results) == [""] * 3
        assert len(list((made.settings.out / "incoming").rglob("*.dcm"))) == 3
    assert "a result of spineline came back" in caplog.text
    assert made.result.predicted == 1


@pytest.mark.slow
def test_a_listener_that_was_killed_goes_on(listening, study, peer, wait_for, tmp_path) -> None:
    """Each place at which it may be killed, as it is found on the disk afterwards."""
    with listening(quiet=1000.0) as made:
        for name in ("a", "b", "c"):
            send(made, *study(name))
    folder = tmp_path / "o"
    names = sorted(path.name for path in (folder / "incoming").iterdir())
    assert made.stages() == []
    images = {}
    with listening() as made:
        wait_for(lambda: made.stages() == ["predicted"] * 3, "all three")
    for path in (folder / "state").iterdir():
        images[path.stem] = json.loads(path.read_text())["images"]
    # The first was received, the second begun, the third predicted, when it was killed.
    (folder / "state" / f"{names[0]}.json").unlink()
    running = {"stage": "running", "images": images[names[1]], "reason": "", "attempts": 1}
    (folder / "state" / f"{names[1]}.json").write_text(json.dumps(running))
    (folder / "incoming" / names[0] / ".image-1.dcm.1.partial").write_bytes(b"half")
    with listening(push=peer.url) as made:
        wait_for(lambda: made.stages() == ["pushed"] * 3, "all three")
    assert len(peer.got) == 9
    assert not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_a_study_that_ends_the_listener_is_given_up(listening, study, wait_for, tmp_path) -> None:
    with listening(quiet=1000.0) as made:
        send(made, *study("a"))
    (name,) = (path.name for path in (tmp_path / "o" / "incoming").iterdir())
    with listening() as made:
        wait_for(lambda: made.stages() == ["predicted"], "it")
    path = tmp_path / "o" / "state" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stage": "running", "attempts": 3}))
    with listening() as made:
        wait_for(lambda: made.stages() == ["failed"], "it to be given up")
    assert "ended 3 times" in made.result.failures[0][1]


def test_the_bound_of_the_disk(listening, study, wait_for, caplog) -> None:
    paths = study("a", slices=3)
    size = paths[0].stat().st_size
    with listening(max_gb=2.5 * size / 1e9 + 8e-6, quiet=1000.0) as made:
        answers = send(made, *paths)
        assert answers[0] == ""
        assert "A700H, the server has no room left" in answers[2]
        kept = list((made.settings.out / "incoming").rglob("*"))
        assert not [path for path in kept if path.suffix == ".partial"]
        for path in (made.settings.out / "incoming").rglob("*.dcm"):
            path.unlink()  # as somebody would, who makes room
        assert send(made, paths[2]) == [""]
    assert "max_gb=" in caplog.text


def test_a_disk_that_is_full(listening, study, monkeypatch) -> None:
    with listening(quiet=1000.0) as made:
        with monkeypatch.context() as patched:
            usage = type("usage", (), {"free": 1000})
            patched.setattr("spineline.pipeline.pacs.inbox.shutil.disk_usage", lambda _: usage)
            assert "A700H" in send(made, *study("a"))[0]
        with monkeypatch.context() as patched:

            def full(*_: object) -> None:
                raise SpinelineError("x: cannot be written (No space left on device)")

            patched.setattr("spineline.pipeline.pacs.received.write_bytes", full)
            assert "A700H" in send(made, *study("a"))[0]
        assert send(made, *study("a")) == [""] * 3


def test_the_bound_of_memory(listening, tmp_path, make_slice, caplog) -> None:
    def large(ds) -> None:
        ds.NumberOfFrames = 1
        ds.PixelData = bytes(3 << 20)

    import numpy as np

    make_slice(tmp_path / "big", np.zeros((8, 8)), study="big", change=large)
    make_slice(tmp_path / "small", np.zeros((8, 8)), study="big", number=2)
    with listening(max_memory=1, quiet=1000.0) as made:
        (reason,) = send(made, tmp_path / "big")
        assert reason
        assert send(made, tmp_path / "small") == [""]
        assert len(list((made.settings.out / "incoming").rglob("*.dcm"))) == 1
    assert "max_memory=" in caplog.text


def test_compressed_images_stay_as_they_are(listening, tmp_path, make_slice, make_spots) -> None:
    def compress(ds) -> None:
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
        ds["PixelData"].is_undefined_length = True

    make_slice(tmp_path / "j2k", make_spots(), study="s", change=compress)
    with listening(quiet=1000.0) as made:
        assert send(made, tmp_path / "j2k") == [""]
    (kept,) = (made.settings.out / "incoming").rglob("*.dcm")
    assert pydicom.dcmread(kept).file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(tmp_path / "j2k").PixelData


@pytest.mark.parametrize("uid", ["../../../evil", "/etc/evil", "..", "1.2/../../evil", "a\\b"])
def test_uids_of_a_sender_are_never_paths(listening, tmp_path, make_slice, make_spots, uid) -> None:
    def spoil(ds) -> None:
        ds.StudyInstanceUID = ds.SeriesInstanceUID = uid

    with pydicom.config.disable_value_validation():
        make_slice(tmp_path / "im", make_spots(), study="s", change=spoil)
    before = set(tmp_path.rglob("*"))
    with listening(quiet=1000.0) as made:
        send(made, tmp_path / "im")
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "o") for path in new)
    assert not [path for path in new if "evil" in path.name]


def test_an_object_without_a_study(listening, tmp_path, make_slice, make_spots, caplog) -> None:
    make_slice(
        tmp_path / "im", make_spots(), study="s", change=lambda ds: delattr(ds, "StudyInstanceUID")
    )
    with listening(quiet=1000.0) as made:
        assert "C000H" in send(made, tmp_path / "im")[0]
    assert "without the UID of its study" in caplog.text


def test_a_port_that_is_taken_and_a_folder_that_is(listening, tmp_path, fake_models) -> None:
    with listening() as made:
        other = PacsListen(out=tmp_path / "p", port=made.settings.port)
        with pytest.raises(SpinelineError, match="cannot listen at"):
            listen(other)
        with pytest.raises(SpinelineError, match="another process is listening"):
            listen(PacsListen(out=tmp_path / "o", port=1))
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "mine").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(SpinelineError, match="choose another out="):
            listen(PacsListen(out=tmp_path / "q", overwrite=overwrite))
    assert (tmp_path / "q" / "mine").exists()
