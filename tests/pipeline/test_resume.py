"""``pipeline predict`` over a cohort: goes on, tries again, survives being killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.predictions import RESULT_SCHEMAS
from spineline.pipeline.run import predict as command
from spineline.pipeline.run.predict import StoredResults, predict
from spineline.pipeline.run.settings import PipelinePredict

HERE = Path(__file__).parent

LIGHT = f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
from types import SimpleNamespace
from conftest import ShadeClassifier, SpotDetector
from spineline.pipeline.run import predict as command
from spineline.pipeline.cli.main import main
from spineline.pipeline.inference.pipeline import Pipeline

class Slow(SpotDetector):
    def detect(self, images, **keys):
        time.sleep(0.03)
        return super().detect(images, **keys)

def from_settings(cls, settings):
    return Pipeline(Slow(), ShadeClassifier(), "fake", "0" * 64, settings)

Pipeline.from_settings = classmethod(from_settings)
command.bundle_of = lambda settings: SimpleNamespace(
        sha256="0" * 64, detector=SimpleNamespace(sha256=""), classifiers=(), namer=None
    )
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture
def cohort(tmp_path, abc, monkeypatch) -> Path:
    shutil.copytree(abc, tmp_path / "cohort")
    monkeypatch.chdir(tmp_path)
    return Path("cohort")


@pytest.fixture
def go(cohort, fake_models, run_cli):
    """Run the command with words; (code, output, errors, names of the studies that were done)."""

    def run(*words: str):
        fake_models.clear()
        seen: list[str] = []
        code, said, warned = run_cli("pipeline", "predict", "source=cohort", "out=o", *words)
        for line in said.splitlines():
            if " of 11 levels" in line:
                seen.append(line.split(":")[0])
        return SimpleNamespace(code=code, said=said, warned=warned, done=sorted(seen))

    return run


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def bytes_of(out: Path) -> dict[str, bytes]:
    """Every file but the manifest, which says how long things took."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in files
        if path.name != "manifest.jsonl"
    }


# Again


def test_what_is_done_is_not_done_again(go, fake_models) -> None:
    assert go().done == ["a", "b", "c"]
    before = bytes_of(Path("o"))
    again = go()
    assert (again.code, again.done) == (0, [])
    assert fake_models == []  # not even models were loaded
    assert "done earlier       3" in again.said
    assert "3 studies done, 0 failed" in again.said
    assert bytes_of(Path("o")) == before
    assert len(lines_of(Path("o"))) == 3


def test_results_of_the_first_layout_are_gone_on_with(go, fake_models) -> None:
    """There, warnings were lines of text."""
    words = ("min_naming_probability=1",)
    go(*words)
    table, paths = Path("o/results.csv").read_bytes(), sorted(Path("o").glob("*/result.json"))
    for path in paths:
        content = json.loads(path.read_text())
        lines = [f"{each['code']}: {each['text']}" for each in content["warnings"]]
        assert lines
        path.write_text(json.dumps({**content, "schema": RESULT_SCHEMAS[1], "warnings": lines}))
    assert go(*words).done == []
    assert fake_models == []
    assert Path("o/results.csv").read_bytes() == table


def test_the_manifest_says_what_was_done_with_what(go) -> None:
    go()
    (line, *_) = lines_of(Path("o"))
    assert (line["study"], line["status"], line["reason"]) == ("a", "done", "")
    assert line["weights"] == "0" * 64
    assert line["version"]
    assert line["seconds"] > 0


def test_a_new_study_is_done_and_an_unbroken_run_gives_the_same(go, make_study, run_cli) -> None:
    go()
    make_study(Path("cohort/B2"))
    again = go()
    assert again.done == ["B2"]
    assert "3 studies done, 1 left" in again.said
    gone_on = bytes_of(Path("o"))
    go("overwrite=true")
    assert bytes_of(Path("o")) == gone_on


