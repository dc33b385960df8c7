"""Archives are unpacked within their folder, within bounds, and leave nothing behind."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from spineline.datasets.volumes import archives
from spineline.datasets.volumes.archives import (
    ARCHIVE_SUFFIXES,
    ArchiveError,
    archive_suffix,
    unpacking,
)

FILES = {"a/im1": b"one" * 1000, "a/b/im2": b"two", "c": b""}


pytestmark = pytest.mark.usefixtures("temporary")


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    if archive_suffix(path) == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in files.items():
                zipped.writestr(zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6)), data)
        return path
    mode = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "tbz2": "w:bz2", "xz": "w:xz",
            "txz": "w:xz", "tar": "w"}[path.suffix[1:]]  # fmt: skip
    with tarfile.open(path, mode) as tarred:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1580702706
            tarred.addfile(entry, io.BytesIO(data))
    return path


def unpacked(archive: Path) -> dict[str, bytes]:
    with unpacking() as made:
        folder = made.unpack(archive, "x")
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_what_was_packed_is_unpacked_and_gone(tmp_path: Path, suffix: str, temporary: Path) -> None:
    archive = write_archive(tmp_path / f"in{suffix}", FILES)
    assert unpacked(archive) == FILES
    assert list(temporary.iterdir()) == []
    with unpacking() as made:
        one, other = (made.unpack(archive, "x") / "a/im1" for _ in range(2))
        assert one != other
        assert one.stat().st_mtime == other.stat().st_mtime == 1580702706
        assert stat.S_IMODE(one.parents[2].parent.stat().st_mode) == 0o700


def test_what_macos_adds_is_left_out(tmp_path: Path) -> None:
    hidden = {"__MACOSX/a/._im1": b"x", "a/._im1": b"x", ".DS_Store": b"x", "a/.DS_Store": b"x"}
    assert unpacked(write_archive(tmp_path / "in.zip", {**FILES, **hidden})) == FILES


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/tmp/out", "..\\out", "C:\\out", "C:/out", "\\\\host\\out"]
)
def test_no_entry_leads_out_of_the_folder(
    tmp_path: Path, temporary: Path, name: str, suffix: str
) -> None:
    archive = write_archive(tmp_path / f"in{suffix}", {"good": b"1", name: b"2"})
    with pytest.raises(ArchiveError, match="outside of its folder"):
        unpacked(archive)
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_slashes_of_either_kind_part_folders(tmp_path: Path) -> None:
    assert unpacked(write_archive(tmp_path / "in.zip", {"a\\b\\im": b"1"})) == {"a/b/im": b"1"}


def test_links_and_devices_are_left_out_and_told(tmp_path: Path, caplog) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tarred:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"odd{kind.decode()}")
            entry.type, entry.linkname = kind, "/etc/passwd"
            tarred.addfile(entry)
        entry = tarfile.TarInfo("good")
        entry.size = 1
        tarred.addfile(entry, io.BytesIO(b"1"))
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
        zipped.writestr("good", "1")
    for name, count in (("in.tar", 4), ("in.zip", 1)):
        caplog.clear()
        assert unpacked(tmp_path / name) == {"good": b"1"}
        assert f"{count} entries that are not plain files" in caplog.text


def test_what_archives_grow_to_is_bounded(tmp_path: Path, temporary: Path, monkeypatch) -> None:
    archive = write_archive(tmp_path / "in.zip", FILES)
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 5000)
    with unpacking() as made:
        made.unpack(archive, "x")
        with pytest.raises(ArchiveError, match="unpack to more than"):
            made.unpack(archive, "y")
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    with pytest.raises(ArchiveError, match="more than the 2 files allowed"):
        unpacked(archive)
    assert list(temporary.iterdir()) == []


def encrypted(path: Path) -> None:
    write_archive(path, FILES)
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.index(mark)
        data[start + place] |= 1
    path.write_bytes(data)


def test_damaged_archives_are_errors(tmp_path: Path, temporary: Path) -> None:
    for suffix in (".zip", ".tar", ".tgz", ".tar.xz"):
        whole = write_archive(tmp_path / f"in{suffix}", FILES).read_bytes()
        cut = tmp_path / f"cut{suffix}"
        for length in (0, 3, len(whole) // 4):  # tar files end in many zeros
            cut.write_bytes(whole[:length])
            with pytest.raises(ArchiveError, match=rf"cut{suffix}: cannot be unpacked"):
                unpacked(cut)
    encrypted(tmp_path / "secret.zip")
    with pytest.raises(ArchiveError, match="encrypted"):
        unpacked(tmp_path / "secret.zip")
    assert list(temporary.iterdir()) == []


def test_a_month_of_zero_is_no_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as zipped:
        zipped.writestr("a", "1")
    data = (tmp_path / "in.zip").read_bytes()
    start = data.index(b"PK\x01\x02")
    (tmp_path / "in.zip").write_bytes(data[: start + 12] + bytes(4) + data[start + 16 :])
    assert unpacked(tmp_path / "in.zip") == {"a": b"1"}
