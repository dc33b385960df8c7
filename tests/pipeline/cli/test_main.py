"""The command line: help, close matches, exit codes, settings files."""

from __future__ import annotations

import importlib
import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from spineline.datasets.common.settings import Settings, describe
from spineline.pipeline.cli import main as cli_main
from spineline.pipeline.cli.commands import COMMANDS, Command
from spineline.pipeline.cli.examples import EXAMPLES, example
from spineline.pipeline.cli.main import main, settings_from_words

RunCli = Callable[..., tuple[int, str, str]]

ALL = [
    pytest.param(task, mode, command, id=f"{task}-{mode}".rstrip("-"))
    for task, modes in COMMANDS.items()
    for mode, command in modes.items()
]
HEAVY = ("torch", "torchvision", "ultralytics", "timm", "cv2", "sklearn", "matplotlib")


def settings_class(command: Command) -> type[Settings]:
    module, _, name = command.settings.partition(":")
    found: type[Settings] = getattr(importlib.import_module(module), name)
    return found


def python(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def refused(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run what is refused with exit code 2 and writes nothing; what it says."""

    def run(*words: str) -> str:
        monkeypatch.chdir(tmp_path)
        code, output, errors = run_cli(*words)
        assert (code, output) == (2, "")
        assert list(tmp_path.iterdir()) == []
        return errors

    return run


@pytest.mark.parametrize("words", [(), ("help",), ("--help",), ("-h",)])
def test_overview_names_every_command(words: tuple[str, ...], run_cli: RunCli) -> None:
    code, output, errors = run_cli(*words)
    assert (code, errors) == (0, "")
    for task, modes in COMMANDS.items():
        for mode, command in modes.items():
            assert any(
                line.split()[: 1 + bool(mode)] == f"{task} {mode}".split()
                and line.endswith(command.summary)
                for line in output.splitlines()
            )
    assert "not a medical device" in output


@pytest.mark.parametrize(("task", "mode", "command"), ALL)
def test_help_lists_every_key(task: str, mode: str, command: Command, run_cli: RunCli) -> None:
    code, output, errors = run_cli(*f"{task} {mode}".split(), "help")
    assert (code, errors) == (0, "")
    lines = {line.split()[0]: line for line in output.splitlines() if line.startswith("  ")}
    keys = describe(settings_class(command))
    assert list(lines) == [key.name for key in keys]
    headings = [line.removesuffix(":") for line in output.splitlines()[1:] if line.endswith(":")]
    assert headings == list(dict.fromkeys(key.group for key in keys if key.group))
    for key in keys:
        line = lines[key.name]
        assert key.help
        assert key.type in line
        assert key.default in line
        assert line.endswith(key.help)


def test_every_command_has_an_example_and_no_other() -> None:
    known = {(task, mode) for task, modes in COMMANDS.items() for mode in modes}
    assert set(EXAMPLES) == known


@pytest.mark.parametrize(("task", "mode", "command"), ALL)
def test_examples_parse(task: str, mode: str, command: Command, run_cli: RunCli) -> None:
    """By the settings of the command; and it is the last line of its help."""
    line = run_cli(*f"{task} {mode}".split(), "help")[1].splitlines()[-1]
    assert line == f"example: {example(task, mode)}"
    words = shlex.split(line.removeprefix("example: "))
    assert words[: 2 + bool(mode)] == ["spineline", task, *filter(None, [mode])]
    settings_from_words(settings_class(command), words[2 + bool(mode) :])


@pytest.mark.parametrize("words", [["kfold"], ["demo"], ["detect", "train"]], ids=" ".join)
def test_help_before_or_after_a_command(words: list[str], run_cli: RunCli) -> None:
    assert run_cli("help", *words) == run_cli(*words, "help")


@pytest.mark.parametrize(
    ("words", "wanted", "unwanted"),
    [
        (["specificity"], ["keys:", "  specificity: call v5"], ["commands:"]),
        (["SPECIFICITY"], ["  specificity: call v5"], []),
        (["cross-validate"], ["commands:", "  kfold detect "], []),
        (["naming", "probability"], ["  min_naming_probability: "], ["  naming train "]),
        (["slices"], ["  slices: ", "    of pipeline predict, pipeline val"], ["naming calibrate"]),
    ],
    ids=" ".join,
)
def test_help_about_a_word(words, wanted, unwanted, run_cli: RunCli) -> None:
    code, output, errors = run_cli("help", *words)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    for start in wanted:
        assert any(line.startswith(start) for line in lines), output
    for start in unwanted:
        assert not any(line.startswith(start) for line in lines)


def test_help_about_a_word_starts_with_keys_of_that_name(run_cli: RunCli) -> None:
    lines = run_cli("help", "seed")[1].splitlines()
    keys = [line for line in lines[lines.index("keys:") + 1 :] if not line.startswith("    ")]
    named = ["seed" in line.partition(":")[0] for line in keys]
    assert named == sorted(named, reverse=True)
    assert not all(named)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("specificty", "did you mean 'specificity'?"), ("zzzz", "spineline help lists all commands")],
)
def test_help_about_nothing(refused, word: str, hint: str) -> None:
    assert refused("help", word) == f"error: help: nothing is about {word!r}; {hint}\n"


@pytest.mark.parametrize(
    ("words", "headings"),
    [
        ("detect train", ["data", "model", "training", "augmentation", "run"]),
        ("classify train", ["data", "model", "training", "augmentation", "run"]),
        ("kfold detect", ["data", "model", "training", "augmentation", "run"]),
        ("kfold classify", ["data", "model", "training", "augmentation", "run"]),
        ("kfold pipeline", ["data", "training", "run"]),
        ("pipeline predict", ["data", "model", "output", "run"]),
        ("pipeline val", ["data", "model", "output", "run"]),
        ("detect val", []),
    ],
)
def test_help_is_in_groups(words: str, headings: list[str], run_cli: RunCli) -> None:
    output = run_cli(*words.split(), "help")[1]
    assert [line[:-1] for line in output.splitlines()[1:] if line.endswith(":")] == headings


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("detect train", {"weights", "backbone_weights", "images", "hyp", "freeze", "yolo.KEY"}),
        ("classify train", {"weights", "pretrained", "align", "class_weights"}),
    ],
)
def test_help_shows_what_will_be_used(words: str, left: set[str], run_cli: RunCli) -> None:
    """``none`` stands where nothing is used, and nowhere for a recipe's value."""
    task, mode = words.split()
    keys = describe(settings_class(COMMANDS[task][mode]))
    assert {key.name for key in keys if key.default in ("none", "recipe")} == left


@pytest.mark.parametrize("task", [task for task, modes in COMMANDS.items() if "" not in modes])
def test_help_of_a_task_holds_its_modes(task: str, run_cli: RunCli) -> None:
    code, output, _ = run_cli(task, "help")
    assert code == 0
    for mode in COMMANDS[task]:
        assert f"spineline {task} {mode}:" in output
    assert run_cli(task)[1] == output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["detct"], "unknown task 'detct'; did you mean 'detect'?", id="task"),
        pytest.param(["zzz"], "unknown task 'zzz'; allowed: convert, data", id="task-far"),
        pytest.param(["data", "shwo"], "unknown mode data 'shwo'; did you mean 'show'?", id="mode"),
        pytest.param(
            ["data", "show", "dta=a", "out=b"], "unknown key 'dta'; did you mean 'data'?", id="key"
        ),
        pytest.param(
            ["data", "show", "data=a", "out=b", "part=tset"],
            "part=tset: not an allowed value; did you mean 'test'?",
            id="value",
        ),
        pytest.param(["data", "show", "data=a"], "missing out=…", id="missing-key"),
        pytest.param(["data", "show", "data"], "'data': wanted key=value", id="no-sign"),
        pytest.param(["data", "show", "data=a", "data=b"], "data=…: given twice", id="twice"),
        pytest.param(
            ["data", "show", "data=a", "out=b", "limit=some"],
            "limit=some: not a valid value, wanted int",
            id="type",
        ),
        pytest.param(
            ["data", "show", "data=a", "out=b", "limit=0"], "limit=0: out of range", id="range"
        ),
        pytest.param(
            ["data", "show", "data=a", "out=b", "boxes=maybe"], "wanted true|false", id="truth"
        ),
        pytest.param(["data", "show", "cfg=none.yaml"], "cfg=none.yaml: cannot be", id="no-cfg"),
        pytest.param(
            ["predict", "source=a"],
            "unknown task 'predict'; name a task first: spineline pipeline predict source=a or "
            "spineline detect predict source=a or spineline classify predict source=a",
            id="mode-alone",
        ),
        pytest.param(["train", "data=a"], "spineline detect train data=a", id="train-alone"),
        pytest.param(["val"], "name a task first: spineline pipeline val or", id="val-alone"),
        pytest.param(
            ["predict", "detect", "model=a"],
            "the task comes first: spineline detect predict model=a",
            id="swapped",
        ),
        pytest.param(["source=a"], "spineline pipeline predict source=a or", id="keys-alone"),
        pytest.param(["--source", "a"], "spineline pipeline predict source=a or", id="no-task"),
        pytest.param(
            ["detect", "data=a"], "name a mode first: spineline detect train,", id="no-mode"
        ),
        *(
            pytest.param(
                ["pipeline", "predict", *written], f"; write {meant}\n", id=" ".join(written)
            )
            for written, meant in [
                (["--source", "a", "out=b"], "source=a out=b"),
                (["--source=a", "-o", "b"], "source=a o=b"),
                (["source", "=", "a"], "source=a"),
                (["source", "=a"], "source=a"),
                (["source=", "a"], "source=a"),
                (["--overwrite", "--source", "a"], "overwrite=true source=a"),
                (["source=a", "--overwrite"], "source=a overwrite=true"),
            ]
        ),
        pytest.param(
            ["detect", "train", "project=a"],
            "unknown key 'project'; did you mean 'out'?",
            id="yolo",
        ),
        pytest.param(
            ["pipeline", "predict", "model=a"],
            "unknown key 'model'; did you mean 'weights'?",
            id="yolo's model",
        ),
        pytest.param(["demo", "ouut=a"], "unknown key 'ouut'; did you mean 'out'?", id="demo"),
    ],
)
def test_what_is_not_known_exits_2_and_writes_nothing(refused, words, message: str) -> None:
    errors = refused(*words)
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(("task", "mode", "command"), ALL)
def test_a_command_has_its_function_and_refuses_an_unknown_key(
    refused, task: str, mode: str, command: Command
) -> None:
    module, _, name = command.run.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    errors = refused(*f"{task} {mode}".split(), "nonsensical_key=1")
    assert "unknown key 'nonsensical_key'" in errors


