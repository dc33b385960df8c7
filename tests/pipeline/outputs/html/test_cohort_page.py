"""``to=page``: counts, distribution, failures and rows of a run's page."""

from __future__ import annotations

import pytest
from lxml import html

from spineline.datasets.common.remarks import Remark
from spineline.pipeline.inference.results import (
    StudyResult,
)
from spineline.pipeline.inference.warnings import warning
from spineline.pipeline.outputs.html.cohort_page import cohort_html


@pytest.fixture
def studies(make_result) -> list[tuple[str, StudyResult]]:
    return [
        ("a", make_result()),
        ("b", make_result("30203020405", warnings=(warning("view_cuts_spine", "below"),))),
        ("c", make_result("-0202020202", abstained=True, probability=0.4,
                     warnings=(warning("missing_levels", "T12-L1"), Remark("", "odd")))),
        ("d", make_result("uuuuuuuuuuu", nodes=("L1-L2",), probability=None)),
    ]  # fmt: skip


def rows_of(page: str) -> list[list[str]]:
    tree = html.document_fromstring(page)
    return [
        [cell.text_content() for cell in row]
        for row in tree.xpath("//table[@id='studies']/tbody/tr")
    ]


def test_a_row_for_each_study(studies) -> None:
    assert rows_of(cohort_html(studies)) == [
        ["a", "11 of 11", "none, all normal", "0.95", "–", "reportpictureJSON"],
        ["b", "11 of 11", "L5-S1 extrusion", "0.95", "view_cuts_spine", "reportpictureJSON"],
        ["c", "10 of 11", "none, all normal", "0.40 abstained", "missing_levels, 1 more",
         "reportpictureJSON"],
        ["d", "11 of 11", "L1-L2 Schmorl's node", "–", "–", "reportpictureJSON"],
    ]  # fmt: skip


def test_counts(studies) -> None:
    tree = html.document_fromstring(cohort_html(studies, [("x", "broken")]))
    tiles = {tile.xpath("string(./dt)"): tile.xpath("string(./dd)") for tile in
             tree.xpath("//dl/div")}  # fmt: skip
    assert tiles == {
        "Done": "4", "Refused": "0", "Failed": "1", "All levels found": "3",
        "Naming abstained": "1", "With warnings": "2",
    }  # fmt: skip
    (failure,) = tree.xpath("//table[@id='failures']/tbody/tr")
    assert [cell.text_content() for cell in failure] == ["x", "broken"]


def test_distribution_as_bars_and_as_a_table(studies) -> None:
    tree = html.document_fromstring(cohort_html(studies))
    heads = [cell.text for cell in tree.xpath("//table[@id='counts']/thead/tr/th")]
    assert heads == [
        "Level", "vertebra normal", "disc normal", "bulging", "protrusion", "extrusion",
        "not graded", "not found", "any Schmorl's node",
    ]  # fmt: skip
    counts = {
        row.xpath("string(./th)"): [int(cell.text) for cell in row.xpath("./td")]
        for row in tree.xpath("//table[@id='counts']/tbody/tr")
    }
    assert counts["T12-L1"] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert counts["L1"] == [3, 0, 0, 0, 0, 1, 0, 0]
    assert counts["L1-L2"] == [0, 3, 0, 0, 0, 1, 0, 1]
    assert counts["L5-S1"] == [0, 2, 0, 0, 1, 1, 0, 0]
    for bar, row in zip(tree.xpath("//svg[@class='stack']"), counts.values(), strict=True):
        widths = [float(r.get("width")[:-1]) for r in bar.xpath("./rect[contains(@class, 'fill')]")]
        assert widths == pytest.approx([100 * n / 4 for n in row[:-1] if n], abs=1e-3)


def test_each_look_of_the_chart_has_a_pattern_of_its_own(make_result) -> None:
    page = cohort_html([("a", make_result("3041506-2u2"))])
    tree = html.document_fromstring(page)
    used = {fill[5:-1] for fill in tree.xpath("//rect/@fill")}
    defined = set(tree.xpath("//pattern/@id"))
    looks = ("bulging", "protrusion", "extrusion", "schmorl", "degenerative", "ungraded")
    assert used == {f"pattern-{look}" for look in looks}
    assert used <= defined
    paths = tree.xpath("//pattern/path/@d")
    assert len(paths) == len(set(paths))


def test_the_command_writes_it_with_links_to_what_is_there(
    tmp_path, fake_models, make_study, predict
) -> None:
    for name in ("one", "two"):
        make_study(tmp_path / "s" / name)
    (tmp_path / "s" / "bad").mkdir()
    (tmp_path / "s" / "bad" / "im1").write_bytes((tmp_path / "s/one/im1").read_bytes()[:600])
    out = tmp_path / "o"
    predict(tmp_path / "s", "to=[page,report]", out=out)
    page = (out / "index.html").read_text()
    tree = html.document_fromstring(page)
    assert rows_of(page)[0][:3] == ["one", "11 of 11", "T12-L1 bulging"]
    links = tree.xpath("//table[@id='studies']//a/@href")
    (failure,) = tree.xpath("//table[@id='failures']/tbody/tr")
    assert failure[0].text_content() == "bad"
    assert failure[1].text_content()
    assert links == [f"{name}/{file}" for name in ("one", "two") for file in
                     ("report.html", "overlay.png", "result.json")]  # fmt: skip
    assert all((out / link).is_file() for link in links)
    assert "SECRET" not in page
    assert str(tmp_path) not in page
    predict(tmp_path / "s", "to=page", "overlay=false", out=tmp_path / "p")
    links = html.document_fromstring((tmp_path / "p" / "index.html").read_text()).xpath(
        "//table[@id='studies']//a/@href"
    )
    assert links == ["one/result.json", "two/result.json"]


def test_a_hostile_name_is_text_and_no_address(make_result) -> None:
    name = 'javascript:alert(1)"><script>\u202e'
    tree = html.document_fromstring(cohort_html([(name, make_result())], [(name, name)]))
    assert len(tree.xpath("//script")) == 1
    assert tree.xpath("string(//table[@id='studies']/tbody/tr/th)") == name.replace(
        "\u202e", "\\u202e"
    )
    for link in tree.xpath("//table[@id='studies']//a/@href"):
        assert link.startswith("javascript%3Aalert%281%29%22%3E%3Cscript%3E")


def test_no_study_and_one(make_result) -> None:
    assert rows_of(cohort_html([])) == []
    assert "1 study<" in cohort_html([("a", make_result())])
