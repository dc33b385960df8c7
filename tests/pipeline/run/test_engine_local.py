"""The local engine: frames read ahead, batches, smaller ones where memory runs out."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.inference.pipeline import batch_size
from spineline.pipeline.inference.settings import ModelSettings, mixed_precision
from spineline.pipeline.inference.sources import find_cases, load_frame
from spineline.pipeline.run.engine_local import (
    Analyser,
    analyse_here,
    out_of_memory,
    run,
    workers_of,
)
from spineline.pipeline.run.settings import PipelinePredict, results_hash


@pytest.fixture
def cohort(tmp_path, make_study):
    for name in "abcdef":
        make_study(tmp_path / "cohort" / name)
    return tmp_path / "cohort"


def settings_of(cohort, tmp_path, **keys) -> PipelinePredict:
    return PipelinePredict(source=cohort, out=tmp_path / "o", **keys)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_case_has_one_outcome(
    tmp_path, cohort, fake_pipeline, make_study, workers: int
) -> None:
    make_study(cohort / "even", np.full((150, 120), 7, np.uint8))
    settings = settings_of(cohort, tmp_path, workers=workers, batch=4)
    outcomes = {o.name: o for o in run(find_cases(cohort), settings, pipeline=fake_pipeline)}
    assert sorted(outcomes) == ["a", "b", "c", "d", "e", "even", "f"]
    assert outcomes["even"].failure.kind == "reading"
    assert "constant image" in outcomes["even"].failure.reason
    for name in "abcdef":
        outcome = outcomes[name]
        assert outcome.failure is None
        assert outcome.analysis.frame.name == name
        assert len(outcome.analysis.result.structures) == 11
        assert outcome.seconds > 0
    assert max(fake_pipeline.detector.calls) <= 4


def test_frames_of_processes_are_those_of_this_one(tmp_path, cohort, fake_pipeline) -> None:
    cases = find_cases(cohort)
    here = {case.name: load_frame(case) for case in cases}
    settings = settings_of(cohort, tmp_path, workers=1)
    for outcome in run(cases, settings, pipeline=fake_pipeline):
        frame, wanted = outcome.analysis.frame, here[outcome.name]
        np.testing.assert_array_equal(frame.image, wanted.image)
        assert replace(frame, image=wanted.image) == wanted


def test_a_batch_that_is_too_large_is_halved_for_good(cohort, fake_pipeline, caplog) -> None:
    caplog.set_level(logging.WARNING, "spineline")
    reads = [(load_frame(case), 0.5) for case in find_cases(cohort)]
    analyse, sizes = type(fake_pipeline).analyse, []

    class Small:
        def analyse(self, frames):
            sizes.append(len(frames))
            if len(frames) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
            return analyse(fake_pipeline, frames)

    analyser = Analyser(Small(), 6)  # type: ignore[arg-type]
    outcomes = list(analyser(reads))
    assert [o.name for o in outcomes] == list("abcdef")
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert analyser.size == 1
    assert min(o.seconds for o in outcomes) > 0.5
    assert "memory ran out on a batch of 6 images: going on with 3" in caplog.text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA out of memory"), "the models failed: CUDA out of memory"),
        (ValueError("odd\n image"), "the models failed: odd image"),
        (IndexError("5"), "the models failed: IndexError: 5"),
        (MemoryError(), "the models failed: MemoryError"),
    ],
    ids=["memory", "value", "bug", "no memory here"],
)
def test_one_frame_that_the_models_fail_on(cohort, fake_pipeline, error, reason: str) -> None:
    analyse = type(fake_pipeline).analyse

    class Picky:
        settings = ModelSettings(batch=4)

        def analyse(self, frames):
            if any(frame.name == "c" for frame in frames):
                raise error
            return analyse(fake_pipeline, frames)

    failures = []
    done = [o.name for o in analyse_here(Picky(), find_cases(cohort), failures.append)]  # type: ignore[arg-type]
    assert done == list("abdef")
    ((name, told, kind),) = [(f.name, f.reason, f.kind) for f in failures]
    assert (name, told, kind) == ("c", reason, "models")


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_no_memory(error: Exception, yes: bool) -> None:
    assert out_of_memory(error) is yes


# Keys of the machine


@pytest.mark.parametrize(
    ("keys", "size", "half"),
    [
        ({}, 1, False),
        ({"device": "0"}, 32, True),
        ({"device": "cuda"}, 32, True),
        ({"device": "cuda:1", "half": False, "batch": 3}, 3, False),
        ({"device": "mps"}, 32, False),
        ({"device": "mps", "half": True}, 32, True),
        ({"batch": 16}, 16, False),
    ],
    ids=str,
)
def test_what_auto_means(keys: dict, size: int, half: bool) -> None:
    settings = ModelSettings(**keys)
    assert batch_size(settings) == size
    assert mixed_precision(settings) is half


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("batch=0", "batch=0: out of range, allowed 1 or more"),
        ("batch=many", "batch=many: wanted auto, or a number of images, 1 or more"),
        ("half=maybe", "half=maybe: wanted auto, true or false"),
        ("half=true", "half=true: the CPU computes in full precision; use half=auto"),
        ("device=gpu", "device=gpu: not a device; allowed: cpu, cuda, mps, or a number"),
        ("device=0,1", "device=0,1: wanted one device"),
        ("workers=-1", "workers=-1: out of range"),
        ("workers=some", "workers=some: wanted auto, or a number of processes, 0 or more"),
        ("timeout=0", "timeout=0.0: out of range"),
        ("max_memory=1", "max_memory=1: out of range"),
        ("engine=spark", "engine=spark: not an allowed value; allowed: local, ray"),
        ("retry=perhaps", "retry=perhaps: not a valid value, wanted true|false"),
    ],
    ids=lambda text: text if "=" in text and ":" not in text else "",
)
def test_values_that_are_none(tmp_path, run_cli, word: str, message: str) -> None:
    words = ("pipeline", "predict", f"source={tmp_path}", f"out={tmp_path / 'o'}", word)
    code, _, warned = run_cli(*words)
    assert code == 2
    assert message in warned
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("there", [True, False])
def test_apple_gpus(monkeypatch, there: bool) -> None:
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: there))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(backends=backends))
    if there:
        assert device_name(" MPS") == "mps"
        return
    with pytest.raises(ConfigError, match="no Apple GPU here; use device=cpu"):
        device_name("mps")


def test_val_knows_the_keys_too() -> None:
    with pytest.raises(ConfigError, match="half=true"):
        PipelineVal(data="d", out="o", half=True)  # type: ignore[arg-type]


def test_how_many_processes(cohort, tmp_path) -> None:
    assert workers_of(100, settings_of(cohort, tmp_path, workers=5)) == 5
    assert workers_of(3, settings_of(cohort, tmp_path, workers=5)) == 3
    assert workers_of(1, settings_of(cohort, tmp_path)) == 1
    assert workers_of(100, settings_of(cohort, tmp_path, workers=0)) == 0


@pytest.mark.parametrize(
    ("keys", "same"),
    [
        ({"batch": 4, "workers": 3, "timeout": 5.0, "retry": True, "trust": True}, True),
        ({"weights": "other"}, True),  # told by its SHA-256
        ({"half": False}, True),
        ({"to": ("coco",)}, True),  # of the cohort alone
        ({"to": ("tianchi",)}, False),
        ({"confidence": 0.3}, False),
        ({"overlay": False}, False),
        ({"device": "0"}, False),  # half=auto is mixed precision there
        ({"device": "0", "half": False}, True),
        ({"window": "none"}, False),
    ],
    ids=str,
)
def test_settings_that_change_results(cohort, tmp_path, keys: dict, same: bool) -> None:
    plain = results_hash(settings_of(cohort, tmp_path))
    assert len(plain) == 12
    assert (results_hash(settings_of(cohort, tmp_path, **keys)) == plain) is same


def test_labels_beside_predictions_count_by_their_content(cohort, tmp_path) -> None:
    def told(path) -> str:
        return results_hash(settings_of(cohort, tmp_path, compare=path))

    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text("[1]")
    second.write_text("[1]")
    before = told(first)
    assert told(second) == before
    second.write_text("[2]")
    assert told(second) != before
