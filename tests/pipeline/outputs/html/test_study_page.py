"""``to=report``: what the page of a study says, and what it must not."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from lxml import html
from PIL import Image

from spineline.datasets.common.remarks import Remark
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.naming import Naming, Rival
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import BinaryGrade, SevenGrade
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.inference.warnings import warning
from spineline.pipeline.outputs.html.study_page import report_html


def without(analysis: Analysis, *levels: str) -> Analysis:
    kept = [n for n, s in enumerate(analysis.result.structures) if s.level not in levels]
    return replace(
        analysis,
        spine=replace(analysis.spine, structures=tuple(analysis.spine.structures[n] for n in kept)),
        result=replace(
            analysis.result,
            structures=tuple(analysis.result.structures[n] for n in kept),
            missing_levels=levels,
        ),
    )


def rows_of(page: str) -> dict[str, list[str]]:
    tree = html.document_fromstring(page)
    rows = tree.xpath("//table[contains(@class, 'levels')]/tbody/tr")
    return {
        row.xpath("string(./th)"): [
            cell.text_content().replace("\n", "") for cell in row.xpath("./td")
        ]
        for row in rows
    }


def test_the_table_says_what_the_result_says(analysis) -> None:
    rows = rows_of(report_html(analysis))
    assert tuple(rows) == LEVELS
    grade, shares, binary, confidence, point = rows["T12-L1"]
    assert grade == "bulging"
    assert shares == "normal0.17bulging0.50protrusion0.17extrusion0.08Schmorl's node0.08"
    assert binary == "no 0.20"
    assert confidence == "0.90"
    x, y, z = analysis.result.structures[0].point_mm
    assert point.replace("−", "-") == f"{x:.1f}, {y:.1f}, {z:.1f}"
    grade, shares, binary, *_ = rows["L3"]
    assert (grade, shares, binary) == ("normal", "normal0.75degenerative0.25", "–")


def test_the_picture_is_the_frame_and_the_marks_lie_on_it(analysis) -> None:
    tree = html.document_fromstring(report_html(analysis))
    (image,) = tree.xpath("//svg//image")
    kind, data = image.get("href").split(",", 1)
    assert kind == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(pixels, analysis.frame.image)
    left, width, height = (float(image.get(key)) for key in ("x", "width", "height"))
    rows, columns = pixels.shape
    circles = tree.xpath("//svg//circle[contains(@class, 'point')][ancestor::a]")
    assert len(circles) == 6  # discs
    assert len(tree.xpath("//svg//a/rect[contains(@class, 'point')]")) == 5  # vertebrae
    for circle, place in zip(circles, analysis.spine.structures[::2], strict=True):
        x = (float(circle.get("cx")) - left) / width * columns - 0.5
        y = float(circle.get("cy")) / height * rows - 0.5
        assert (x, y) == pytest.approx(place.point_xy, abs=0.1)


@pytest.mark.parametrize("size_hw", [(150, 120), (400, 130), (130, 500)])
def test_the_frame_fits_the_picture(size_hw, tmp_path, fake_pipeline, make_spots) -> None:
    from PIL import Image as Images

    Images.fromarray(make_spots(size_hw=size_hw)).save(tmp_path / "a.png")
    analysis = fake_pipeline.analyse([load_frame(find_cases(tmp_path / "a.png")[0])])[0]
    tree = html.document_fromstring(report_html(analysis))
    (image,) = tree.xpath("//svg//image")
    left, width, height = (float(image.get(key)) for key in ("x", "width", "height"))
    assert left >= 0
    assert left + width <= 1000.1
    assert width / height == pytest.approx(size_hw[1] / size_hw[0], rel=0.01)
    assert width > 100


def test_what_is_wrong_stands_first(analysis) -> None:
    naming = Naming(0.5, (Rival(-1, 0.4), Rival(1, 0.1)), abstained=True)
    doubtful = without(analysis, "L2", "L5-S1")
    doubtful = replace(
        doubtful,
        result=replace(
            doubtful.result,
            naming=naming,
            warnings=(warning("view_cuts_spine", "<b>below</b>"), Remark("", "by hand")),
        ),
    )
    page = report_html(doubtful)
    tree = html.document_fromstring(page)
    (notices,) = tree.xpath("//section[@role='note']")
    text = notices.text_content()
    assert "Levels are a guess" in text
    assert "Not found: L2, L5-S1" in text
    assert "view_cuts_spine: <b>below</b>" in text
    assert "2 warnings" in text
    assert page.index("Levels are a guess") < page.index("<svg")
    rows = rows_of(page)
    assert rows["L2"][0] == "not found"
    assert all(row[3].endswith("in doubt") for level, row in rows.items() if level not in
               ("L2", "L5-S1"))  # fmt: skip
    assert "every name one level higher0.40" in tree.text_content()
    assert "Research use only. Not for diagnosis." in tree.text_content()


def test_nothing_is_noted_where_nothing_is_wrong(analysis) -> None:
    fine = replace(analysis, result=replace(analysis.result, warnings=()))
    tree = html.document_fromstring(report_html(fine))
    assert not tree.xpath("//section[@role='note']")


def test_a_frame_on_which_nothing_was_found(analysis) -> None:
    empty = without(analysis, *LEVELS)
    empty = replace(empty, result=replace(empty.result, naming=None))
    rows = rows_of(report_html(empty))
    assert {row[0] for row in rows.values()} == {"not found"}


def test_a_study_without_grades_or_millimetres(analysis) -> None:
    bare = tuple(
        replace(s, seven=None, binary=None, point_mm=None) for s in analysis.result.structures
    )
    rows = rows_of(report_html(replace(analysis, result=replace(analysis.result, structures=bare))))
    assert rows["L4-L5"][0] == "not graded"
    assert rows["L4-L5"][1:3] == ["–", "–"]
    assert rows["L4-L5"][4] == "–"


def test_a_schmorls_node_by_either_grade(analysis) -> None:
    first, second, third, *rest = analysis.result.structures
    alone = SevenGrade(6, (0, 0, 0.1, 0.1, 0.1, 0.1, 0.6))
    structures = (
        replace(first, binary=BinaryGrade(1, 0.9)),
        second,
        replace(third, seven=alone, binary=BinaryGrade(1, 0.8)),
        *rest,
    )
    page = report_html(replace(analysis, result=replace(analysis.result, structures=structures)))
    rows = rows_of(page)
    assert rows["T12-L1"][0] == "bulging + Schmorl's node"
    assert rows["T12-L1"][2] == "yes 0.90"
    assert rows["L1-L2"][0] == "Schmorl's node"


def test_a_threshold_of_the_weights_stands_beside_the_probability(analysis) -> None:
    first, *rest = analysis.result.structures
    structures = (replace(first, binary=BinaryGrade(1, 0.31, 0.25)), *rest)
    page = report_html(replace(analysis, result=replace(analysis.result, structures=structures)))
    assert rows_of(page)["T12-L1"][2] == "yes 0.31 (from 0.25 on)"


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "a\u202egnp.exe", "x" * 300],
    ids=["script", "quotes", "direction", "long"],
)
def test_a_hostile_name_is_text(analysis, name) -> None:
    page = report_html(replace(analysis, frame=replace(analysis.frame, name=name)))
    tree = html.document_fromstring(page)
    (shown,) = tree.xpath("//h1/bdi")
    assert shown.text == name.replace("\u202e", "\\u202e")
    assert not tree.xpath("//script")
    assert not tree.xpath("//img")
    assert "\u202e" not in page


def test_the_command_writes_it_without_identifiers_and_the_same_again(
    tmp_path, fake_models, make_study, predict
) -> None:
    make_study(tmp_path / "study")
    pages = []
    for out in ("o", "p"):
        code, _, _ = predict(tmp_path / "study", "to=report", out=tmp_path / out)
        assert code == 0
        pages.append((tmp_path / out / "study" / "report.html").read_bytes())
    assert pages[0] == pages[1]
    page = pages[0].decode()
    result = json.loads((tmp_path / "o" / "study" / "result.json").read_text())
    for secret in ("SECRET", *(result[key] for key in ("study_uid", "series_uid", "instance_uid"))):
        assert secret not in page
    assert str(tmp_path) not in page
    assert result["weights"]["sha256"][:12] in page
    assert "<title>study · spineline report</title>" in page


def test_table_and_picture_can_be_read_aloud(analysis) -> None:
    tree = html.document_fromstring(report_html(analysis))
    (table,) = tree.xpath("//table[contains(@class, 'levels')]")
    assert table.xpath("./caption")
    assert len(table.xpath("./thead/tr/th[@scope='col']")) == 6
    assert len(table.xpath("./tbody/tr/th[@scope='row']")) == 11
    (picture,) = tree.xpath("//figure/svg")
    assert "11 of 11 levels" in picture.get("aria-label")
    ids = tree.xpath("//@id")
    assert len(ids) == len(set(ids))
    for link in tree.xpath("//a/@href"):
        assert link.removeprefix("#") in ids
    for mark in tree.xpath("//svg//a"):
        assert mark.get("aria-label") == mark.xpath("string(./title)")
