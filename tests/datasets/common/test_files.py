from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from spineline.datasets.common.errors import OutputExistsError, SpinelineError
from spineline.datasets.common.files import (
    check_output,
    clear_unfinished,
    discard_folder,
    link_file,
    plain_name,
    read_json,
    staged_folder,
    write_bytes,
    write_json,
    write_lines,
    write_text,
    write_through,
)
from spineline.datasets.types import is_image_id


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("letter", ["a", "ü", "脊", "𠀀"])
def test_the_longest_plain_name_can_be_a_folder_that_appears_whole(tmp_path, letter):
    name = plain_name(letter * 250, "study")
    assert set(name) == {letter}
    assert is_image_id(f"{name}-01234567_study")
    with staged_folder(tmp_path / f"{name}-01234567", overwrite=False):
        pass
    assert names(tmp_path) == [f"{name}-01234567"]


def test_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SpinelineError, match=r"a\.txt: cannot be written \(No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_the_umask_is_not_touched(tmp_path, monkeypatch):
    """Files that another thread makes at that moment would be open to all."""
    wanted = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)
        write_text(tmp_path / "a.txt", "a")
        with staged_folder(tmp_path / "out", overwrite=False) as stage:
            (stage / "b").touch()
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    finally:
        monkeypatch.undo()
        os.umask(wanted)


def test_file_mode_follows_the_umask(tmp_path):
    write_text(tmp_path / "a", "")
    plain = tmp_path / "b"
    plain.touch()
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


def test_staged_folder_appears_at_the_end(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged_folder(out, overwrite=False) as stage:
        (stage / "a").write_text("1")
        assert not out.exists()
    assert names(out) == ["a"]
    assert names(out.parent) == ["out"]


def _fill_and_fail(out, overwrite: bool) -> None:
    with staged_folder(out, overwrite=overwrite) as stage:
        (stage / "a").touch()
        raise RuntimeError("stop")


@pytest.mark.parametrize("overwrite", [False, True])
def test_staged_folder_vanishes_on_failure(tmp_path, overwrite):
    out = tmp_path / "out"
    if overwrite:
        out.mkdir()
        (out / "old").touch()
    with pytest.raises(RuntimeError, match="stop"):
        _fill_and_fail(out, overwrite)
    assert names(tmp_path) == (["out"] if overwrite else [])
    assert not overwrite or names(out) == ["old"]


def test_overwrite_replaces_everything(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with (
        pytest.raises(OutputExistsError, match="overwrite=true"),
        staged_folder(out, overwrite=False),
    ):
        pass
    with staged_folder(out, overwrite=True) as stage:
        (stage / "new").touch()
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (".", "the current folder"),
        ("..", "the current folder"),
        ("../me", "your home folder"),
        ("../code", "a Git repository"),
    ],
)
def test_folders_that_no_run_made_are_never_replaced(tmp_path, monkeypatch, out, found):
    for name in ("here", "me", "code/.git"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "here/file").touch()
    (tmp_path / "me/file").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    with pytest.raises(OutputExistsError, match=f"holds {found}, so it is not replaced"):
        check_output(Path(out), overwrite=True)


def test_empty_folder_counts_as_absent(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    check_output(out, overwrite=False)
    with staged_folder(out, overwrite=False) as made:
        (made / "a.txt").write_text("new")
    assert (out / "a.txt").read_text() == "new"
    with pytest.raises(OutputExistsError, match="exists already"):
        check_output(out, overwrite=False)


def test_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SpinelineError, match="is not a folder"):
        check_output(tmp_path / "file" / "out", overwrite=False)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SpinelineError, match="not writable"):
        check_output(tmp_path / "out", overwrite=False)


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    out = tmp_path / "notes.txt"
    out.write_text("mine")
    with (
        pytest.raises(OutputExistsError, match=r"notes\.txt: is a file, and out= names a folder"),
        staged_folder(out, overwrite=True),
    ):
        pass
    assert out.read_text() == "mine"
    assert names(tmp_path) == ["notes.txt"]


