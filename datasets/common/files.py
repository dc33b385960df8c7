"""Atomic files: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from spineline.datasets.common.errors import OutputExistsError, SpinelineError

Made = TypeVar("Made")

_MOST_LETTERS = 100
_MOST_BYTES = 180  # in UTF-8; image ids may have 200 bytes, file names 255

# Errors of writing one study that the next one would have too.
_NO_MORE_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def plain_name(text: str, otherwise: str) -> str:
    """Turn a text into a valid file or folder name on any system; ``otherwise`` if none is left.

    >>> plain_name("a b/ü.x", "image"), plain_name("...", "image")
    ('a_b_ü.x', 'image')
    """
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in text).strip("._")
    short = name[:_MOST_LETTERS].encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
    return short or otherwise


def write_through(path: Path, write: Callable[[Path], None], *, sync: bool = True) -> None:
    """Let a function write a file under a temporary name, then rename it.

    Args:
        path: the file.
        write: called with the path to write to, an existing empty file.
        sync: wait until the file is on the disk, so that it survives a power cut. This is not worth
            its milliseconds for results that can be computed again.

    Raises:
        SpinelineError: the folder cannot be written to.
    """
    with _moved_there(path, sync=sync) as (_, partial):
        write(partial)


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file atomically; see [write_through][]."""
    with (
        _moved_there(path, sync=sync) as (handle, _),
        open(handle, "wb", closefd=False) as file,
    ):
        file.write(data)


