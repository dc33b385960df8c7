"""Mutants run in processes of their own, with a limit of time and of memory each.

    from fuzz_workers import fuzz

    verdicts = fuzz(["dicom-slice"], mutants=100, seed=0, folder=tmp_path)

A verdict is ``refused`` (a SpinelineError), ``answered`` or ``warned`` (an answer with warnings);
what must never be is ``crashed`` (another exception), ``hung``, ``memory``, ``died`` (the process),
``escaped`` (something outside the output was written) and ``insane`` (a wrong answer).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import resource
import select
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOOD = ("refused", "answered", "warned")
_CACHES = [os.environ.get(name) for name in ("SPINELINE_CACHE_DIR", "XDG_CACHE_HOME")]
CACHE = Path(next(filter(None, _CACHES), Path.home() / ".cache")).resolve() / "spineline"
"""What a first import of ``ultralytics`` is given to keep its settings in."""

BAD = ("crashed", "hung", "memory", "died", "escaped", "insane")
TIME_LIMIT_S = 20.0
LOADING_LIMIT_S = 300.0
MEMORY_LIMIT = 1536 << 20
"""Bytes of address space beyond what the libraries take."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant; `text` is the message or the traceback's end."""

    target: str
    number: int
    seed: int
    verdict: str
    text: str

    @property
    def bad(self) -> bool:
        return self.verdict in BAD


def fuzz(
    targets: Sequence[str],
    *,
    mutants: int,
    seed: int,
    folder: Path,
    workers: int = 2,
    first: int = 0,
) -> list[Verdict]:
    """Run so many mutants of each target; same seed, same mutants.

    Args:
        targets: names of `fuzz_targets.TARGETS`.
        mutants: of each target.
        seed: of the generators.
        folder: new, for sound data and scratch.
        workers: processes side by side.
        first: number of the first mutant.
    """
    base = folder / "base"
    if not base.exists():
        _prepare(base)
    jobs: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
    for target in targets:
        for number in range(first, first + mutants):
            jobs.put((target, number))
    verdicts: list[Verdict] = []
    threads = [
        threading.Thread(target=_drive, args=(jobs, base, folder / f"w{n}", seed, verdicts))
        for n in range(workers)
    ]
    for thread in threads:
        jobs.put(None)
        thread.start()
    for thread in threads:
        thread.join()
    order = {name: n for n, name in enumerate(targets)}
    return sorted(verdicts, key=lambda v: (order[v.target], v.number))


def _prepare(base: Path) -> None:
    code = "import sys, pathlib, fuzz_targets as t; t.make_base(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(base)], check=True, env=_environment())


def _environment() -> dict[str, str]:
    here = str(Path(__file__).parent)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1",
            "YOLO_OFFLINE": "1", "MPLBACKEND": "Agg"}  # fmt: skip


def _drive(
    jobs: queue.SimpleQueue[tuple[str, int] | None],
    base: Path,
    work: Path,
    seed: int,
    verdicts: list[Verdict],
) -> None:
    """Feed one worker process; start another where one hangs or dies."""
    process: subprocess.Popen[bytes] | None = None
    while (job := jobs.get()) is not None:
        if process is None:
            process = _start(base, work)
        line = json.dumps({"target": job[0], "number": job[1], "seed": seed}) + "\n"
        answer = _ask(process, line)
        if isinstance(answer, str):
            process.kill()
            process.wait()
            process = None
            answer = {"verdict": answer, "text": ""}
        verdicts.append(Verdict(job[0], job[1], seed, answer["verdict"], answer["text"]))
    if process is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        process.wait()