def _weights(monkeypatch) -> None:
    monkeypatch.setattr(
        command,
        "bundle_of",
        lambda settings: SimpleNamespace(
            sha256="1" * 64, detector=SimpleNamespace(sha256=""), classifiers=(), namer=None
        ),
    )


def _version(monkeypatch) -> None:
    monkeypatch.setattr(command, "package_version", lambda: "99")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(_weights, (), id="weights"),
        pytest.param(_version, (), id="version"),
        pytest.param(lambda _: None, ("confidence=0.4",), id="settings"),
        pytest.param(lambda _: None, ("overlay=false",), id="files of a study"),
    ],
)
def test_a_study_is_done_again_when_what_it_was_done_with_changes(
    go, monkeypatch, change, words: tuple[str, ...]
) -> None:
    go()
    change(monkeypatch)
    assert go(*words).done == ["a", "b", "c"]
    assert go(*words).done == []
    assert len(lines_of(Path("o"))) == 6
    assert (Path("o/a/overlay.png").exists()) is (words != ("overlay=false",))


def test_how_it_is_run_makes_no_difference(go) -> None:
    go()
    assert go("batch=3", "workers=0", "timeout=5", "max_memory=100", "seed=4").done == []


def _touched(study: Path) -> None:
    os.utime(study / "im1", ns=(1, 1))


def _fewer(study: Path) -> None:
    (study / "im2").unlink()


def _beside(study: Path) -> None:
    (study / "notes.txt").write_text("told of in the log")


@pytest.mark.parametrize("change", [_touched, _fewer, _beside])
def test_a_study_is_done_again_when_its_files_change(go, change) -> None:
    go()
    change(Path("cohort/b"))
    assert go().done == ["b"]


@pytest.mark.parametrize("name", ["result.json", "log.txt"])
def test_a_study_whose_files_were_taken_away_is_done_again(go, name: str) -> None:
    go()
    before = bytes_of(Path("o"))
    (Path("o/b") / name).unlink()
    assert go().done == ["b"]
    assert bytes_of(Path("o")) == before


def test_a_study_that_is_gone_stays_and_is_told_of(go) -> None:
    go()
    for path in Path("cohort/b").iterdir():
        path.unlink()
    Path("cohort/b").rmdir()
    again = go()
    assert again.code == 0
    assert "1 studies of earlier runs into o are not in source=cohort" in again.warned
    assert Path("o/b/result.json").exists()
    assert "\nb," not in Path("o/results.csv").read_text()


def test_files_of_the_cohort_are_written_again_as_asked_for(go) -> None:
    go()
    assert go("to=coco").done == []
    names = {path.name for path in Path("o").iterdir()}
    assert any("coco" in name for name in names)


def test_a_run_that_goes_on_keeps_what_it_was_asked_to_write(go, make_study) -> None:
    """Else files of an earlier command would stay, and tell of other studies than the rest."""
    go("to=coco,report")
    make_study(Path("cohort/d"))
    again = go("to=page")
    assert again.done == ["d"]
    assert "to=coco,report: kept from the earlier run into o" in again.said
    files = {
        image["file_name"] for image in json.loads(Path("o/coco_images.json").read_text())["images"]
    }
    assert len(files) == 4
    assert all(Path(f"o/{name}/report.html").exists() for name in "abcd")
    assert Path("o/index.html").exists()
    assert yaml.safe_load(Path("o/run.yaml").read_text())["settings"]["to"] == [
        "page", "coco", "report",
    ]  # fmt: skip
    go("to=coco", "overwrite=true")
    assert not Path("o/index.html").exists()


# Failures


