"""The pages in a real browser: nothing reaches over the edge, nothing is loaded, and they work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.naming import Naming, Rival
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import (
    BinaryGrade,
    SevenGrade,
    StudyResult,
)
from spineline.pipeline.inference.warnings import warning
from spineline.pipeline.outputs.comparison import ComparedLevel, Comparison
from spineline.pipeline.outputs.html.cohort_page import cohort_html
from spineline.pipeline.outputs.html.study_page import report_html

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (1400, 1000, 700, 380, 360)

LONG = "a_very_long_study_name_" * 8


class Browser:
    """Chromium without a window; notes what pages ask the network for and complain of."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, page: str, width: int = 1400) -> None:
        path = self.folder / "page.html"
        path.write_text(page, encoding="utf-8")
        self.resize(width)
        self.complaints()
        self.driver.get(path.as_uri())

    def resize(self, width: int) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def run(self, code: str, *values: object) -> Any:
        return self.driver.execute_script(code, *values)

    def wait_for(self, state: Callable[[], bool]) -> None:
        """Wait for what the page does after the event that asked for it."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 60).until(lambda _: state())

    def complaints(self) -> list[str]:
        """Lines of the console, and requests for anything but the page itself."""
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if not address.startswith(("data:", self.folder.as_uri())):
                    lines.append(f"asked for {address}")
        return lines

    def too_wide(self) -> list[str]:
        """What reaches over the edge of the window, or of the picture, sideways."""
        return self.run(
            """
            const found = [];
            const wide = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth > wide) found.push("page");
            for (const box of document.querySelectorAll("main *, header *, footer *")) {
              const own = box.getBoundingClientRect();
              const out = ".scrolls, .unseen, .definitions, thead";
              const hidden = own.width <= 1 || box.closest(out);
              if (!hidden && !box.closest("svg") && own.right > wide + 0.5)
                found.push(box.tagName + " " + box.className);
            }
            for (const text of document.querySelectorAll("svg.picture text")) {
              const own = text.getBoundingClientRect();
              const whole = text.ownerSVGElement.getBoundingClientRect();
              if (own.left < whole.left - 0.5 || own.right > whole.right + 0.5)
                found.push(text.textContent);
            }
            for (const part of document.querySelectorAll(".beside > div"))
              if (part.scrollWidth > part.clientWidth) found.push("scrolls sideways");
            return found;
            """
        )

    def shown(self) -> list[str]:
        """Names of the studies in rows that can be seen, in their order."""
        return self.run(
            """
            const rows = Array.from(document.querySelectorAll("#studies tbody tr"));
            return rows.filter((row) => row.getClientRects().length)
              .map((row) => row.cells[0].textContent);
            """
        )

    def choose(self, **values: str) -> None:
        """Set filters as a user would: the form hears of each."""
        for name, value in values.items():
            self.run(
                """
                const field = document.getElementById("by-" + arguments[0]);
                field.value = arguments[1];
                field.dispatchEvent(new Event("input", { bubbles: true }));
                """,
                name,
                value,
            )

    def sort_by(self, name: str) -> str:
        """Press the head of a column; which way it is sorted then."""
        for button in self.driver.find_elements("css selector", "#studies thead button"):
            if button.text.startswith(name):
                button.click()
                return self.run("return arguments[0].parentElement.ariaSort", button)
        raise AssertionError(f"no head {name}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    if program is None or service is None:
        pytest.skip("needs Chromium and its chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        yield Browser(driver, tmp_path_factory.mktemp("pages"))
    finally:
        driver.quit()


def in_trouble(analysis: Analysis) -> tuple[Analysis, Comparison]:
    """The longest words at every place: missing levels, warnings, abstained, compared."""
    kept = [n for n, s in enumerate(analysis.result.structures) if s.level not in ("L2", "L5-S1")]
    worst = SevenGrade(5, (0, 0, 0.05, 0.1, 0.25, 0.55, 0.05))
    worn = SevenGrade(1, (0.2, 0.8, 0, 0, 0, 0, 0))
    structures = tuple(
        replace(s, seven=worst, binary=BinaryGrade(1, 0.81), point_mm=(-112.3, -101.2, -1045.5))
        if s.kind == "disc"
        else replace(s, seven=worn)
        for s in (analysis.result.structures[n] for n in kept)
    )
    result = replace(
        analysis.result,
        structures=structures,
        missing_levels=("L2", "L5-S1"),
        naming=Naming(0.5, (Rival(-2, 0.0), Rival(-1, 0.4), Rival(1, 0.1), Rival(2, 0.0)), True),
        warnings=(
            warning("missing_levels", "L2, L5-S1 (no_candidate: no box)"),
            warning("slice_choice", LONG),
        ),
    )
    spine = replace(analysis.spine, structures=tuple(analysis.spine.structures[n] for n in kept))
    labels = {
        place.level: ComparedLevel(
            place.level, place.kind, (place.point_xy[0] + 9, place.point_xy[1] - 4),
            ("v4", "v5") if place.kind == "disc" else ("v2",),
            10.8 if n in kept else None, 13.5 if n in kept else None, n % 2 == 0,
        )
        for n, place in enumerate(analysis.spine.structures)
    }  # fmt: skip
    frame = replace(analysis.frame, name=f"<script>alert('x')</script>{LONG}")
    return replace(analysis, frame=frame, spine=spine, result=result), Comparison(labels)


@pytest.mark.parametrize("state", ["plain", "trouble", "compared"])
def test_a_study_at_any_width(browser: Browser, analysis: Analysis, state: str) -> None:
    doubtful, comparison = in_trouble(analysis)
    page = {
        "plain": report_html(analysis),
        "trouble": report_html(doubtful),
        "compared": report_html(doubtful, comparison),
    }[state]
    browser.open(page)
    for width in WIDTHS:
        browser.resize(width)
        assert browser.too_wide() == [], width
    assert browser.complaints() == []
    seen = browser.run("return document.querySelector('image').getBoundingClientRect().width")
    assert seen > 100


def test_marks_and_rows_lead_to_each_other(browser: Browser, analysis: Analysis) -> None:
    browser.open(report_html(analysis))
    browser.run("document.querySelector('#mark-L4-L5').focus()")
    assert browser.run("return document.activeElement.id") == "mark-L4-L5"
    browser.driver.switch_to.active_element.send_keys("\ue007")  # enter
    assert browser.run("return location.hash") == "#row-L4-L5"
    browser.run("document.querySelector('#row-L2 th a').click()")
    assert browser.run("return document.querySelector('a.mark:target').id") == "mark-L2"


def test_labels_of_the_picture_stay_apart(browser: Browser, analysis: Analysis) -> None:
    """On wide screens and phones, no two labels of a column overlap."""
    browser.open(report_html(analysis))
    for width in (1400, 380):
        browser.resize(width)
        boxes = browser.run(
            """
            return Array.from(document.querySelectorAll("svg.picture text")).map((text) => {
              const box = text.getBoundingClientRect();
              return [text.getAttribute("text-anchor") || "start", box.top, box.bottom];
            });
            """
        )
        for side in ("start", "end"):
            column = sorted(box[1:] for box in boxes if box[0] == side)
            assert all(a[1] <= b[0] + 2 for a, b in pairwise(column)), width


@pytest.fixture
def cohort(make_result) -> Callable[[int], list[tuple[str, StudyResult]]]:
    """Studies with seeded grades, missing levels and warnings."""

    def make(count: int) -> list[tuple[str, StudyResult]]:
        rng, studies = np.random.default_rng(3), []
        for number in range(count):
            codes = [str(rng.integers(2, 7) if "-" in n else rng.integers(0, 2)) for n in LEVELS]
            shown = "".join("-" if rng.random() < 0.05 else code for code in codes)
            nodes = tuple(n for n, code in zip(LEVELS, shown, strict=True) if code == "6")
            warnings = (warning("missing_levels", "some"),) if "-" in shown else ()
            probability = round(float(rng.random()), 3)
            more = {"probability": probability, "abstained": probability < 0.1}
            made = make_result(shown, nodes=nodes, warnings=warnings, **more)
            studies.append((f"study{number}", made))
        return studies

    return make


@pytest.mark.parametrize("count", [1, 60])
def test_a_cohort_at_any_width(browser: Browser, cohort, count: int) -> None:
    studies = [*cohort(count - 1), (LONG, cohort(1)[0][1])]
    failures = [(LONG, "PixelData cannot be decoded " * 9)] if count > 1 else []
    browser.open(cohort_html(studies, failures))
    for width in WIDTHS:
        browser.resize(width)
        assert browser.too_wide() == [], width
    assert browser.complaints() == []
    assert len(browser.shown()) == count


def test_sorting(browser: Browser, cohort) -> None:
    studies = cohort(30)
    browser.open(cohort_html(studies))
    names = [name for name, _ in studies]
    assert browser.shown() == names
    assert browser.sort_by("Study") == "ascending"
    assert browser.shown() == names  # study2 before study10
    assert browser.sort_by("Study") == "descending"
    assert browser.shown() == names[::-1]
    assert browser.sort_by("Levels found") == "ascending"
    by_count = sorted(studies, key=lambda study: len(study[1].structures))
    assert browser.shown() == [name for name, _ in by_count]
    assert browser.sort_by("Naming") == "ascending"
    by_naming = sorted(studies, key=lambda study: study[1].naming.probability)
    assert browser.shown() == [name for name, _ in by_naming]
    assert browser.run("return document.querySelectorAll('[aria-sort]').length") == 1
    assert browser.complaints() == []


def test_filtering(browser: Browser, cohort) -> None:
    studies = cohort(40)
    browser.open(cohort_html(studies))

    def having(code: int, level: str | None = None) -> list[str]:
        return [
            name
            for name, result in studies
            if any(
                s.seven is not None and s.seven.class_index == code and level in (None, s.level)
                for s in result.structures
            )
        ]

    browser.choose(name="STUDY3")
    assert browser.shown() == ["study3", *(f"study{n}" for n in range(30, 40))]
    browser.choose(name="", grade="5")
    assert browser.shown() == having(5)
    browser.choose(level=str(LEVELS.index("L4-L5")))
    assert browser.shown() == having(5, "L4-L5")
    assert 0 < len(browser.shown()) < len(having(5))
    assert browser.run("return document.getElementById('shown').textContent") == (
        f"{len(having(5, 'L4-L5'))} of 40 studies"
    )
    browser.choose(grade="-")
    assert browser.shown() == [name for name, r in studies if "L4-L5" in r.missing_levels]
    browser.choose(grade="", level="", warning="missing_levels")
    assert browser.shown() == [name for name, r in studies if r.missing_levels]
    browser.choose(warning="none")
    assert browser.shown() == [name for name, r in studies if not r.warnings]
    browser.choose(warning="abstained")
    assert browser.shown() == [name for name, r in studies if r.abstained]
    browser.sort_by("Naming")
    by_naming = sorted(studies, key=lambda study: study[1].naming.probability)
    assert browser.shown() == [name for name, r in by_naming if r.abstained]
    browser.driver.find_element("css selector", "#filters button").click()
    browser.wait_for(lambda: len(browser.shown()) == 40)
    assert browser.complaints() == []


def test_the_first_of_many_are_shown_and_all_on_request(browser: Browser, cohort) -> None:
    """Sorting and filtering go over all studies; what is shown are the first of the outcome."""
    studies = cohort(2000)
    page = cohort_html(studies)
    assert len(page.encode()) < 10_000_000
    browser.open(page)
    names = [name for name, _ in studies]
    told = "return document.getElementById('shown').textContent"
    press = "document.getElementById('more').click()"
    hidden = "return document.getElementById('more').hidden"
    assert browser.shown() == names[:150]
    assert browser.run(told) == "2000 of 2000 studies, the first 150 of them below"
    assert browser.sort_by("Naming") == "ascending"
    by_naming = sorted(studies, key=lambda study: study[1].naming.probability)
    assert browser.shown() == [name for name, _ in by_naming][:150]
    assert browser.run("return document.getElementById('more').textContent") == "Show all 2000"
    browser.run(press)
    assert browser.shown() == [name for name, _ in by_naming]
    assert browser.run(told) == "2000 of 2000 studies"
    assert browser.run(hidden)
    browser.choose(warning="abstained")
    abstained = [name for name, r in by_naming if r.abstained]
    assert browser.shown() == abstained[:150]
    browser.choose(warning="", name="study59")
    assert len(browser.shown()) == 11
    assert browser.run(hidden)
    browser.choose(name="")
    assert len(browser.shown()) == 150
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert len(browser.shown()) == 2000
    browser.resize(380)
    assert browser.too_wide() == []
    assert browser.complaints() == []