def test_a_run_that_fails_exits_1(run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, errors = run_cli("data", "show", f"data={tmp_path / 'none'}", f"out={out}")
    assert code == 1
    assert "none: no such file or folder" in errors
    assert not out.exists()


def test_no_command_replaces_what_it_reads(run_cli: RunCli, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "run.yaml").touch()
    code, _, errors = run_cli("data", "stats", f"data={data}", f"out={data}", "overwrite=true")
    assert code == 2
    assert "which it would replace" in errors
    assert (data / "run.yaml").exists()


def test_settings_file_supplies_keys_and_the_command_line_wins(
    run_cli: RunCli, tmp_path: Path
) -> None:
    cfg = tmp_path / "own.yaml"
    content = {"data": str(tmp_path / "from-file"), "out": str(tmp_path / "out"), "limit": 3}
    cfg.write_text(yaml.safe_dump(content))
    code, _, errors = run_cli("data", "show", f"cfg={cfg}")
    assert code == 1
    assert "from-file" in errors
    code, _, errors = run_cli("data", "show", f"cfg={cfg}", f"data={tmp_path / 'from-words'}")
    assert code == 1
    assert "from-words" in errors
    assert "from-file" not in errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("limt: 3", "unknown key 'limt'; did you mean 'limit'?", id="key"),
        pytest.param("limit: many", "limit=many: not a valid value", id="value"),
        pytest.param("[1, 2]", "holds a list, wanted keys and values", id="list"),
        pytest.param("a: [", "cannot be read as YAML", id="yaml"),
    ],
)
def test_settings_files_that_are_wrong(
    run_cli: RunCli, tmp_path: Path, content: str, message: str
) -> None:
    cfg = tmp_path / "own.yaml"
    cfg.write_text(content)
    code, _, errors = run_cli("data", "show", "data=a", "out=b", f"cfg={cfg}")
    assert code == 2
    assert message in errors
    assert "own.yaml" in errors