def test_half_characters_become_json_escapes(tmp_path):
    write_json(tmp_path / "a.json", {"id": "\ud800bad Диск"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"id": "\ud800bad Диск"}


def test_a_second_name_is_the_same_file_until_one_is_replaced(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write_bytes(first, b"one")
    for _ in range(2):  # the second time both are one file already
        link_file(first, second)
        assert second.read_bytes() == b"one"
        assert first.stat().st_ino == second.stat().st_ino
    write_bytes(first, b"two")
    assert second.read_bytes() == b"one"
    link_file(first, second)
    assert second.read_bytes() == b"two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_second_name_where_the_disk_has_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr("os.link", refuse)
    first, second = tmp_path / "a", tmp_path / "b"
    write_bytes(first, b"one")
    link_file(first, second)
    assert second.read_bytes() == b"one"
    assert first.stat().st_ino != second.stat().st_ino


def test_a_function_that_fails_while_writing_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"one")

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_through(path, fail)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a mark"])
def test_json_is_read(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "a.json").write_bytes(mark + b'{"a": [1, "\xc3\xbc"]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, "ü"]}


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe{", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "cut", "no text", "deep", "long"],
)
def test_what_is_no_json_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=r".") as caught:
        read_json(tmp_path / "a.json")
    assert len(str(caught.value)) < 300
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


def test_lines_are_written_as_a_text_of_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "a", (line for line in ("one", "\ud800 two", "")))
    write_text(tmp_path / "b", "one\n\ud800 two\n\n")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_folder_is_discarded_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "run" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "deep" / "a").touch()
    discard_folder(tmp_path / "run")
    assert names(tmp_path) == []
    discard_folder(tmp_path / "run")  # none is there


def test_a_folder_that_cannot_be_moved_aside_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(SpinelineError, match=r"run: cannot be written \(Permission denied\)"):
        discard_folder(tmp_path / "run")
    assert (tmp_path / "run").is_dir()


def test_what_a_killed_run_left_is_cleared_away_and_no_more(tmp_path: Path) -> None:
    """What a link of such a name leads to stays, as do files that look alike."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").touch()
    (tmp_path / ".b.1a2b.partial").mkdir()
    (tmp_path / ".b.1a2b.partial" / "half").touch()
    (tmp_path / ".c.old").mkdir()
    (tmp_path / ".d.partial").touch()
    (tmp_path / ".e.old").symlink_to("kept")
    (tmp_path / "f.partial").touch()
    clear_unfinished(tmp_path)
    assert names(tmp_path) == ["f.partial", "kept"]
    assert names(tmp_path / "kept") == ["a"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files")
@pytest.mark.parametrize("refused", ["nothing", "folders", "files"])
def test_a_folder_waits_for_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """Not every file system can sync a folder; where a file cannot be, nothing appears."""
    synced: list[str] = []
    opened, fsync = os.open, os.fsync

    def sync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if refused == ("folders" if path.is_dir() else "files"):
            raise OSError(22, "Invalid argument")
        synced.append(path.name)
        fsync(handle)

    def open_(path: Path, *words: int, **keys: int | None) -> int:
        if refused == "folders" and Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")  # as Windows does for each of them
        return opened(path, *words, **keys)

    def fill() -> None:
        with staged_folder(tmp_path / "out", overwrite=False, sync=True) as stage:
            (stage / "a").write_text("x")
            (stage / "closed").mkdir()
            monkeypatch.setattr(os, "fsync", sync)
            monkeypatch.setattr(os, "open", open_)

    if refused == "files":
        with pytest.raises(SpinelineError, match="Invalid argument"):
            fill()
        assert names(tmp_path) == []
        return
    fill()
    assert names(tmp_path) == ["out"]
    assert "a" in synced
    assert ("closed" in synced) == (refused == "nothing")
