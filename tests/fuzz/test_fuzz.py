"""The fuzzer: no mutant crashes, hangs, floods, escapes or gets a wrong answer; and it can tell."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import fuzz_workers
import numpy as np
import pytest
from fuzz_mutators import (
    dicom_elements,
    spoil_bytes,
    spoil_dicom,
    spoil_json,
    spoil_png,
    spoil_safetensors,
)
from fuzz_targets import BY_NAME, TARGETS, InsaneError, Target, sane
from fuzz_workers import GOOD, Verdict, Watch, fuzz, judged

LIGHT = [target.name for target in TARGETS if not target.networks]
HEAVY = [target.name for target in TARGETS if target.networks]


def told(verdicts: list[Verdict]) -> str:
    bad = [v for v in verdicts if v.bad]
    return "\n".join(f"{v.target} {v.number} (seed {v.seed}) {v.verdict}: {v.text}" for v in bad)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hundreds_of_mutants(base: Path, tmp_path: Path) -> None:
    verdicts = fuzz(LIGHT, mutants=150, seed=1, base=base, folder=tmp_path)
    assert told(verdicts) == ""
    assert Counter(v.target for v in verdicts) == dict.fromkeys(LIGHT, 150)
    assert {"refused", "warned"} <= {v.verdict for v in verdicts} <= set(GOOD)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", HEAVY)
def test_mutants_that_need_networks(base: Path, tmp_path: Path, name: str) -> None:
    assert told(fuzz([name], mutants=60, seed=1, base=base, folder=tmp_path)) == ""


# ---- the fuzzer itself


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda r: spoil_bytes(b"abc" * 400, r), id="bytes"),
        pytest.param(lambda r: spoil_json([{"a": [1, "b"], "c": None}], r), id="json"),
        pytest.param(lambda r: spoil_png(b"\x89PNG\r\n\x1a\n" + bytes(60), r), id="png"),
    ],
)
def test_same_generator_same_mutant(spoil) -> None:
    found = [[spoil(np.random.default_rng([7, n])) for n in range(60)] for _ in range(2)]
    assert found[0] == found[1]
    assert len(set(found[0])) > 25


def test_dicom_elements_are_found_and_spoilt(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2"
    ds.Modality, ds.Rows, ds.PixelData = "MR", 4, bytes(32)
    ds["PixelData"].VR = "OW"
    ds.save_as(tmp_path / "a", enforce_file_format=True)
    data = (tmp_path / "a").read_bytes()
    elements = dicom_elements(data)
    tags = [tag for tag, *_ in elements]
    assert [tag for tag in tags if tag >> 16 != 2] == [0x00080060, 0x00280010, 0x7FE00010]
    (value,) = (place for tag, _, _, _, place in elements if tag == 0x00280010)
    assert data[value : value + 2] == b"\x04\x00"
    mutants = {spoil_dicom(data, np.random.default_rng(n)) for n in range(40)}
    assert len(mutants) > 30


def test_a_spoilt_description_of_weights_is_still_framed() -> None:
    header = {"__metadata__": {"spineline": json.dumps({"task": "name"})}}
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text
    framed = 0
    for n in range(80):
        spoilt = spoil_safetensors(data, np.random.default_rng(n))
        framed += int.from_bytes(spoilt[:8], "little") == len(spoilt) - 8
    assert framed > 30


def test_insane_answers_are_told() -> None:
    sane(True, "fine")
    with pytest.raises(InsaneError, match="a level twice"):
        sane([], "a level twice")


class _Raises:
    def __init__(self, error: BaseException | None, warnings: tuple[str, ...] = ()) -> None:
        self.error, self.warnings = error, warnings

    def run(self, data: Path, out: Path) -> tuple[str, ...]:
        if self.error is not None:
            raise self.error
        return self.warnings


def test_verdicts(tmp_path: Path) -> None:
    from spineline.datasets.common.errors import AnnotationError

    wanted = {
        "refused": _Raises(AnnotationError("a.json: broken")),
        "crashed": _Raises(KeyError("x")),
        "memory": _Raises(MemoryError()),
        "insane": _Raises(InsaneError("twice")),
        "answered": _Raises(None),
        "warned": _Raises(None, ("odd",)),
    }
    assert {name: judged(t, tmp_path, tmp_path)[0] for name, t in wanted.items()} == {
        name: name for name in wanted
    }
    assert judged(_Raises(AnnotationError("")), tmp_path, tmp_path)[0] == "insane"
    assert judged(_Raises(AnnotationError("x" * 30_000)), tmp_path, tmp_path)[0] == "insane"


def _write_beside(data: Path, out: Path) -> tuple[str, ...]:
    (out.parent / "beside").write_text("x")
    return ()


@pytest.mark.slow
def test_crash_hang_and_memory_are_told_apart(base: Path, tmp_path: Path, monkeypatch) -> None:
    runs = {
        "crashed": lambda data, out: {}["x"],
        "hung": lambda data, out: (data / "spoilt").exists() and time.sleep(1000),
        "memory": lambda data, out: [bytes(4 << 30)],
        "died": lambda data, out: (data / "spoilt").exists() and os.kill(os.getpid(), 9),
        "escaped": _write_beside,
        "answered": lambda data, out: (),
    }
    for name, run in runs.items():
        target = Target(name, "", lambda data, rng: (data / "spoilt").touch(), run, "text")
        monkeypatch.setitem(BY_NAME, name, target)
    monkeypatch.setattr(fuzz_workers, "TIME_LIMIT_S", 5.0)
    verdicts = fuzz(list(runs), mutants=1, seed=0, base=base, folder=tmp_path, workers=1)
    assert {v.target: v.verdict for v in verdicts} == {name: name for name in runs}


def test_the_watch_sees_what_is_written_elsewhere(tmp_path: Path) -> None:
    watch = Watch()
    watch.inside, watch.on = f"{tmp_path}/out/", True
    watch("open", (str(tmp_path / "out" / "a"), "w", 0))
    watch("open", (str(tmp_path / "b"), "r", 0))
    watch("os.mkdir", (str(tmp_path / "out"), 0o777, -1))
    assert watch.outside == []
    watch("open", (str(tmp_path / "out" / ".." / "b"), "w", 0))
    watch("os.rename", (str(tmp_path / "out" / "a"), str(tmp_path / "c"), -1, -1))
    watch("os.system", (b"true",))
    assert [Path(place).name for place in watch.outside[:2]] == ["b", "c"]
    assert watch.outside[2].startswith("os.system")
