"""Mutants run in worker processes, with a limit of time and of memory each.

    from fuzz_workers import fuzz

    verdicts = fuzz(["dicom-slice"], mutants=100, seed=0, base=sound, folder=tmp_path)

A verdict is ``refused`` (a SpinelineError), ``answered`` or ``warned`` (an answer with warnings);
what must never be is ``crashed`` (another exception), ``hung``, ``memory``, ``died`` (the process),
``escaped`` (something outside the output was written) and ``insane`` (a wrong answer).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_targets import BY_NAME, InsaneError

from spineline.datasets.common.errors import SpinelineError
from spineline.detect.yolo.environment import import_ultralytics
from spineline.pipeline.inference.process_pool import Limits, ProcessPool, TaskResult

GOOD = ("refused", "answered", "warned")
BAD = ("crashed", "hung", "memory", "died", "escaped", "insane")
FAILURES = {"reading": "crashed", "timeout": "hung", "memory": "memory", "crash": "died"}
STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")
"""Audited events that start something or reach elsewhere."""
TIME_LIMIT_S = 60.0
"""Of a mutant; the first of a target in each worker loads libraries and models besides."""
MEMORY_LIMIT = 1536 << 20
"""Bytes of address space beyond what the libraries take."""

Job = tuple[str, int, int]
"""Name of the target, number of the mutant, seed."""


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
    targets: Sequence[str], *, mutants: int, seed: int, base: Path, folder: Path, workers: int = 2
) -> list[Verdict]:
    """Run so many mutants of each target; same seed, same mutants.

    Args:
        targets: names of `fuzz_targets.TARGETS`.
        mutants: of each target.
        seed: of the generators.
        base: sound data, by `fuzz_targets.make_base`.
        folder: for scratch.
        workers: processes side by side.
    """
    import_ultralytics()  # here, so that no mutant's time and memory have to pay for it
    jobs = [(target, number, seed) for target in targets for number in range(mutants)]
    # The pool's own limit of memory would count what models take: each worker sets one after them.
    limits = Limits(seconds=TIME_LIMIT_S, megabytes=1 << 24)
    with ProcessPool(Worker(base, folder), workers=workers, limits=limits) as pool:
        verdicts = {result.item: verdict_of(result) for result in pool.map(jobs)}
    return [verdicts[job] for job in jobs]


def verdict_of(result: TaskResult[Job, tuple[str, str]]) -> Verdict:
    """What a worker answers, or what became of it."""
    if result.failure is not None:
        return Verdict(*result.item, FAILURES[result.failure.kind], result.failure.reason)
    assert result.value is not None
    return Verdict(*result.item, *result.value)


# ---- the worker's side


class Watch:
    """Notes what is opened for writing, made, moved or removed outside a folder."""

    def __init__(self) -> None:
        self.inside = ""
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
        elif event in STARTS:
            self.outside.append(f"{event} {args[0]!r}"[:200])

    def _note(self, path: object) -> None:
        if isinstance(path, int):
            return
        full = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        if not f"{full}{os.sep}".startswith((self.inside, "/dev/")):
            self.outside.append(full)


class Worker:
    """Spoils and runs one mutant after the other in the process that it is called in.

    Args:
        base: sound data.
        folder: for a scratch folder of each process.
    """

    def __init__(self, base: Path, folder: Path) -> None:
        self.base, self.folder = base, folder
        self.watch = Watch()
        self.warm: set[str] = set()

    def __call__(self, job: Job) -> tuple[str, str]:
        name, number, seed = job
        target = BY_NAME[name]
        if not self.warm:
            self._settle_in()
        if name not in self.warm:
            self._warm(target)
        self._copy(target)
        salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        target.spoil(self.data, np.random.default_rng([seed, salt, number]))
        before = self._listing()
        watch = self.watch
        watch.inside, watch.outside, watch.on = str(self.out.resolve()) + os.sep, [], True
        verdict, text = judged(target, self.data, self.out)
        watch.on = False
        if watch.outside or self._listing() != before:
            verdict, text = "escaped", "; ".join(watch.outside[:3]) or "files beside out changed"
        elif verdict == "refused" and (left := sorted(p.name for p in self.out.rglob("*"))):
            verdict, text = "insane", f"left behind after {text[:80]!r}: {left[:5]}"
        text = text.replace(str(self.work), "").encode("utf-8", "backslashreplace").decode()
        return verdict, text[:1500]

    def _settle_in(self) -> None:
        self.work = self.folder / f"w{os.getpid()}"
        self.data, self.out = self.work / "a" / "b" / "in", self.work / "a" / "b" / "out"
        self.work.mkdir(parents=True)
        os.chdir(self.work)
        sys.dont_write_bytecode = True
        sys.modules["torch"].set_num_threads(1)  # those of the process before are not here
        sys.addaudithook(self.watch)

    def _warm(self, target: Any) -> None:
        """Run the target once on sound data, so that imports do not count as the mutant's."""
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        self._copy(target)
        with contextlib.suppress(Exception):
            target.run(self.data, self.out)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(
            resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_LIMIT, hard)
        )
        self.warm.add(target.name)

    def _copy(self, target: Any) -> None:
        shutil.rmtree(self.work / "a", ignore_errors=True)
        shutil.copytree(self.base / target.base, self.data)
        self.out.mkdir()

    def _listing(self) -> list[tuple[str, int, int]]:
        """Every file below the scratch folder but those in out."""
        found = []
        for path in sorted(self.work.rglob("*")):
            if not path.is_relative_to(self.out) and path != self.out.parent:
                status = path.lstat()
                size = status.st_size if path.is_file() else 0
                found.append((str(path), size, status.st_mtime_ns))
        return found


def judged(target: Any, data: Path, out: Path) -> tuple[str, str]:
    """What running the target came to, and the words for it."""
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


def _last_lines() -> str:
    return " | ".join(traceback.format_exc().strip().splitlines()[-7:])
