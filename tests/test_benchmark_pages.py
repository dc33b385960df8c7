from __future__ import annotations

from pathlib import Path

import pytest
from pages import read_sections, write_section

from spineline.datasets.common.errors import ConfigError, SpinelineError


def block(name: str, text: str) -> str:
    return f"<!-- spineline:{name} -->\n\n{text}\n\n<!-- /spineline:{name} -->"


def test_a_new_page_holds_title_and_section(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    table = "| a |\n|---|"
    write_section(page, "one", f"{table}\n", title="Results")
    assert page.read_text() == f"# Results\n\n{block('one', table)}\n"
    write_section(page, "two", "second", title="Not used")
    assert page.read_text() == (f"# Results\n\n{block('one', table)}\n\n{block('two', 'second')}\n")
    assert read_sections(page) == {"one": table, "two": "second"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"# By hand\r\n\r\nwords \xff\xfe no UTF-8  \r\n", b"\r\ntail without line end"),
        (b"\xef\xbb\xbf# BOM\n", b"\n\n\n  more\n\n"),
        (f"{block('other', 'kept')}\n\n".encode(), f"\n\n{block('last', 'kept')}".encode()),
    ],
    ids=["alone", "windows", "bom", "between"],
)
def test_all_other_bytes_stay(tmp_path: Path, before: bytes, after: bytes) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(before + block("mine", "old\n\nlines").encode() + after)
    write_section(page, "mine", "new ±")
    assert page.read_bytes() == before + block("mine", "new ±").encode() + after
    once = page.read_bytes()
    write_section(page, "mine", "\nnew ±\n\n")
    assert page.read_bytes() == once


def test_windows_line_ends_within_a_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(b"a\r\n" + block("mine", "old").replace("\n", "\r\n").encode() + b"\r\nb\r\n")
    assert read_sections(page) == {"mine": "old"}
    write_section(page, "mine", "new")
    assert page.read_bytes() == b"a\r\n" + block("mine", "new").encode() + b"\r\nb\r\n"


@pytest.mark.parametrize(
    ("end", "gap"), [("", "\n\n"), ("\n", "\n"), ("\n\n", "")], ids=["none", "line", "blank"]
)
def test_an_added_section_stands_apart(tmp_path: Path, end: str, gap: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"words{end}")
    write_section(page, "mine", "new")
    assert page.read_text() == f"words{end}{gap}{block('mine', 'new')}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n<!-- spineline:x -->\n", r"page.md:2: section 'x' is never closed by '<!-- /spinelin"),
        ("\n\n<!-- /spineline:x -->\n", r"page.md:3: .* closes a section that is not open"),
        (block("x", "<!-- spineline:y -->"), r"page.md:3: .* section 'x' is not closed before it"),
        ("<!-- spineline:x -->\n<!-- /spineline:y -->\n", "page.md:2: .* not open"),
        (f"{block('x', '1')}\n{block('x', '2')}", r"page.md:6: .* has this section already"),
    ],
    ids=["open", "closed", "nested", "crossed", "twice"],
)
def test_comments_that_are_no_pairs(tmp_path: Path, content: str, message: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(content)
    for name in ("x", "mine"):
        with pytest.raises(SpinelineError, match=message):
            write_section(page, name, "new")
    assert page.read_text() == content


@pytest.mark.parametrize("name", ["", "A", "a b", "a_b", "-a", "a--b", "ä", "a\n"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="wanted lower-case letters, digits and single hyphens"):
        write_section(tmp_path / "page.md", name, "new")
    assert not (tmp_path / "page.md").exists()


def test_a_text_with_a_comment_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a section's comment itself"):
        write_section(tmp_path / "page.md", "x", "a\n<!-- /spineline:x -->\nb")
    write_section(tmp_path / "page.md", "x", "in words: `<!-- /spineline:x -->`")
    assert list(read_sections(tmp_path / "page.md")) == ["x"]


def test_a_page_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpinelineError, match="cannot be read"):
        write_section(tmp_path, "x", "new")
