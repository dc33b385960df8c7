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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOOD = ("refused", "answered", "warned")
BAD = ("crashed", "hung", "memory", "died", "escaped", "insane")
TIME_LIMIT_S = 20.0
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
    code = "import sys; from pathlib import Path; import fuzz_targets as t; t.make_base(Path(sys.argv[1]))"
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
    process: subprocess.Popen[str] | None = None
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


def _start(base: Path, work: Path) -> subprocess.Popen[str]:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return subprocess.Popen(
        [sys.executable, __file__, str(base), str(work)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(), cwd=work,
        stderr=(work / "stderr").open("w"),
    )  # fmt: skip


def _ask(process: subprocess.Popen[str], line: str) -> dict[str, str] | str:
    """The worker's answer, or ``hung`` or ``died``; loading libraries does not count as time."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
        while True:
            ready, _, _ = select.select([process.stdout], [], [], TIME_LIMIT_S)
            if not ready:
                return "hung"
            answer = process.stdout.readline()
            if not answer:
                return "died"
            if answer.startswith("{"):
                return dict(json.loads(answer))
    except BrokenPipeError:
        return "died"


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
        if not f"{full}{os.sep}".startswith(self.inside) and not full.startswith("/dev/"):
            self.outside.append(full)


def _work(base: Path, work: Path) -> Iterator[None]:
    import numpy as np
    from fuzz_targets import BY_NAME, Insane

    from spineline.datasets.errors import SpinelineError

    logging.getLogger("spineline").addHandler(logging.NullHandler())
    logging.getLogger("spineline").propagate = False
    watch, limited = _Watch(work), False
    sys.addaudithook(watch)
    for line in sys.stdin:
        job = json.loads(line)
        target = BY_NAME[job["target"]]
        if target.networks and "torch" not in sys.modules:
            print("loading", flush=True)
            import spineline.classify.model
            import spineline.detect.ultralytics_backend
            from spineline.pipeline.core import Pipeline

            if target.name == "bundled":
                Pipeline.load()
            limited = False
        if not limited:
            _warm(target, base, work)
            _limit_memory()
            limited = True
        data, out = work / "a" / "b" / "in", work / "a" / "b" / "out"
        shutil.rmtree(work / "a", ignore_errors=True)
        shutil.copytree(base / target.base, data)
        out.mkdir()
        name = int.from_bytes(hashlib.sha256(target.name.encode()).digest()[:4], "big")
        target.spoil(data, np.random.default_rng([job["seed"], name, job["number"]]))
        before = _listing(work, out)
        verdict, text = "answered", ""
        watch.inside, watch.outside, watch.on = str(out.resolve()) + os.sep, [], True
        try:
            warnings = list(target.run(data, out))
            verdict, text = ("warned", warnings[0]) if warnings else ("answered", "")
        except SpinelineError as error:
            verdict, text = "refused", str(error)
            if not text.strip() or len(text) > 20_000:
                verdict, text = "insane", f"a message of {len(text)} characters: {text[:200]}"
        except MemoryError:
            verdict, text = "memory", _last_lines()
        except Insane:
            verdict, text = "insane", _last_lines()
        except BaseException:
            verdict, text = "crashed", _last_lines()
        watch.on = False
        if watch.outside or _listing(work, out) != before:
            verdict, text = "escaped", "; ".join(watch.outside[:3]) or "files beside out changed"
        elif verdict in ("refused",) and (left := _partial(out)):
            verdict, text = "insane", f"left behind after {text[:80]!r}: {left}"
        text = text.replace(str(work), "").encode("utf-8", "backslashreplace").decode()
        print(json.dumps({"verdict": verdict, "text": text[:1500]}), flush=True)
        yield


def _warm(target: Any, base: Path, work: Path) -> None:
    """Run the target once on sound data, so that imports do not count as the mutant's."""
    data, out = work / "a" / "b" / "in", work / "a" / "b" / "out"
    shutil.rmtree(work / "a", ignore_errors=True)
    shutil.copytree(base / target.base, data)
    out.mkdir()
    with contextlib.suppress(Exception):
        target.run(data, out)


def _partial(out: Path) -> list[str]:
    """Half-written things that a refusal left."""
    return sorted(path.name for path in out.rglob("*"))[:5]


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


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft = pages * resource.getpagesize() + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    for _ in _work(Path(sys.argv[1]), Path(sys.argv[2])):
        pass


if __name__ == "__main__":
    main()
