"""One variant on one fold: trained or resumed, then scored; one by one or in parallel.

``python -m spineline.pipeline.kfold.jobs`` runs one job that it reads as JSON from standard input,
so that folds on several devices run in separate processes.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, ClassVar

from spineline.classify import train as classify_train
from spineline.classify import val as classify_val
from spineline.classify.settings import ClassifyTrain, ClassifyVal
from spineline.datasets.common.errors import RunFinishedError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import parse_settings, settings_to_dict
from spineline.detect import train as detect_train
from spineline.detect import val as detect_val
from spineline.detect.settings import DetectTrain, DetectVal
from spineline.pipeline.evaluation import val as pipeline_val
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.run.predict import Failure
from spineline.pipeline.training import train as training
from spineline.pipeline.training.settings import PipelineTrain

SCORES = "val"
"""Folder within a run folder for the scores on the fold's val part."""

_LOG_FILE = "log.txt"


@dataclass(frozen=True, slots=True)
class FoldJob(ABC):
    """A training with its scoring.

    Attributes:
        variant: its name.
        fold: its number.
        train: the settings of the training; ``out`` is the run folder.
        checkpoint: ``last`` or ``best``: the weights that are scored.
        scoring: further keys of ``pipeline val``, if a whole pipeline is trained.
    """

    trainer: ClassVar[Any]
    """The module that trains one network."""

    variant: str
    fold: int
    train: Any
    checkpoint: str
    scoring: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name such as ``mixup, fold 2``; folds are counted from 1."""
        return f"{self.variant}, fold {self.fold + 1}"

    @property
    def weights(self) -> Path:
        """The weights to score; a whole pipeline has several."""
        path: Path = self.train.out / "weights" / f"{self.checkpoint}.safetensors"
        return path

    @property
    def scores(self) -> Path:
        """The folder of the fold's scores, which is written atomically when the job is done."""
        path: Path = self.train.out / SCORES
        return path

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.scores / "metrics.json").is_file()

    def fit(self) -> None:
        """Train, or resume the training.

        Raises:
            SpinelineError: it failed.
        """
        # A run killed before its first epoch ended has nothing to resume.
        try:
            self.trainer.train(self.begun(resume=training.can_go_on(self.train.out)))
        except RunFinishedError:
            LOG.info("%s: trained already", self.name)

    @abstractmethod
    def score(self) -> None:
        """Score the trained weights on the fold's val part.

        Raises:
            SpinelineError: it failed.
        """

    def begun(self, *, resume: bool) -> Any:
        """The settings to resume the training or to start it from scratch."""
        return replace(self.train, resume=resume, overwrite=not resume and self.train.out.exists())

    def to_json(self) -> str:
        """The job as JSON, for another process."""
        values = {"job": type(self).__name__, "variant": self.variant, "fold": self.fold}
        values |= {"checkpoint": self.checkpoint, "train": settings_to_dict(self.train)}
        return json.dumps({**values, "scoring": dict(self.scoring)})

    @staticmethod
    def from_json(text: str) -> FoldJob:
        """The inverse of `to_json`."""
        values = json.loads(text)
        job, settings = _JOBS[values.pop("job")]
        train = parse_settings(settings, values.pop("train"), where="job")
        return job(train=train, **values)


class DetectJob(FoldJob):
    """A detector on one fold."""

    __slots__ = ()
    trainer: ClassVar[Any] = detect_train

    def score(self) -> None:
        """See [FoldJob][]."""
        settings = DetectVal(
            model=str(self.weights),
            data=self.train.data,
            out=self.scores,
            device=self.train.device,
            plots=self.train.plots,
            overwrite=True,
        )
        detect_val.val(settings)