@pytest.mark.parametrize("word", ["version", "--version"])
def test_version(run_cli: RunCli, word: str) -> None:
    from importlib.metadata import version

    assert run_cli(word)[:2] == (0, version("spineline") + "\n")


@pytest.mark.parametrize(
    "words",
    [
        ("help",),
        ("detect", "train", "help"),
        ("classify", "help"),
        ("pipeline", "help"),
        ("demo", "help"),
        ("help", "naming"),
        ("completion", "shell=bash"),
        ("weights", "list"),
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from spineline.pipeline.cli.main import main\n"
        "status = main()\n"
        f"found = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "sys.exit(f'imported: {found}' if found else status)\n"
    )
    done = python(code, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_callers_logger_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("spineline")
    handler = logging.NullHandler()
    log.addHandler(handler)
    before = (list(log.handlers), log.level, log.propagate)
    try:
        assert main(["nonsense"]) == 2
        assert (list(log.handlers), log.level, log.propagate) == before
    finally:
        log.removeHandler(handler)


@pytest.mark.slow
def test_a_reader_that_goes_away_costs_no_work(tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m spineline.pipeline.cli.main data phantom out=p n=3 slices=1 size=128"
    )
    done = subprocess.run(
        ["bash", "-c", f"{command} | true"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert (tmp_path / "p" / "annotations.json").is_file()


def test_half_characters_of_a_source_are_told_as_escapes(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    mark = {"identification": 0, "class": "null", "coord": [1, 2]}
    labels = json.dumps([{"id": "\ud800bad", "point": [mark]}])
    (tmp_path / "labels.json").write_text(labels, encoding="utf-8")
    words = ("data", "check", "annotations=labels.json", "images=frames", "out=out")
    done = subprocess.run(
        [sys.executable, "-m", "spineline.pipeline.cli.main", *words],
        check=False, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "\\ud800bad" in done.stdout
    assert json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["classify", "train", "help"], True),
        (["kfold", "pipeline", "help"], True),
        (["pipeline", "predict", "help"], False),
        ([], False),
    ],
)
def test_only_a_training_with_a_process_of_its_own_keeps_freed_memory(
    words: list[str], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(cli_main, "keep_freed_memory", lambda: calls.append(True))
    monkeypatch.setattr(sys, "argv", ["spineline", *words])
    assert cli_main.main() == 0
    assert bool(calls) == kept
    assert cli_main.main(words) == 0  # called from Python
    assert bool(calls) == kept