def test_failures_are_kept_and_tried_again_when_asked(go, make_study) -> None:
    make_study(Path("cohort/even"), np.full((150, 120), 7, np.uint8))
    first = go()
    assert first.code == 1
    assert (
        "failed             1\n  reading          1  could not be read, such as even" in first.said
    )
    again = go()
    assert (again.code, again.done) == (1, [])
    assert "error: even: " in again.warned
    assert "retry=true tries again" in again.warned
    assert [line["status"] for line in lines_of(Path("o"))].count("failed") == 1
    once_more = go("retry=true")
    assert once_more.code == 1
    assert [line["status"] for line in lines_of(Path("o"))].count("failed") == 2
    assert "retry" not in once_more.warned
    make_study(Path("cohort/even"))  # mended: another file, so that it needs no asking
    mended = go()
    assert (mended.code, mended.done) == (0, ["even"])
    assert yaml.safe_load(Path("o/run.yaml").read_text())["failures"] == []


def test_a_study_that_fails_now_leaves_no_older_result(go, make_study) -> None:
    go()
    make_study(Path("cohort/b"), np.full((150, 120), 7, np.uint8))
    assert go().code == 1
    assert not Path("o/b").exists()
    assert Path("o/a").exists()


def test_a_study_that_cannot_be_written(go, monkeypatch) -> None:
    write = command.write_study_extras

    def extras(folder, analysis, settings):
        if analysis.frame.name == "b":
            raise ZeroDivisionError("a bug")
        write(folder, analysis, settings)

    monkeypatch.setattr(command, "write_study_extras", extras)
    run = go()
    assert (run.code, run.done) == (1, ["a", "c"])
    assert "error: b: its files could not be written: ZeroDivisionError: a bug" in run.warned
    assert lines_of(Path("o"))[1]["kind"] == "writing"
    assert not list(Path("o").rglob(".*"))


def test_a_full_disk_ends_the_run_and_it_goes_on_later(go, monkeypatch) -> None:
    write = command.write_study

    def full(folder, analysis, **keys):
        if analysis.frame.name == "b":
            raise OSError(28, "No space left on device")
        write(folder, analysis, **keys)

    monkeypatch.setattr(command, "write_study", full)
    run = go()
    assert run.code == 1
    assert "No space left on device" in run.warned
    kept = {line["study"] for line in lines_of(Path("o"))}
    assert kept in ({"a"}, {"a", "c"})  # what was under way may have found room
    assert not Path("o/b").exists()
    monkeypatch.setattr(command, "write_study", write)
    assert go().done == sorted({"a", "b", "c"} - kept)


def test_an_engine_that_loses_a_study(go, monkeypatch) -> None:
    run = command.load_engine("local")

    def lossy(cases, settings):
        for outcome in run(cases, settings):
            if outcome.name != "b":
                yield outcome

    monkeypatch.setattr(command, "load_engine", lambda name: lossy)
    found = go()
    assert (found.code, found.done) == (1, ["a", "c"])
    assert "error: b: the engine ended without an outcome of it" in found.warned


def test_the_order_of_outcomes_makes_no_difference(go, monkeypatch) -> None:
    go()
    run = command.load_engine("local")
    before = bytes_of(Path("o"))
    monkeypatch.setattr(
        command,
        "load_engine",
        lambda name: lambda cases, settings: (o for o in reversed(list(run(cases, settings)))),
    )
    assert go("overwrite=true").done == ["a", "b", "c"]
    assert [line["study"] for line in lines_of(Path("o"))] == ["c", "b", "a"]
    assert bytes_of(Path("o")) == before


# The folder


def test_two_at_a_time(go, fake_models) -> None:
    go()
    with command.open_manifest(Path("o/manifest.jsonl")):
        for words in ((), ("overwrite=true",)):
            second = go(*words)
            assert second.code == 1
            assert "another process is running there; wait, or choose" in second.warned
    assert Path("o/results.csv").exists()


def test_leftovers_of_a_killed_run_are_cleared(go) -> None:
    go()
    before = bytes_of(Path("o"))
    (Path("o") / ".b.x1.partial").mkdir()
    (Path("o") / ".b.x1.partial" / "result.json").write_text("half")
    (Path("o") / ".results.csv.x2.partial").write_text("half")
    (Path("o") / ".b.x3.old" / "b").mkdir(parents=True)
    go()
    assert bytes_of(Path("o")) == before
    assert not list(Path("o").glob(".*"))