@contextmanager
def _moved_there(path: Path, *, sync: bool) -> Iterator[tuple[int, Path]]:
    """An empty file beside the target, as handle and path; it replaces the target at the end."""
    try:
        handle, name = _partial_beside(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        try:
            yield handle, Path(name)
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _cannot_write(path, error) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _partial_beside(path: Path) -> tuple[int, str]:
    """Create a new file beside a path, as handle and name; creates the folder if needed."""
    try:
        return _new_beside(path, _opened)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _new_beside(path, _opened)


def _opened(name: str) -> int:
    # Permissions follow the umask, unlike those of tempfile, which are for one user only.
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def _new_beside(path: Path, make: Callable[[str], Made]) -> tuple[Made, str]:
    """Call a function with an unused hidden name beside a path; returns its result and the name."""
    while True:
        name = f"{path.parent / f'.{path.name}'}.{secrets.token_hex(4)}.partial"
        try:
            return make(name), name
        except FileExistsError:
            continue


def file_state(path: Path) -> str:
    """Size and time of change of a file, which differ if its content does; empty if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def cache_folder() -> Path:
    """Return our folder in the user's cache, which may not exist or be writable.

    It is ``SPINELINE_CACHE_DIR``, or a folder in ``XDG_CACHE_HOME`` or else ``~/.cache``.
    """
    cache = os.environ.get("SPINELINE_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "spineline"


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name: a hard link if the disk supports it, else a copy.

    Both names are only ever replaced atomically, so a change of one does not affect the other.

    Raises:
        SpinelineError: it cannot be written.
    """
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        write_bytes(target, source.read_bytes())
        return
    try:
        os.replace(partial, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        partial.unlink(missing_ok=True)  # rename does nothing if both are already the same file


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    r"""Write UTF-8 text with ``\n`` line ends, atomically; see [write_bytes][].

    Lone surrogates, which broken JSON sources contain, become escapes as in JSON.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"), sync=sync)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Write indented JSON atomically, with keys in order and NaN refused; see [write_bytes][]."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text, sync=sync)


def read_json(path: Path) -> Any:
    """Read a JSON file from an untrusted source.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8 or not JSON (a `json.JSONDecodeError`, which has the position),
            or lists and objects are nested too deeply.
    """
    text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists and objects are nested too deeply") from error


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output folder or file that exists already, before any work is done.

    An empty folder counts as absent. Some folders are never replaced, because only a mistake would
    name them: those that contain the current folder, the user's home or a Git repository.

    Raises:
        OutputExistsError: it exists, and ``overwrite`` is not set or it is never replaced.
        SpinelineError: it cannot be written (a parent is a file, or is not writable).
    """
    if out.exists() and not overwrite and not (out.is_dir() and not any(out.iterdir())):
        msg = f"{out}: exists already; choose another out= or add overwrite=true"
        raise OutputExistsError(msg)
    if overwrite and out.is_dir() and (kept := _never_replaced(out)):
        raise OutputExistsError(f"{out}: holds {kept}, so it is not replaced; choose another out=")
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not parent.is_dir() and parent != out:
        msg = f"{out}: cannot be made, {parent} is not a folder; choose another out="
        raise SpinelineError(msg)
    if not os.access(parent, os.W_OK):
        msg = f"{out}: {parent} is not writable; choose another out= or change its permissions"
        raise SpinelineError(msg)


def link_or_copy(existing: Path, target: Path) -> None:
    """Hard-link a file under a second name, or copy it if the file system has no hard links."""
    try:
        os.link(existing, target)
    except OSError:
        shutil.copyfile(existing, target)


def write_lines(path: Path, lines: Iterable[str], *, sync: bool = True) -> None:
    r"""Write lines one after another, each with ``\n``; otherwise as [write_text][]."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            for line in lines:
                file.write(line + "\n")

    write_through(path, write, sync=sync)


def discard_folder(folder: Path) -> None:
    """Remove a folder, if it exists. It is renamed first, so it disappears at once.

    Raises:
        SpinelineError: it cannot be removed.
    """
    if not folder.exists():
        return
    try:
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".old"))
        folder.rename(aside / folder.name)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    shutil.rmtree(aside, ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed runs directly in a folder."""
    for pattern in (".*.partial", ".*.old"):
        for path in sorted(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until a folder and its content are on the disk."""
    for path in (*sorted(folder.rglob("*")), folder):
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:  # Windows cannot open folders
            continue
        try:
            os.fsync(handle)
        except OSError:  # some file systems cannot sync folders
            if not path.is_dir():
                raise
        finally:
            os.close(handle)


@contextmanager
def staged_folder(out: Path, *, overwrite: bool, sync: bool = False) -> Iterator[Path]:
    """Create a folder to fill: it becomes ``out`` if the block succeeds, and is removed otherwise.

    An existing folder is replaced only with ``overwrite``, and only at the end.

    Args:
        out: the folder.
        overwrite: replace an existing one.
        sync: wait until its files are on the disk before it is renamed.

    Raises:
        OutputExistsError: ``out`` exists and ``overwrite`` is not set, or it is a file.
        SpinelineError: it cannot be written.
    """
    check_output(out, overwrite=overwrite)
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out}: is a file, and out= names a folder; choose another out=")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(_new_beside(out, os.mkdir)[1])
    except OSError as error:
        raise _cannot_write(out, error) from error
    try:
        yield stage
        if sync:
            sync_folder(stage)
        _replace_folder(stage, out)
    except OSError as error:
        shutil.rmtree(stage, ignore_errors=True)
        raise _cannot_write(out, error) from error
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _never_replaced(out: Path) -> str:
    """Content of a folder that forbids its replacement; empty if there is none."""
    if (out / ".git").exists():
        return "a Git repository"
    folder = out.resolve()
    if Path.cwd().is_relative_to(folder):
        return "the current folder"
    home = Path(os.path.expanduser("~")).resolve()  # noqa: PTH111 - a user without home is no error
    return "your home folder" if home.is_relative_to(folder) else ""


def _replace_folder(stage: Path, out: Path) -> None:
    if not out.exists():
        stage.rename(out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".old"))
    out.rename(old / out.name)
    stage.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def is_disk_error(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, is one that writing any other file would meet too."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_MORE_WRITING:
            return True
        error = error.__cause__
    return False


def _cannot_write(path: Path, error: OSError) -> SpinelineError:
    reason = error.strerror or error
    return SpinelineError(f"{path}: cannot be written ({reason}); choose another out=")


def what_folder(path: Path) -> str:
    """Describe a folder that was given to the wrong key: ``; this is …``, or empty if unknown."""
    if (path / "data.yaml").is_file():
        return "; this is a dataset, which data=… names; a folder of its images can be source=…"
    if any(path.glob("*/result.json")):
        return "; these are results of pipeline predict, which spineline convert result reads"
    return ""
