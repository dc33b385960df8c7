"""Pages from templates: what is given is escaped, what is loaded is nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from lxml import html

import spineline.pipeline
from spineline.pipeline.outputs.html.cohort_page import cohort_html
from spineline.pipeline.outputs.html.render import environment, units
from spineline.pipeline.outputs.html.study_page import report_html


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
    template = environment().from_string('<p title="{{ given }}">{{ given }}</p>')
    page = template.render(given=given)
    page.encode("utf-8")
    (read,) = html.fragments_fromstring(page)
    assert read.text == shown
    assert read.get("title") == shown
    assert len(read) == 0


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (-0.04, "0"), (12.0, "12"), (3.26, "3.3"), (-7.5, "-7.5")]
)
def test_units(value: float, shown: str) -> None:
    assert units(value) == shown


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


@pytest.mark.parametrize("tags", [("style", "script"), ("style",)], ids=["run", "study"])
def test_a_page_allows_its_own_style_and_script_alone(analysis, tags) -> None:
    """The hashes in the policy are those of what a browser finds between the tags."""
    page = cohort_html([]) if "script" in tags else report_html(analysis)
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert all(address.startswith(("data:", "#")) for address in parser.addresses)
    tree = html.document_fromstring(page)
    (policy,) = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert ("script" in policy) == ("<script" in page) == ("script" in tags)
    for tag in tags:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert not re.search(r"https?:|url\(|@import", content)
    assert "unsafe" not in policy


def test_templates_and_assets_are_in_the_package() -> None:
    folder = Path(spineline.pipeline.__file__).parent / "outputs" / "html"
    files = [path for path in folder.glob("*/*") if path.parent.name != "__pycache__"]
    assert sorted(path.name for path in files) == [
        "base.css", "cohort.css", "cohort.html", "cohort.js", "figure.svg", "page.html",
        "report.css", "study.html",
    ]  # fmt: skip