def test_starting_anew(go) -> None:
    go()
    (Path("o") / "mine.txt").write_text("gone")
    assert go("overwrite=true").done == ["a", "b", "c"]
    assert not (Path("o") / "mine.txt").exists()
    assert len(lines_of(Path("o"))) == 3
    assert yaml.safe_load(Path("o/run.yaml").read_text())["settings"]["overwrite"] is False


@pytest.mark.slow
def test_results_inside_the_source_are_not_looked_into(cohort, fake_models, run_cli) -> None:
    words = ("pipeline", "predict", "source=cohort")
    assert run_cli(*words, "out=cohort/first", "to=sr,sc")[0] == 0
    code, said, _ = run_cli(*words, "out=cohort/first", "to=sr,sc")
    assert code == 0
    assert "done earlier       3" in said
    code, said, _ = run_cli(*words, "out=second")
    assert code == 0
    assert "cohort/first: results of an earlier run, not searched" in said
    assert "3 studies done, 0 failed" in said
    assert "sr.dcm" not in Path("second/log.txt").read_text()


def test_studies_named_like_files_of_the_run(go, make_study) -> None:
    for name in ("log.txt", "manifest.jsonl", "Results.CSV"):
        make_study(Path("cohort") / name)
    found = go()
    named = ["Results.CSV_study", "a", "b", "c", "log.txt_study", "manifest.jsonl_study"]
    assert (found.code, found.done) == (0, named)
    assert sorted(path.name for path in Path("o").iterdir() if path.is_dir()) == named
    assert go().done == []


# From Python


def test_results_are_read_when_they_are_asked_for(tmp_path, cohort, fake_pipeline) -> None:
    settings = PipelinePredict(source=cohort, out=tmp_path / "o", workers=0)
    found = predict(settings, pipeline=fake_pipeline)
    assert isinstance(found.results, StoredResults)
    assert len(found.results) == 3
    assert found.results[0][0] == "a"
    assert [name for name, _ in found.results[1:]] == ["b", "c"]
    assert {len(result.structures) for _, result in found.results} == {11}
    assert [name for name, _ in found.results] == ["a", "b", "c"]  # again
    (tmp_path / "o" / "a" / "result.json").unlink()
    with pytest.raises(SpinelineError, match="cannot be read"):
        _ = found.results[0]
    with pytest.raises(IndexError):
        _ = found.results[3]
    assert (found.failures, found.skipped) == ((), 0)


def test_a_user_who_ends_the_run(go, monkeypatch) -> None:
    run = command.load_engine("local")

    def ended(cases, settings):
        outcomes = run(cases, settings)
        yield next(outcomes)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load_engine", lambda name: ended)
    found = go("to=report")
    assert found.code == 130
    assert "interrupted: 1 of 3 studies were done in this run and are kept in o" in found.warned
    assert Path("o/run.yaml").exists()
    monkeypatch.setattr(command, "load_engine", lambda name: run)
    again = go()
    assert again.done == ["b", "c"]
    assert "to=report: kept from the earlier run into o" in again.said
    assert all(Path(f"o/{name}/report.html").exists() for name in "abc")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_flat(
    tmp_path, cohort, fake_pipeline, make_study, monkeypatch, workers: int
) -> None:
    """No analysis is kept: of many, those at work and waiting to be written are alive."""
    for n in range(27):
        make_study(cohort / f"d{n}", slices=1)
    whole, alive, most = command.engine_local.run, list[weakref.ref](), 0

    def watched(cases, settings, *, pipeline):
        nonlocal most
        for outcome in whole(cases, settings, pipeline=pipeline):
            alive.append(weakref.ref(outcome.analysis.frame.image))
            most = max(most, sum(image() is not None for image in alive))
            yield outcome
            del outcome

    monkeypatch.setattr(command.engine_local, "run", watched)
    settings = PipelinePredict(source=cohort, out=tmp_path / "o", workers=workers)
    found = predict(settings, pipeline=fake_pipeline)
    assert len(found.results) == len(alive) == 30
    assert most <= 24


