"""Pages as text: what is given is escaped, what is loaded is nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from lxml import html

from spineline.pipeline.outputs.html.markup import Markup, document, element, joined, number, text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("\" onload='x'", "\" onload='x'"),
        ("a & b &amp; c", "a & b &amp; c"),
        ("Пациент 患者", "Пациент 患者"),
        ("evil\u202egnp.exe", "evil\\u202egnp.exe"),
        ("nul\x00 bell\x07", "nul\\u0000 bell\\u0007"),
        ("lone \udcff", "lone \\udcff"),
        ("no\xa0break", "no\xa0break"),
        ("\U000e0041", "\\U000e0041"),
        (3.5, "3.5"),
    ],
    ids=["plain", "script", "quotes", "ampersand", "letters", "direction", "control", "surrogate",
         "blank", "tag", "number"],
)  # fmt: skip
def test_what_is_given_reads_as_it_was_given(given: object, shown: str) -> None:
    """lxml reads back as text and as attribute what was meant, and no element more."""
    page = element("p", given, title=given)
    page.encode("utf-8")
    (read,) = html.fragments_fromstring(page)
    assert read.text == shown
    assert read.get("title") == shown
    assert len(read) == 0


def test_markup_is_not_escaped_twice() -> None:
    inner = element("b", "<")
    assert element("p", inner, "<") == "<p><b>&lt;</b>&lt;</p>"
    assert joined(inner, None, "&") == "<b>&lt;</b>&amp;"
    assert text(inner) is inner


def test_attributes() -> None:
    made = element("td", data_name="a", class_="b", hidden=True, id=None, disabled=False)
    assert made == '<td data-name="a" class="b" hidden></td>'
    assert element("input", type="search") == '<input type="search">'


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (-0.04, "0"), (12.0, "12"), (3.26, "3.3"), (-7.5, "-7.5")]
)
def test_number(value: float, shown: str) -> None:
    assert number(value) == shown


class Strict(HTMLParser):
    """Notes elements that are opened and not closed, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            str(value) for key, value in attrs if key in ("href", "src", "xlink:href")
        ]
        if tag not in ("meta", "link", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_allows_its_own_style_and_script_alone() -> None:
    """The hashes in the policy are those of what a browser finds between the tags."""
    page = document("t", Markup("<main>x</main>"), styles=("base.css",), script="cohort.js")
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert parser.addresses == ["data:,"]
    tree = html.document_fromstring(page)
    (policy,) = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "http:" not in content
        assert "https:" not in content
        assert "url(" not in content
        assert "@import" not in content
    assert "unsafe" not in policy
    assert "script" not in document("t", Markup(""), styles=())
