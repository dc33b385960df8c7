"""manifest.jsonl: lines, the torn last one, damage, and the lock."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spineline.datasets.common.errors import OutputExistsError, SpinelineError
from spineline.pipeline.run.manifest import ManifestEntry, Stamp, is_manifest, open_manifest

DONE = ManifestEntry("a", "done", "", "w" * 64, "s" * 12, "1.0", 0.25, input="i" * 16)
FAILED = replace(DONE, study="b", status="failed", reason="no 'T2' √", kind="reading")


def filled(path: Path) -> bytes:
    with open_manifest(path) as manifest:
        manifest.add(DONE)
        manifest.add(FAILED)
    return path.read_bytes()


def test_lines_are_json_with_the_keys_that_are_promised(tmp_path) -> None:
    first, second = filled(tmp_path / "m.jsonl").decode().splitlines()
    assert list(json.loads(first))[:7] == [
        "study", "status", "reason", "weights", "settings", "version", "seconds",
    ]  # fmt: skip
    assert json.loads(second)["reason"] == "no 'T2' √"
    with open_manifest(tmp_path / "m.jsonl") as manifest:
        assert manifest.entries == {"a": DONE, "b": FAILED}
    assert DONE.stamp == Stamp("w" * 64, "s" * 12, "1.0")
    assert DONE.failure is None
    assert str(FAILED.failure) == "b: no 'T2' √"


def test_the_last_line_of_a_study_counts(tmp_path) -> None:
    filled(tmp_path / "m.jsonl")
    with open_manifest(tmp_path / "m.jsonl") as manifest:
        manifest.add(replace(FAILED, status="done", kind=None, reason=""))
    with open_manifest(tmp_path / "m.jsonl") as manifest:
        assert manifest.entries["b"].status == "done"
        assert list(manifest.entries) == ["a", "b"]


def test_a_last_line_that_was_cut_anywhere(tmp_path) -> None:
    """Of each cut, whole lines count, and the next line begins a line of its own."""
    whole = filled(tmp_path / "m.jsonl")
    first_ends = whole.index(b"\n") + 1
    ends = (first_ends - 1, first_ends, first_ends + 1, len(whole) - 1)
    for cut in (*range(0, len(whole), 13), *ends):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:cut])
        assert is_manifest(path)
        with open_manifest(path) as manifest:
            names = list(manifest.entries)
            manifest.add(replace(DONE, study="c"))
        kept = ["a"] if cut >= first_ends - 1 else []
        kept += ["b"] if cut == len(whole) - 1 else []
        assert names == kept
        lines = path.read_bytes().splitlines()
        assert [json.loads(line)["study"] for line in lines] == [*kept, "c"]


def test_a_damaged_line_does_not_count(tmp_path, caplog) -> None:
    whole = filled(tmp_path / "m.jsonl")
    odd, huge = DONE.line().replace(b"done", b"odd"), DONE.line().replace(b"0.25", b"9" * 400)
    (tmp_path / "m.jsonl").write_bytes(whole + b"\0\0\0\n" + odd + huge)
    with open_manifest(tmp_path / "m.jsonl") as manifest:
        assert list(manifest.entries) == ["a", "b"]
    assert "line 3 is damaged" in caplog.text
    assert "line 4 is damaged" in caplog.text
    assert "line 5 is damaged" in caplog.text


@pytest.mark.parametrize(
    "content",
    [b'{"file": "a.png"}\n', b"[]\n", b'{"file"', b"text", b"\n", b"\xff\xfe\n"],
    ids=["other keys", "a list", "cut short", "text", "an empty line", "no text"],
)
def test_another_file_of_that_name_is_left_alone(tmp_path, content: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    assert not is_manifest(path)
    with pytest.raises(OutputExistsError, match="not a manifest of a run"), open_manifest(path):
        pass
    assert path.read_bytes() == content


def test_one_without_a_line_is_removed(tmp_path) -> None:
    with open_manifest(tmp_path / "m.jsonl"):
        assert (tmp_path / "m.jsonl").exists()
    assert not (tmp_path / "m.jsonl").exists()


def test_it_is_held_by_one_at_a_time(tmp_path) -> None:
    path = tmp_path / "m.jsonl"
    with open_manifest(path):
        with pytest.raises(SpinelineError, match="another process is running there"):
            open_manifest(path).__enter__()
        assert path.exists()  # the second, refused, does not take it away
    filled(path)


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    with (
        pytest.raises(SpinelineError, match="choose another out="),
        open_manifest(tmp_path / "none" / "m.jsonl"),
    ):
        pass


def test_a_full_disk(tmp_path, monkeypatch) -> None:
    with open_manifest(tmp_path / "m.jsonl") as manifest:
        manifest.add(DONE)
        monkeypatch.setattr("spineline.pipeline.run.manifest.os.write", lambda handle, line: 3)
        with pytest.raises(SpinelineError, match=r"the disk is full.*make room and run again"):
            manifest.add(FAILED)
        assert "b" not in manifest.entries
