"""One variant on one fold: trained, or gone on with, and scored; alone or side by side.

``python -m spineline.pipeline.kfold.jobs`` does one job that it reads as JSON from standard input:
so that folds on several devices run in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from spineline.classify.settings import ClassifyTrain, ClassifyVal
from spineline.datasets.common.errors import RunFinishedError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import parse_settings, settings_to_dict
from spineline.detect.settings import DetectTrain, DetectVal
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.kfold.variants import TrainSettings, masks_kind
from spineline.pipeline.run.predict import Failure
from spineline.pipeline.training.settings import PipelineTrain
from spineline.pipeline.training.train import can_go_on, weights_in

SCORES = "val"
"""Folder within a run folder that holds what the fold's val part gives."""

_LOG_FILE = "log.txt"
_KINDS: dict[str, type[TrainSettings | PipelineTrain]] = {
    "detect": DetectTrain,
    "classify": ClassifyTrain,
    "pipeline": PipelineTrain,
}


@dataclass(frozen=True, slots=True)
class Job:
    """A training with its scoring.

    Attributes:
        variant: its name.
        fold: its number.
        train: the settings of the training; ``out`` is the run folder.
        checkpoint: ``last`` or ``best``: the weights that are scored.
        scoring: further keys of ``pipeline val``, where a whole pipeline is trained.
    """

    variant: str
    fold: int
    train: TrainSettings | PipelineTrain
    checkpoint: str
    scoring: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Such as ``mixup, fold 2``; people count folds from 1."""
        return f"{self.variant}, fold {self.fold + 1}"

    @property
    def weights(self) -> Path:
        """The weights that are scored; of a whole pipeline there are several."""
        return self.train.out / "weights" / f"{self.checkpoint}.safetensors"

    @property
    def scores(self) -> Path:
        """What the fold's val part gives; it appears whole, when the job is done."""
        return self.train.out / SCORES

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.scores / "metrics.json").is_file()

    def to_json(self) -> str:
        """The job as text for another process."""
        task = next(word for word, kind in _KINDS.items() if isinstance(self.train, kind))
        values = {"task": task, "variant": self.variant, "fold": self.fold}
        values |= {"checkpoint": self.checkpoint, "train": settings_to_dict(self.train)}
        return json.dumps({**values, "scoring": dict(self.scoring)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job behind `to_json`."""
        values = json.loads(text)
        train: Any = parse_settings(_KINDS[values["task"]], values["train"], where="job")
        names = ("variant", "fold", "checkpoint", "scoring")
        return cls(train=train, **{name: values[name] for name in names})


def do_job(job: Job) -> None:
    """Train, or go on with the training, and score the fold's val part.

    Raises:
        SpinelineError: one of them failed.
    """
    _train(job)
    _score(job)


def run_jobs(jobs: Sequence[Job], devices: Sequence[str]) -> tuple[Failure, ...]:
    """Do all jobs: one by one on one device, side by side on several.

    Returns:
        The jobs that failed, with the reason; the others are done.
    """
    if len(devices) == 1:
        results = [_alone(replace(job, train=_on(job, devices[0]))) for job in jobs]
    else:
        results = _side_by_side(jobs, devices)
    return tuple(failure for failure in results if failure is not None)


def _train(job: Job) -> None:
    train, out = job.train, job.train.out
    if isinstance(train, PipelineTrain):
        from spineline.pipeline.training.train import train as train_pipeline

        begun = (out / "run.yaml").is_file()
        train_pipeline(replace(train, resume=begun, overwrite=not begun and out.exists()))
        return
    begun = can_go_on(out)
    # What was killed before its first epoch ended has nothing to go on with.
    settings = replace(train, resume=begun, overwrite=not begun and out.exists())
    try:
        if isinstance(settings, DetectTrain):
            from spineline.detect.train import train as train_detector

            train_detector(settings)
        else:
            from spineline.classify.train import train as train_classifier

            train_classifier(settings)
    except RunFinishedError:
        LOG.info("%s: trained already", job.name)


def _score(job: Job) -> None:
    train, data = job.train, job.train.data
    if data is None:
        raise ValueError("a job names its data")
    if isinstance(train, PipelineTrain):
        _score_pipeline(job, train)
        return
    if isinstance(train, DetectTrain):
        from spineline.detect.val import val as score_detector

        score_detector(
            DetectVal(
                model=str(job.weights),
                data=data,
                out=job.scores,
                device=train.device,
                plots=train.plots,
                overwrite=True,
            )
        )
        return
    from spineline.classify.val import val as score_classifier

    score_classifier(
        ClassifyVal(
            model=str(job.weights),
            data=data,
            out=job.scores,
            mask_kind=masks_kind(train),
            device=train.device,
            overwrite=True,
        )
    )


def _score_pipeline(job: Job, train: PipelineTrain) -> None:
    from spineline.pipeline.evaluation.val import val

    made = weights_in(train.out)
    val(
        PipelineVal(
            detector=str(made.detector),  # not weights=, which a comma in a path would split
            classifier=str(made.classifier),
            namer=str(made.namer),
            data=train.data,
            out=job.scores,
            device=train.device,
            overwrite=True,
            **job.scoring,
        )
    )


def _alone(job: Job) -> Failure | None:
    LOG.info("== %s", job.name)
    try:
        do_job(job)
    except (SpinelineError, RuntimeError, OSError, ValueError, MemoryError) as error:
        return _failed(job, " ".join(str(error).split()) or type(error).__name__)
    return None


def _failed(job: Job, reason: str) -> Failure:
    failure = Failure(job.name, reason)
    LOG.error("error: %s", failure)
    return failure


def _on(job: Job, device: str) -> Any:
    return replace(job.train, device=device)


def _side_by_side(jobs: Sequence[Job], devices: Sequence[str]) -> list[Failure | None]:
    """As many processes as devices; each takes the next job when it is free."""
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    environment = _environment(devices)
    running: list[subprocess.Popen[str]] = []
    stopped = Event()

    def work(job: Job) -> Failure | None:
        device = free.get()
        try:
            if stopped.is_set():
                return None
            return _in_process(replace(job, train=_on(job, device)), environment, running.append)
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        futures: list[Future[Failure | None]] = [pool.submit(work, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stopped.set()
            for process in running:
                process.terminate()
            raise


def _in_process(
    job: Job, environment: dict[str, str], started: Callable[[subprocess.Popen[str]], object]
) -> Failure | None:
    """Do a job in a process of its own; what it says goes into a file beside the run folder."""
    log = job.train.out.with_name(f"{job.train.out.name}-{_LOG_FILE}")
    LOG.info("== %s, on %s: see %s", job.name, job.train.device, log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(  # -P: the current folder's modules are not meant
            [sys.executable, "-P", "-m", "spineline.pipeline.kfold.jobs"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        started(process)
        process.communicate(job.to_json())
    if process.returncode == 0:
        LOG.info("== %s: done", job.name)
        return None
    return _failed(job, _last_words(log, process.returncode))


def _last_words(log: Path, status: int) -> str:
    """What a failed process said last, or how it ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if said:
        return said[-1]
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{how}; see {log}"


def _environment(devices: Sequence[str]) -> dict[str, str]:
    """Processes that train on the CPU side by side share its cores."""
    environment = dict(os.environ)
    on_cpu = sum(device == "cpu" for device in devices)
    if on_cpu > 1:
        threads = max(1, (os.cpu_count() or 1) // on_cpu)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return environment


def main() -> int:
    """Do the job that standard input holds; 0 when it is done."""
    import logging

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    job = Job.from_json(sys.stdin.read())
    try:
        do_job(job)
    except (SpinelineError, RuntimeError, OSError, ValueError, MemoryError) as error:
        LOG.error("error: %s", " ".join(str(error).split()) or type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
