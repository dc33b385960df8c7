"""``spineline completion``: real shells are asked what they would complete."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spineline.datasets.common.settings import describe
from spineline.pipeline.cli.commands import COMMANDS
from spineline.pipeline.cli.completion import completion_script
from spineline.pipeline.cli.help import load_named

Complete = Callable[[str], list[str]]

BASH = """
source {script}
complete -p spineline >&2
COMP_LINE={line}
COMP_POINT=${{#COMP_LINE}}
COMP_WORDBREAKS={breaks}
_spineline
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSHRC = """
PS1=
unsetopt beep
autoload -Uz compinit
compinit -u -D
source {script}
spineline() {{ }}
compadd() {{
    local -a hits
    builtin compadd -A hits "$@"
    print -rl -- $hits >> {found}
}}
"""
"""What zsh would add it writes into a file."""


def ask(shell: list[str], program: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [*shell, program], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def ask_zsh(program: str, line: str, script: Path, folder: Path) -> list[str]:
    """Type the line and a tab into an interactive zsh on a terminal of its own."""
    pty = pytest.importorskip("pty")
    home, found = folder.parent / "zsh", folder.parent / "found"
    home.mkdir(exist_ok=True)
    found.write_text("")
    (home / ".zshrc").write_text(ZSHRC.format(script=script, found=found))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [program, "-d", "-i"], cwd=folder, env={"ZDOTDIR": str(home), "TERM": "dumb"},
        stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        os.write(ours, f"{line}\t\nexit\n".encode())
        process.wait(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
        os.close(theirs)
        os.close(ours)
    return [text for text in found.read_text().splitlines() if text]


@pytest.fixture(params=["bash", "bash-whole-words", "zsh", "fish"])
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Complete:
    """What a shell offers after a line, each as the whole of the last word."""
    shell = request.param.partition("-")[0]
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    script = tmp_path / "script"
    script.write_text(completion_script(shell), encoding="utf-8")
    folder = tmp_path / "work"
    (folder / "studies").mkdir(parents=True)
    (folder / "stu dy.json").touch()

    def offered(line: str) -> list[str]:
        last = line.rsplit(" ", maxsplit=1)[-1]
        before = last[: last.rfind("=") + 1]
        if shell == "fish":
            text = f"source {script}; complete -C {shlex.quote(line)}"
            found = ask([program, "--no-config", "-c"], text, folder)
            return sorted(found)
        if shell == "zsh":
            before = last[: max(last.rfind("="), last.rfind(",")) + 1]
            return sorted(before + word for word in ask_zsh(program, line, script, folder))
        breaks = "$' \\t\\n'" if request.param == "bash-whole-words" else "$' \\t\\n=:'"
        text = BASH.format(script=script, line=shlex.quote(line), breaks=breaks)
        found = ask([program, "--norc", "-c"], text, folder)
        if request.param == "bash-whole-words":
            before = ""
        return sorted(before + word for word in found)

    return offered


def test_tasks(complete: Complete) -> None:
    assert complete("spineline ") == sorted([*COMMANDS, "help", "version"])
    assert complete("spineline cl") == ["classify"]


def test_modes(complete: Complete) -> None:
    assert complete("spineline pipeline ") == sorted([*COMMANDS["pipeline"], "help"])
    assert complete("spineline kfold d") == ["detect"]
    assert complete("spineline help kfold d") == ["detect"]


def test_keys_but_for_those_given(complete: Complete) -> None:
    keys = {k.name for k in describe(load_named(COMMANDS["data"]["stats"].settings))}
    line = "spineline data stats data=lumbar "
    assert complete(line) == sorted([*(f"{k}=" for k in keys - {"data"}), "cfg=", "help"])
    assert complete("spineline data stats ov") == ["overwrite="]
    assert complete("spineline demo se") == ["seed="]
    assert complete("spineline detect train yo") == ["yolo."]


def test_values(complete: Complete) -> None:
    assert complete("spineline data show part=") == [
        "part=all", "part=test", "part=train", "part=val",
    ]  # fmt: skip
    assert complete("spineline data show part=t") == ["part=test", "part=train"]
    assert complete("spineline demo overwrite=t") == ["overwrite=true"]


def test_values_after_a_comma(complete: Complete) -> None:
    found = complete("spineline convert tianchi to=voc,c")
    assert found == ["to=voc,coco"]


def test_files(complete: Complete) -> None:
    found = complete("spineline pipeline predict source=stu")
    assert {word.rstrip("/").replace("\\", "") for word in found} == {
        "source=studies", "source=stu dy.json",
    }  # fmt: skip


def test_nothing_where_nothing_fits(complete: Complete) -> None:
    assert complete("spineline data zzz") == []
    assert complete("spineline no-such-task ") == []


def test_the_command_prints_the_script(run_cli) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert run_cli("completion", f"shell={shell}") == (0, completion_script(shell) + "\n", "")
    code, _, errors = run_cli("completion", "shell=tcsh")
    assert code == 2
    assert "allowed: bash, zsh, fish" in errors