class ClassifyJob(FoldJob):
    """A classifier on one fold."""

    __slots__ = ()
    trainer: ClassVar[Any] = classify_train

    def score(self) -> None:
        """See [FoldJob][]."""
        settings = ClassifyVal(
            model=str(self.weights),
            data=self.train.data,
            out=self.scores,
            mask_kind=training.classify_recipe(self.train).mask_kind,
            device=self.train.device,
            overwrite=True,
        )
        classify_val.val(settings)


class PipelineJob(FoldJob):
    """Detector, classifier and level reader on one fold, scored as one pipeline."""

    __slots__ = ()

    def fit(self) -> None:
        """See [FoldJob][]."""
        training.train(self.begun(resume=(self.train.out / "run.yaml").is_file()))

    def score(self) -> None:
        """See [FoldJob][]."""
        made = training.weights_in(self.train.out)
        settings = PipelineVal(
            detector=str(made.detector),  # not weights=, which would be split at a comma in a path
            classifier=str(made.classifier),
            namer=str(made.namer),
            data=self.train.data,
            out=self.scores,
            device=self.train.device,
            overwrite=True,
            **self.scoring,
        )
        pipeline_val.val(settings)


_JOBS: dict[str, tuple[type[FoldJob], type[Any]]] = {
    "DetectJob": (DetectJob, DetectTrain),
    "ClassifyJob": (ClassifyJob, ClassifyTrain),
    "PipelineJob": (PipelineJob, PipelineTrain),
}


def run_jobs(jobs: Sequence[FoldJob], devices: Sequence[str]) -> tuple[Failure, ...]:
    """Run all jobs: one by one on one device, in parallel on several.

    Returns:
        The jobs that failed, with the reason; the others are done.
    """
    if len(devices) > 1:
        results = _side_by_side(jobs, devices)
        return tuple(failure for failure in results if failure is not None)
    failures = []
    for job in jobs:
        LOG.info("== %s", job.name)
        reason = _reason(_on(job, devices[0]))
        if reason is not None:
            failures.append(_failed(job, reason))
    return tuple(failures)


def _reason(job: FoldJob) -> str | None:
    """Run a job; the reason why it failed, if it did."""
    try:
        job.fit()
        job.score()
    except (SpinelineError, RuntimeError, OSError, ValueError, MemoryError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _failed(job: FoldJob, reason: str) -> Failure:
    failure = Failure(job.name, reason)
    LOG.error("error: %s", failure)
    return failure


def _on(job: FoldJob, device: str) -> FoldJob:
    return replace(job, train=replace(job.train, device=device))


def _side_by_side(jobs: Sequence[FoldJob], devices: Sequence[str]) -> list[Failure | None]:
    """Run as many processes as devices; each takes the next job when it is free."""
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    environment = _environment(devices)
    running: list[subprocess.Popen[str]] = []
    stopped = Event()

    def work(job: FoldJob) -> Failure | None:
        device = free.get()
        try:
            if stopped.is_set():
                return None
            return _in_process(_on(job, device), environment, running.append)
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
    job: FoldJob, environment: dict[str, str], started: Callable[[subprocess.Popen[str]], object]
) -> Failure | None:
    """Run a job in its own process, with its output in a file beside the run folder."""
    log = job.train.out.with_name(f"{job.train.out.name}-{_LOG_FILE}")
    LOG.info("== %s, on %s: see %s", job.name, job.train.device, log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(  # -P: do not import modules of the current folder
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
    """The last line of a failed process's output, or how it ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if said:
        return said[-1]
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{how}; see {log}"


def _environment(devices: Sequence[str]) -> dict[str, str]:
    """The environment in which parallel trainings on the CPU share its cores."""
    environment = dict(os.environ)
    on_cpu = sum(device == "cpu" for device in devices)
    if on_cpu > 1:
        threads = max(1, (os.cpu_count() or 1) // on_cpu)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return environment


def main() -> int:
    """Run the job on standard input; 0 when it is done."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    reason = _reason(FoldJob.from_json(sys.stdin.read()))
    if reason is not None:
        LOG.error("error: %s", reason)
    return 0 if reason is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