def _start(base: Path, work: Path) -> subprocess.Popen[bytes]:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return subprocess.Popen(
        [sys.executable, __file__, str(base), str(work)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=_environment(), cwd=work,
        stderr=(work / "stderr").open("w"),
    )  # fmt: skip


def _ask(process: subprocess.Popen[bytes], line: str) -> dict[str, str] | str:
    """The worker's answer, or ``hung`` or ``died``; loading libraries does not count as time."""
    assert process.stdin is not None
    try:
        process.stdin.write(line.encode())
        ready = _line(process, LOADING_LIMIT_S)
        if ready is None or not ready:
            return "hung" if ready is None else "died"
        answer = _line(process, TIME_LIMIT_S)
        if answer is None or not answer:
            return "hung" if answer is None else "died"
        return dict(json.loads(answer))
    except BrokenPipeError:
        return "died"


def _line(process: subprocess.Popen[bytes], limit: float) -> bytes | None:
    """The next line; empty where the process has ended, None where it took too long."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        some, _, _ = select.select([process.stdout], [], [], limit)
        if not some:
            return None
        byte = process.stdout.read(1)
        if not byte:
            return b""
        line += byte
    return line


# ---- the worker's side


class _Watch:
    """Notes what is opened for writing, made, moved or removed outside a folder."""

    def __init__(self, work: Path) -> None:
        self.work = str(work.resolve()) + os.sep
        self.inside = self.work
        self.outside: list[str] = []
        self.on = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if writes:
                self._note(path)
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"):
            self._note(args[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            self._note(args[0])
            self._note(args[1])
        elif event in (
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "os.posix_spawn",
            "socket.connect",
        ):
            self.outside.append(f"{event} {args[0]!r}"[:200])

    def _note(self, path: object) -> None:
        if isinstance(path, int):
            return
        full = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        allowed = (self.inside, "/dev/", str(CACHE))
        if not f"{full}{os.sep}".startswith(allowed):
            self.outside.append(full)


class _Worker:
    """Spoils and runs one mutant after the other in this process.

    Args:
        base: sound data.
        work: scratch of this worker alone.
    """

    def __init__(self, base: Path, work: Path) -> None:
        logging.getLogger("spineline").addHandler(logging.NullHandler())
        logging.getLogger("spineline").propagate = False
        self.base, self.work = base, work
        self.data, self.out = work / "a" / "b" / "in", work / "a" / "b" / "out"
        self.watch = _Watch(work)
        self.warm: set[str] = set()
        sys.addaudithook(self.watch)

    def __call__(self, target: Any, number: int, seed: int) -> dict[str, str]:
        import numpy as np

        if target.name not in self.warm:
            self._warm(target)
        self._copy(target)
        print("ready", flush=True)
        name = int.from_bytes(hashlib.sha256(target.name.encode()).digest()[:4], "big")
        target.spoil(self.data, np.random.default_rng([seed, name, number]))
        before = _listing(self.work, self.out)
        watch = self.watch
        watch.inside, watch.outside, watch.on = str(self.out.resolve()) + os.sep, [], True
        verdict, text = _judged(target, self.data, self.out)
        watch.on = False
        if watch.outside or _listing(self.work, self.out) != before:
            verdict, text = "escaped", "; ".join(watch.outside[:3]) or "files beside out changed"
        elif verdict == "refused" and (left := sorted(p.name for p in self.out.rglob("*"))):
            verdict, text = "insane", f"left behind after {text[:80]!r}: {left[:5]}"
        text = text.replace(str(self.work), "").encode("utf-8", "backslashreplace").decode()
        return {"verdict": verdict, "text": text[:1500]}

    def _warm(self, target: Any) -> None:
        """Run the target once on sound data, so that imports do not count as the mutant's."""
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        self._copy(target)
        with contextlib.suppress(Exception):
            target.run(self.data, self.out)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft = pages * resource.getpagesize() + MEMORY_LIMIT
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        self.warm.add(target.name)

    def _copy(self, target: Any) -> None:
        shutil.rmtree(self.work / "a", ignore_errors=True)
        shutil.copytree(self.base / target.base, self.data)
        self.out.mkdir()


def _judged(target: Any, data: Path, out: Path) -> tuple[str, str]:
    """What running the target came to, and the words for it."""
    from fuzz_targets import InsaneError

    from spineline.datasets.common.errors import SpinelineError

    try:
        warnings = list(target.run(data, out))
    except SpinelineError as error:
        text = str(error)
        if not text.strip() or len(text) > 20_000:
            return "insane", f"a message of {len(text)} characters: {text[:200]}"
        return "refused", text
    except MemoryError:
        return "memory", _last_lines()
    except InsaneError:
        return "insane", _last_lines()
    except BaseException:
        return "crashed", _last_lines()
    return ("warned", warnings[0]) if warnings else ("answered", "")


def _listing(work: Path, out: Path) -> list[tuple[str, int, int]]:
    """Every file below the worker's folder but those in out and its own error stream."""
    found = []
    for path in sorted(work.rglob("*")):
        if path == work / "stderr" or path == out or path.is_relative_to(out):
            continue
        status = path.lstat()
        found.append((str(path), status.st_size if path.is_file() else 0, status.st_mtime_ns))
    return [entry for entry in found if entry[0] != str(out.parent)]


def _last_lines() -> str:
    return " | ".join(traceback.format_exc().strip().splitlines()[-7:])


def main() -> None:
    from fuzz_targets import BY_NAME

    worker = _Worker(Path(sys.argv[1]), Path(sys.argv[2]))
    for line in sys.stdin:
        job = json.loads(line)
        answer = worker(BY_NAME[job["target"]], job["number"], job["seed"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
