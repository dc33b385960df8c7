"""The README and the pages of ``docs``: commands, links, navigation, and English."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import yaml

from spineline.datasets.common.settings import Settings, describe, parse_settings
from spineline.pipeline.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CODE_OF_CONDUCT.md",
    "SECURITY.md",
    *(f"docs/{name}" for name in DOCS),
)
SHELL = ("sh", "bash", "console")
GENERATED = re.compile(r"<!-- spineline:(\S+) -->.*?<!-- /spineline:\1 -->", re.DOTALL)
"""Sections of a page that benchmarks write."""

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page, and why it is not run, if it is not."""

    language: str
    text: str
    reason: str | None


def text_of(page: str) -> str:
    return GENERATED.sub("", (ROOT / page).read_text(encoding="utf-8"))


def blocks(page: str) -> list[Block]:
    return [
        Block(found["language"], found["text"], found["reason"])
        for found in BLOCK.finditer(text_of(page))
    ]


def shell_lines(page: str) -> Iterator[str]:
    """Lines of fenced and of indented shell blocks, continued lines joined."""
    for block in blocks(page):
        if block.language in (*SHELL, ""):
            yield from block.text.replace("\\\n", " ").splitlines()
    for line in BLOCK.sub("", text_of(page)).replace("\\\n", " ").splitlines():
        if line.startswith("    "):
            yield line.strip()


def environment() -> dict[str, str]:
    """The environment with the scripts of this Python first."""
    folder = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def spineline_commands() -> list[str]:
    found = [
        part.strip()
        for page in PAGES
        for line in shell_lines(page)
        for part in re.split(r"&&|;|\|(?!\w)|\s#", line)
        if part.strip().startswith("spineline ")
    ]
    return list(dict.fromkeys(found))


def mentioned_commands() -> list[str]:
    """Commands within a sentence or a table, which may leave keys out."""
    texts = [BLOCK.sub("", text_of(page)) for page in PAGES]
    found = [command for text in texts for command in re.findall(r"`(spineline [^`]+)`", text)]
    return list(
        dict.fromkeys(line for line in found if re.match(r"spineline [a-z]+( [a-z]|$)", line))
    )


def spec_of(path: Path) -> ModuleSpec:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    return spec


def settings_and_values(line: str) -> tuple[type[Settings], dict[str, str]]:
    """Settings of the task and mode of a command, and its values by key."""
    words = shlex.split(line)[1:]
    modes = COMMANDS[words[0]]
    mode, keys = ("", words[1:]) if "" in modes else (words[1], words[2:])
    module, _, name = modes[mode].settings.partition(":")
    values = dict(word.split("=", 1) for word in keys if word != "…")
    return getattr(importlib.import_module(module), name), values


@pytest.mark.parametrize("line", spineline_commands())
def test_commands_on_the_pages_are_real(line: str) -> None:
    """Task, mode, keys and values of each command parse as the command line parses them."""
    if line.endswith((" help", " version")):
        test_mentioned_commands_exist(line)
        return
    settings, values = settings_and_values(line)
    if "…" in line:
        assert set(values) <= {key.name for key in describe(settings)}
    else:
        parse_settings(settings, values)


@pytest.mark.parametrize("line", mentioned_commands())
def test_mentioned_commands_exist(line: str) -> None:
    words = [word for word in line.split()[1:] if word not in ("help", "version")]
    if not words or (words == [words[0]] and words[0] in COMMANDS):
        return
    settings, values = settings_and_values(" ".join(["spineline", *words]))
    assert set(values) <= {key.name for key in describe(settings)}


def test_the_command_line_page_has_every_command_and_key() -> None:
    hooks = importlib.util.module_from_spec(spec := spec_of(ROOT / "docs/hooks.py"))
    assert spec.loader is not None
    spec.loader.exec_module(hooks)
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    sections = hooks.on_page_markdown(page).split("\n## ")[1:]
    modes = [(task, mode) for task, modes in COMMANDS.items() for mode in modes]
    assert len(sections) == len(modes)
    for section, (task, mode) in zip(sections, modes, strict=True):
        assert section.splitlines()[0] == f"{task} {mode}".strip()
        settings, _ = settings_and_values(f"spineline {task} {mode}")
        keys = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert keys == [key.name for key in describe(settings)]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert not wrong


