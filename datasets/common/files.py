"""Files that appear whole: written beside their target, then renamed onto it."""

from __future__ import annotations

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
_MOST_BYTES = 180  # in UTF-8; ids of images may have 200, names of files 255


def plain_name(text: str, otherwise: str) -> str:
    """A text as the name of a file or folder on any system; ``otherwise`` where nothing is left.

    >>> plain_name("a b/ü.x", "image"), plain_name("...", "image")
    ('a_b_ü.x', 'image')
    """
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in text).strip("._")
    short = name[:_MOST_LETTERS].encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
    return short or otherwise


def write_through(path: Path, write: Callable[[Path], None], *, sync: bool = True) -> None:
    """Let a function write a file beside its place, then move it there: whole or not at all.

    Args:
        path: the file.
        write: is given the path to write to; the file is there, and empty.
        sync: wait until it is on the disk, so that it outlasts a power cut; not worth the
            milliseconds for results that a rerun makes again.

    Raises:
        SpinelineError: the folder cannot be written to.
    """
    with _moved_there(path, sync=sync) as (_, partial):
        write(partial)


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file whole or not at all; see [write_through][]."""
    with (
        _moved_there(path, sync=sync) as (handle, _),
        open(handle, "wb", closefd=False) as file,
    ):
        file.write(data)


@contextmanager
def _moved_there(path: Path, *, sync: bool) -> Iterator[tuple[int, Path]]:
    """An empty file beside its place, open and by name, that moves there when the block ends."""
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
    """A new file beside a path, open and by name; the folder is made where there is none."""
    try:
        return _new_beside(path, _opened)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _new_beside(path, _opened)


def _opened(name: str) -> int:
    # What the umask leaves of these permissions, unlike tempfile's, which are for one user alone.
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def _new_beside(path: Path, make: Callable[[str], Made]) -> tuple[Made, str]:
    """What a function makes of a hidden name beside a path that nothing has, and that name."""
    while True:
        name = f"{path.parent / f'.{path.name}'}.{secrets.token_hex(4)}.partial"
        try:
            return make(name), name
        except FileExistsError:
            continue


def cache_folder() -> Path:
    """Our folder in the user's cache; it need not be there, nor be one that can be written to.

    In ``SPINELINE_CACHE_DIR``, else ``XDG_CACHE_HOME``, else ``~/.cache``.
    """
    cache = os.environ.get("SPINELINE_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "spineline"


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name: a hard link where the disk has them, else a copy.

    Both appear and are replaced whole, so neither changes with the other.

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
        partial.unlink(missing_ok=True)  # it stays where both are one file already


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    r"""Write UTF-8 text with ``\n`` line ends, whole or not at all; see [write_bytes][].

    Half characters (lone surrogates, which broken JSON sources hold) become escapes, as in JSON.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"), sync=sync)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Write JSON, indented, keys in the order given, NaN refused; see [write_bytes][]."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text, sync=sync)


def read_json(path: Path) -> Any:
    """The content of a JSON file, which may come from anywhere.

    Raises:
        OSError: it cannot be read.
        ValueError: not UTF-8, or not JSON (a `json.JSONDecodeError`, which has the place), or lists
            and objects lie too deep in each other.
    """
    text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists and objects are nested too deeply") from error


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output folder or file that exists already, before any work is done.

    An empty folder counts as absent. A folder that a slip of the hand may name, but that no run
    made, is not replaced at all: one that holds the current folder, the user's home or a Git
    repository.

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
    """The same file under a second name; a copy where the file system knows no hard links."""
    try:
        os.link(existing, target)
    except OSError:
        shutil.copyfile(existing, target)


def write_lines(path: Path, lines: Iterable[str], *, sync: bool = True) -> None:
    r"""Write lines, ``\n`` behind each, one after the other; else as [write_text][]."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            for line in lines:
                file.write(line + "\n")

    write_through(path, write, sync=sync)


def discard_folder(folder: Path) -> None:
    """Remove a folder: it is gone at once, its content a little later; one that is not there is.

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
    """Remove what a killed run left half made or half removed directly in a folder."""
    for pattern in (".*.partial", ".*.old"):
        for path in sorted(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until a folder with all that is in it is on the disk."""
    for path in (*sorted(folder.rglob("*")), folder):
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:  # Windows opens no folder
            continue
        try:
            os.fsync(handle)
        except OSError:  # nor do all file systems sync one
            if not path.is_dir():
                raise
        finally:
            os.close(handle)


@contextmanager
def staged_folder(out: Path, *, overwrite: bool, sync: bool = False) -> Iterator[Path]:
    """A folder to fill: becomes ``out`` when the block ends well, vanishes when it does not.

    Only a folder that is being overwritten is replaced, and only at the end.

    Args:
        out: the folder.
        overwrite: replace one that is there.
        sync: wait until its files are on the disk before it takes its place.

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
    """What a folder holds that no run may replace; empty where there is no such thing."""
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


def _cannot_write(path: Path, error: OSError) -> SpinelineError:
    reason = error.strerror or error
    return SpinelineError(f"{path}: cannot be written ({reason}); choose another out=")