# Killed


def _start(script: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(script), "pipeline", "predict", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=script.parent,
        preexec_fn=_heeds_ctrl_c if os.name == "posix" else None,  # noqa: PLW1509 - one thread
    )


def _heeds_ctrl_c() -> None:
    """What runs in the background may ignore it, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)


def _assert_as_never_killed(script: Path, words: list[str]) -> None:
    """What is in ``killed`` beside the script is what a run leaves that is let alone."""
    with _start(script, "out=whole", *words) as process:
        assert process.wait() == 0
    killed, whole = bytes_of(script.parent / "killed"), bytes_of(script.parent / "whole")
    record = whole.pop("run.yaml").replace(b"out: whole", b"out: killed")
    assert killed.pop("run.yaml") == record
    assert killed == whole


def _killed_then_resumed(script: Path, kills: int, seed: int, words: list[str]) -> list[str]:
    """Kill a run some times at random moments, then let it end; the studies of each line."""
    chance = random.Random(seed)
    manifest = script.parent / "killed" / "manifest.jsonl"
    for _ in range(kills):
        before = manifest.read_bytes().count(b"\n") if manifest.exists() else 0
        with _start(script, "out=killed", *words) as process:
            _wait_for_lines(manifest, before + chance.randint(1, 2), process)
            time.sleep(chance.random() * 0.1)
            process.send_signal(signal.SIGKILL)
    with _start(script, "out=killed", *words) as process:
        assert process.wait() == 0, process.stderr.read()
    return [line["study"] for line in lines_of(script.parent / "killed")]


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
@pytest.mark.parametrize(
    ("seed", "workers"),
    [pytest.param(n, n % 3, marks=pytest.mark.slow) for n in range(1, 4)],
)
def test_killed_at_any_moment_it_goes_on(tmp_path, make_study, seed: int, workers: int) -> None:
    for n in range(10):
        make_study(tmp_path / "cohort" / f"s{n}", slices=1)
    script = tmp_path / "light.py"
    script.write_text(LIGHT)
    words = ["source=cohort", f"workers={workers}"]
    studies = _killed_then_resumed(script, 1 if seed == 1 else 2, seed, words)
    assert sorted(set(studies)) == [f"s{n}" for n in range(10)]
    assert len(studies) <= 12  # what was finished was not done again
    _assert_as_never_killed(script, words)


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_ctrl_c(tmp_path, make_study) -> None:
    for n in range(30):
        make_study(tmp_path / "cohort" / f"s{n:02d}", slices=1)
    script = tmp_path / "light.py"
    script.write_text(LIGHT.replace("0.03", "0.3"))  # not done before the signal is there
    with _start(script, "source=cohort", "out=o", "workers=1") as process:
        _wait_for_lines(tmp_path / "o" / "manifest.jsonl", 2, process)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        told = process.stderr.read().decode()
    assert "run the same command again to go on" in told
    assert "Traceback" not in told
    assert not list((tmp_path / "o").glob(".*"))
    assert 2 <= len(lines_of(tmp_path / "o")) < 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_with_the_real_networks(tmp_path, run_cli) -> None:
    words = ("n=8", "slices=3", "format=dicom", "size=256")
    assert run_cli("data", "phantom", f"out={tmp_path / 'ph'}", *words)[0] == 0
    script = tmp_path / "real.py"
    script.write_text("import sys; from spineline.pipeline.cli.main import main; sys.exit(main())")
    words = ["source=ph/studies", "to=tianchi,coco"]
    studies = _killed_then_resumed(script, 3, 0, words)
    assert len(set(studies)) == 8
    _assert_as_never_killed(script, words)