def test_every_page_is_in_the_navigation_once() -> None:
    def leaves(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            for value in node.values():
                yield from leaves(value)
        elif isinstance(node, list):
            for value in node:
                yield from leaves(value)

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(leaves(config["nav"])) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def test_every_extra_is_explained() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    page = (ROOT / "docs/getting_started.md").read_text(encoding="utf-8")
    table = page.split("## Extras")[1].split("## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = re.findall(r"`([\w-]+)`", " ".join(cells))
    assert sorted(named) == sorted(parser["options.extras_require"])


def test_the_readme_is_one_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 12_000


def test_numbers_of_the_readme_stand_on_the_results_page() -> None:
    """Values with their intervals, as they were printed, to the digits that the README gives."""
    results, limits = (
        (ROOT / page).read_text(encoding="utf-8")
        for page in ("docs/results.md", "docs/grade_limits.md")
    )
    printed = {
        (str(Decimal(value).quantize(Decimal("0.001"), ROUND_HALF_UP)), low, high)
        for value, low, high in re.findall(r"(0\.\d{4}) \| (\d\.\d{3}) – (\d\.\d{3})", results)
    } | set(re.findall(r"(0\.\d{3}) \((\d\.\d{3}) – (\d\.\d{3})\)", limits))
    for page in ("README.md", "docs/known_failures.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        shown = re.findall(r"(0\.\d{3}) \((\d\.\d{3}) – (\d\.\d{3})\)", text)
        assert shown
        assert not set(shown) - printed, page


# What a page's unmarked blocks say is done, in a folder of its own.


def runnable(page: str) -> list[list[str]]:
    commands = []
    for block in blocks(page):
        if block.reason is None and block.language in SHELL:
            commands.append(["bash", "-ec", block.text])
        elif block.reason is None and block.language == "python":
            commands.append([sys.executable, "-c", block.text])
    return commands


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "phantoms"
    words = ("data", "phantom", f"out={folder}", "n=3")
    subprocess.run([Path(sys.executable).with_name("spineline"), *words], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_what_a_page_shows_runs(page: str, tmp_path: Path, phantoms: Path) -> None:
    text = text_of(page)
    if "tour/phantoms" in text and "out=tour/phantoms" not in text:
        shutil.copytree(phantoms, tmp_path / "tour" / "phantoms")
    for command in runnable(page):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])


def test_getting_started_is_run_whole() -> None:
    """A mark too many would leave the tour untested."""
    shown = "\n".join(" ".join(command) for command in runnable("docs/getting_started.md"))
    assert shown.count("\nspineline ") >= 10
    assert "Pipeline.load()" in shown


# English: the field's words, and sentences that can be read in one go.

WORDS_PER_SENTENCE = 30
PRIVATE = re.compile(
    r"\b(rooms?|house|rungs?|told|lanes?|telling|(gone|goes|going|go) on with|in silence"
    r"|but a guess)\b",
    re.IGNORECASE,
)
RECORDS = {"docs/benchmarks.md", "CONTRIBUTING.md"}
"""Pages of what was measured or agreed, whose sentences stand as they were noted."""


def prose(page: str) -> str:
    """The words of a page: no code, no tables, no links' addresses, no comments."""
    text = BLOCK.sub("", text_of(page))
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    kept = []
    for line in text.splitlines():
        if line.startswith(("|", "    ", "```", ":::")):
            kept.append("")
        elif line.startswith("#"):
            kept += ["", f"{line.lstrip('# ')}.", ""]
        else:
            kept.append(re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n", line))
    text = "\n".join(kept)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"`[^`]*`", "CODE", text)


def sentences(page: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", prose(page)):
        for sentence in re.split(r"(?<=[.!?:;])\**\s+", " ".join(paragraph.split())):
            if sentence:
                yield sentence


def test_help_is_without_private_words() -> None:
    """Summaries of commands and the help of their keys, which the page of commands shows."""
    texts = {command.summary for modes in COMMANDS.values() for command in modes.values()}
    for task, modes in COMMANDS.items():
        for mode in modes:
            settings, _ = settings_and_values(f"spineline {task} {mode}")
            texts |= {key.help for key in describe(settings)}
    assert len(texts) > 300
    assert not [text for text in texts if PRIVATE.search(text)]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RECORDS])
def test_sentences_are_short_and_without_private_words(page: str) -> None:
    wrong = [
        sentence
        for sentence in sentences(page)
        if len(re.findall(r"[\w'’-]+", sentence)) > WORDS_PER_SENTENCE or PRIVATE.search(sentence)
    ]
    assert not wrong, "\n".join(wrong)
