"""Sections of pages that scripts write: Markdown between a pair of comments.

A section named ``heldout`` is between two lines of its own:

    <!-- spineline:heldout -->

    … what the script wrote …

    <!-- /spineline:heldout -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.files import write_bytes

_MARKER = re.compile(rb"^<!-- (/?)spineline:([^ \r\n]*) -->[ \t]*(?=\r?$)", re.MULTILINE)
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Section:
    """The position of a section in the bytes of its page.

    Attributes:
        begin: start of the line of the opening comment.
        end: end of the closing comment, without its line end.
        text: the content, without blank lines at its ends.
    """

    begin: int
    end: int
    text: str


def write_section(file: Path, name: str, text: str, *, title: str = "") -> None:
    """Replace a section of a page, or append it; all other bytes are unchanged.

    Args:
        file: the page; created if it does not exist.
        name: of the section: lower-case letters, digits and single hyphens.
        text: Markdown.
        title: heading of a new page, such as ``Results``.

    Raises:
        ConfigError: an invalid name, or a text that contains a section's comment itself.
        SpinelineError: the page's comments are not pairs, or it cannot be read or written.
    """
    check_name(name)
    if _MARKER.search(text.encode()):
        raise ConfigError(f"{file}: the text of section {name!r} holds a section's comment itself")
    body = text.strip("\n")
    block = f"<!-- spineline:{name} -->\n\n{body}\n\n<!-- /spineline:{name} -->".encode()
    if not file.exists():
        head = f"# {title}\n\n".encode() if title else b""
        write_bytes(file, head + block + b"\n")
        return
    page = _read(file)
    section = _sections(page, str(file)).get(name)
    if section is not None:
        write_bytes(file, page[: section.begin] + block + page[section.end :])
        return
    gap = b"" if not page or page.endswith(b"\n\n") else b"\n" if page.endswith(b"\n") else b"\n\n"
    write_bytes(file, page + gap + block + b"\n")


def read_sections(file: Path) -> dict[str, str]:
    """The texts of a page's sections by name, in the page's order.

    Raises:
        SpinelineError: the page's comments are not pairs, or it cannot be read.
    """
    return {name: found.text for name, found in _sections(_read(file), str(file)).items()}


def folded(summary: str, lines: Sequence[str]) -> list[str]:
    """Collapsed Markdown that opens on a click, on the site and on GitHub."""
    opened = f'<details markdown="1"><summary>{summary}</summary>'
    return [opened, "", *lines, "", "</details>"]


def check_name(name: str) -> None:
    """Refuse invalid names of sections.

    Raises:
        ConfigError: anything but lower-case letters, digits and single hyphens.
    """
    if not _NAME.fullmatch(name):
        msg = f"section={name}: wanted lower-case letters, digits and single hyphens"
        raise ConfigError(f"{msg}, such as section=heldout")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SpinelineError(f"{file}: cannot be read ({error.strerror or error})") from error


def _sections(page: bytes, where: str) -> dict[str, Section]:
    found: dict[str, Section] = {}
    opened: tuple[str, re.Match[bytes]] | None = None
    for match in _MARKER.finditer(page):
        name, line = match[2].decode("utf-8", "replace"), page.count(b"\n", 0, match.start()) + 1
        place = f"{where}:{line}: {match[0].decode('utf-8', 'replace').strip()!r}"
        if not match[1]:
            if opened is not None:
                raise SpinelineError(f"{place}: section {opened[0]!r} is not closed before it")
            if name in found:
                raise SpinelineError(f"{place}: the page has this section already; remove one")
            opened = name, match
            continue
        if opened is None or opened[0] != name:
            raise SpinelineError(f"{place}: closes a section that is not open; remove one of both")
        between = page[opened[1].end() : match.start()].decode("utf-8", "replace")
        found[name] = Section(opened[1].start(), match.end(), between.strip("\r\n"))
        opened = None
    if opened is not None:
        line = page.count(b"\n", 0, opened[1].start()) + 1
        wanted = f"<!-- /spineline:{opened[0]} -->"
        raise SpinelineError(f"{where}:{line}: section {opened[0]!r} is never closed by {wanted!r}")
    return found
