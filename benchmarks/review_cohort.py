"""Start time and memory of `spineline review` over a large folder of results.

    python benchmarks/review_cohort.py [n=500] …

`python benchmarks/review_cohort.py help` lists the keys. One phantom study is predicted; its files
and its result are copied with new UIDs. The command runs in its own process and receives the page's
requests: page, list, first study, and its picture.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import OpenerDirector, ProxyHandler, build_opener

import cohort_memory
import harness

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import write_json
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.pipeline.run.predict import predict
from spineline.pipeline.run.settings import PipelinePredict

PAGE, LIST, STUDY, PICTURE, AGAIN = STEPS = (
    "the page answers", "the whole list", "the first study", "its picture", "the list again"
)  # fmt: skip
PART = 500
"""Maximum number of studies in one request for the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSettings(harness.BenchSettings):
    """Keys of this script."""

    n: int = key("studies", default=500, minimum=1, maximum=9999)
    slices: int = key("slices per series, of three", default=7, minimum=1, maximum=31)
    size: int = key("rows and columns of the images", default=256, minimum=128, maximum=1024)


@dataclass(frozen=True, slots=True)
class ReviewStart:
    """One start: seconds of each step since the one before, and MiB by PSS at the end."""

    seconds: dict[str, float]
    pss_mb: float


def copied_results(folder: Path, settings: ReviewSettings) -> str:
    """Fill ``studies`` and ``results`` with copies of one phantom and its result."""
    keys = {"seed": settings.seed, "slices": settings.slices, "size": settings.size}
    harness.draw_cohort(folder / "one", 1, **keys)
    predict(PipelinePredict(source=folder / "one", out=folder / "predicted"))
    (original,) = (folder / "one").iterdir()
    made = folder / "predicted" / original.name
    values = json.loads((made / "result.json").read_bytes())
    (folder / "studies").mkdir()
    files = 0
    for number in range(settings.n):
        name = f"study{number:04d}"
        files += harness.copy_study(original, folder / "studies" / name, number)
        shutil.copytree(made, folder / "results" / name)
        uids = {
            k: f"{values[k][:50]}.{number}" for k in ("study_uid", "series_uid", "instance_uid")
        }
        write_json(folder / "results" / name / "result.json", {**values, **uids}, sync=False)
    copies = f"{settings.n} copies of one phantom study and its result"
    return f"{copies}, {files} DICOM files, T2 images of {settings.size} px"


def start_once(folder: Path, n: int) -> ReviewStart:
    """Start the command, send all requests, measure its memory, and stop it.

    Raises:
        SpinelineError: it does not start, or the list or the picture is incomplete.
    """
    words = ["review", f"source={folder / 'results'}", f"images={folder / 'studies'}"]
    opener = build_opener(ProxyHandler({}))
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *harness.CLI, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            address = _address_of(server)
            return _asked(opener, address, n, start, server.pid)
        finally:
            server.send_signal(signal.SIGINT)


def _address_of(server: subprocess.Popen[str]) -> str:
    """The address that the command prints once it listens."""
    said = []
    for line in server.stdout or ():
        said.append(line)
        for word in line.split():
            if word.startswith("http://127.0.0.1:"):
                return word
    raise SpinelineError(f"spineline review did not start: {''.join(said).strip()[-500:]}")


def _asked(opener: OpenerDirector, address: str, n: int, start: float, pid: int) -> ReviewStart:
    """Send each request in turn."""
    seconds: dict[str, float] = {}

    def step(name: str, call: Callable[[], Any]) -> Any:
        found = call()
        seconds[name] = time.perf_counter() - start - sum(seconds.values())
        return found

    def get(path: str) -> bytes:
        with opener.open(address + path, timeout=600) as answer:
            return bytes(answer.read())

    def listed() -> list[str]:
        parts = (json.loads(get(f"api/studies?offset={k}&limit={PART}")) for k in range(0, n, PART))
        return [study["name"] for part in parts for study in part["studies"]]

    step(PAGE, lambda: get(""))
    names = step(LIST, listed)
    if len(names) != n:
        raise SpinelineError(f"the list has {len(names)} studies, wanted {n}")
    place = f"api/studies/{quote(names[0])}"
    study = step(STUDY, lambda: json.loads(get(place)))
    image, size = study["image"], study["result"]["image"]
    if "problem" in image:
        raise SpinelineError(f"the first study has no picture: {image['problem']}")
    picture = step(PICTURE, lambda: get(f"{place}/slices/{image['graded']}"))
    if len(picture) != 2 * size["width"] * size["height"]:
        raise SpinelineError(f"the picture has {len(picture)} bytes, and {size} pixels")
    step(AGAIN, listed)
    return ReviewStart(seconds, cohort_memory.memory_of(pid)[2])


def work(settings: ReviewSettings, folder: Path) -> harness.BenchResult:
    data = copied_results(folder, settings)
    start_once(folder, settings.n)
    starts = [start_once(folder, settings.n) for _ in range(settings.repeats)]
    rows = []
    for number, name in enumerate(STEPS):
        alone = [one.seconds[name] for one in starts]
        since = [sum(list(one.seconds.values())[: number + 1]) for one in starts]
        rows.append(
            (name, f"{statistics.median(since):.2f}", f"{statistics.median(alone):.3f}",
             f"{min(alone):.3f} – {max(alone):.3f}")
        )  # fmt: skip
    memory = [one.pss_mb for one in starts]
    median = statistics.median(memory)
    return harness.BenchResult(
        title="Large cohorts",
        about="""\
Values are medians over the rounds, after one that fills the disk cache. Each step is requested over
HTTP when the previous one has been answered. Before the page answers, the headers of all images are
read. If the load average exceeds the number of cores, other programs were running too.""",
        data=data,
        packages=("starlette", "uvicorn", "pydicom"),
        tables=(
            markdown_table(
                ("step", "seconds since the start", "of this step", "least – largest"), rows
            ),
            f"Memory of the process after that (PSS): {median:.0f} MiB "
            f"({min(memory):.0f} – {max(memory):.0f}).",
        ),
        report={
            "starts": [
                {"seconds": {k: round(v, 4) for k, v in one.seconds.items()},
                 "pss_mb": round(one.pss_mb, 1)}
                for one in starts
            ]
        },
    )  # fmt: skip


def main(words: list[str]) -> None:
    harness.run_bench(words, ReviewSettings, work, "review_cohort")


if __name__ == "__main__":
    run_script(main)
