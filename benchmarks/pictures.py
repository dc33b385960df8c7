"""The pictures of the documentation, made from phantoms only: docs/images.

    python benchmarks/pictures.py [only=page,review]

Every picture shows what the commands write on the twelve phantoms of `spineline data phantom n=12`
(seed 0), without a selection. The script needs Chromium with its chromedriver, DCMTK (`dsr2html`,
`dcm2pnm`), and the extras `dicom`, `review` and `test`. It draws `data_way.svg` itself.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from harness import parse_words
from pages import write_section
from PIL import Image, ImageDraw, ImageFont

from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import write_bytes, write_text
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.crops.extract import extract_crops
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import LEVELS, SEVEN_NAMES, encode_seven
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame

DOCS = Path(__file__).resolve().parents[1] / "docs"
STUDIES = 12
CLOSE_PX = 8.0
MARGIN_PX = 45


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings(Settings):
    docs: Path = key("folder with images/ and outputs.md", default=DOCS)
    only: tuple[str, ...] = key(
        "pictures to make; all by default",
        default=(),
        choices=("crops", "csv", "data_way", "dicom", "failures", "page", "review"),
    )


@dataclass(frozen=True, slots=True)
class Tour:
    """Phantoms, and the pipeline's results on them.

    Attributes:
        phantoms: folder of `spineline data phantom`.
        results: folder of `spineline pipeline predict`.
    """

    phantoms: Path
    results: Path

    def study(self, number: int) -> Path:
        return self.phantoms / "studies" / f"study{number}"

    def result(self, number: int) -> dict[str, Any]:
        return json.loads((self.results / f"study{number}" / "result.json").read_text())

    def drawn(self, uid: str) -> dict[str, tuple[tuple[float, float], int]]:
        """Drawn point and seven-class grade of each level of an image."""
        for study in json.loads((self.phantoms / "annotations.json").read_text()):
            for image in study["data"]:
                if image["instanceUid"] == uid:
                    return dict(map(_drawn_level, image["annotation"][0]["data"]["point"]))
        raise SpinelineError(f"{self.phantoms}: no annotation of the image {uid}")


def _drawn_level(entry: dict[str, Any]) -> tuple[str, tuple[tuple[float, float], int]]:
    tag = entry["tag"]
    kind = "disc" if "disc" in tag else "vertebra"
    x, y = entry["coord"]
    return tag["identification"], ((x, y), encode_seven(kind, tuple(tag[kind].split(","))))


def spineline(*words: str) -> None:
    """Run a command; its output is shown if it fails."""
    done = subprocess.run([*_CLI, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SpinelineError(f"spineline {' '.join(words)}: {done.stdout}{done.stderr}")


_CLI = (sys.executable, "-m", "spineline.pipeline.cli.main")


def make_tour(folder: Path) -> Tour:
    tour = Tour(folder / "phantoms", folder / "results")
    spineline("data", "phantom", f"out={tour.phantoms}", f"n={STUDIES}")
    spineline(
        "pipeline", "predict", f"source={tour.phantoms / 'studies'}", f"out={tour.results}",
        "to=report,page,sr,pr,sc",
    )  # fmt: skip
    return tour


# ---- pictures without a browser


def failures(tour: Tour, images: Path) -> None:
    """All phantoms, each with its names, right or wrong, and the statements of its result."""
    tiles = []
    for number in range(STUDIES):
        lines = [f"study{number}", *verdict(tour, number)]
        tiles.append(captioned(judged(tour, number), lines, width=250))
    save(images / "phantoms_judged.png", sheet(tiles, columns=4))


def judged(tour: Tour, number: int) -> Image.Image:
    """The spine of a study with predicted names, green if right, red if wrong."""
    result = tour.result(number)
    drawn = tour.drawn(result["instance_uid"])
    frame = Image.fromarray(load_frame(next(iter(find_cases(tour.study(number))))).image)
    xs, ys = zip(*(place for place, _ in drawn.values()), strict=True)
    middle, top, bottom = sum(xs) / len(xs), min(ys) - MARGIN_PX, max(ys) + MARGIN_PX
    half, scale = (bottom - top) / 2.4, 300 / (bottom - top)
    spine = frame.crop((round(middle - half), round(top), round(middle + half), round(bottom)))
    size = (round(spine.width * scale), round(spine.height * scale))
    picture = spine.resize(size, Image.Resampling.BICUBIC).convert("RGB")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for found in result["structures"]:
        level, distance = nearest(found["point_xy"], drawn)
        right = level == found["level"] and distance < CLOSE_PX
        colour = "#7fff7f" if right else "#ff7070"
        x = (found["point_xy"][0] - round(middle - half)) * scale
        y = (found["point_xy"][1] - round(top)) * scale
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        aside = (-52, -9) if found["kind"] == "vertebra" else (34, -9)
        place = (x + aside[0], y + aside[1])
        pen.text(place, found["level"], fill=colour, font=font, stroke_width=2, stroke_fill="black")
    return picture


def verdict(tour: Tour, number: int) -> list[str]:
    """Predicted and drawn names and grades of a result, and its warnings."""
    result = tour.result(number)
    drawn = tour.drawn(result["instance_uid"])
    near = [(found, *nearest(found["point_xy"], drawn)) for found in result["structures"]]
    placed = [(found, level) for found, level, distance in near if distance < CLOSE_PX]
    named = sum(found["level"] == level for found, level in placed)
    graded = sum(found["seven"]["class"] == drawn[level][1] for found, level in placed)
    n = len(result["structures"])
    codes = list(dict.fromkeys(warning["code"] for warning in result["warnings"]))
    lines = [f"{named} of {n} names right, {graded} grades", "says: " + (codes or ["nothing"])[0]]
    if result["naming"]["abstained"]:
        lines[1] = "says: the names are a guess"
    return [*lines, f"and: {', '.join(codes[1:2])}" if len(codes) > 1 else ""]


def nearest(
    point: Sequence[float], drawn: dict[str, tuple[tuple[float, float], int]]
) -> tuple[str, float]:
    """The drawn level nearest to a point, and its distance."""
    return min(
        ((level, math.dist(point, place)) for level, (place, _) in drawn.items()),
        key=lambda found: found[1],
    )


def crops(tour: Tour, images: Path) -> None:
    """The classifier's input for one study: each structure along its spine."""
    (case,) = find_cases(tour.study(0))
    frame = load_frame(case)
    found = tour.result(0)["structures"]
    points = np.array([structure["point_xy"] for structure in found])
    ranks = [LEVELS.index(structure["level"]) for structure in found]
    cut = extract_crops(frame.image, points, boxes_from_points(points, ranks), CropSpec(size=96))
    tiles = []
    for structure, crop in zip(found, cut, strict=True):
        name = SEVEN_NAMES[structure["seven"]["class"]].partition("-")[2]
        tile = Image.fromarray(crop).convert("RGB").resize((150, 150), Image.Resampling.BICUBIC)
        tiles.append(captioned(tile, [structure["level"], name], width=150))
    save(images / "crops.png", sheet(tiles, columns=6))


def dicom(tour: Tour, images: Path) -> None:
    """The presentation state over its image, the secondary capture, and the report as text."""
    folder = tour.results / "study0"
    state = pydicom.dcmread(folder / "overlay.pr.dcm")
    (case,) = find_cases(tour.study(0))
    shown = with_graphics(Image.fromarray(load_frame(case).image), state)
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "capture.png"
        run_tool("dcm2pnm", "--write-png", folder / "overlay.sc.dcm", target)
        capture = Image.open(target).convert("RGB")
    tiles = [
        captioned(shown, ["overlay.pr.dcm over its image"], width=520),
        captioned(capture, ["overlay.sc.dcm"], width=520),
    ]
    save(images / "dicom_images.png", sheet(tiles, columns=2))
    page = folder / "report.sr.html"
    run_tool("dsr2html", folder / "report.sr.dcm", page)
    with browser() as driver:
        show(driver, page.as_uri(), 900, 900)
        shot(driver, images / "dicom_report.png")


def with_graphics(image: Image.Image, state: pydicom.Dataset) -> Image.Image:
    """An image with the lines and texts of a presentation state, read from its file."""
    scale = 2
    drawing = image.convert("RGB").resize(
        (image.width * scale, image.height * scale), Image.Resampling.BICUBIC
    )
    pen, font = ImageDraw.Draw(drawing), ImageFont.load_default(13)
    for layer in state.GraphicAnnotationSequence:
        for part in layer.get("GraphicObjectSequence", []):
            flat = [(value - 0.5) * scale for value in part.GraphicData]
            places = list(zip(flat[::2], flat[1::2], strict=True))
            if part.GraphicType == "POINT":
                ((x, y),) = places
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), outline="yellow")
            else:
                pen.line(places, fill="yellow")
        for part in layer.get("TextObjectSequence", []):
            place = part.get("AnchorPoint") or part.get("BoundingBoxTopLeftHandCorner")
            x, y = ((value - 0.5) * scale for value in place)
            pen.text((x, y), part.UnformattedTextValue, fill="yellow", font=font)
    return drawing


def results_csv(tour: Tour, docs: Path) -> None:
    """The head of ``results.csv`` as a table of the page on outputs."""
    left_out = ("study_uid", "series_uid", "instance_uid")
    with (tour.results / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(4), strict=False)]
    heads = [name for name in rows[0] if name not in left_out]
    lines = [(f"`{name}`", *(row[name] for row in rows)) for name in heads]
    table = markdown_table(("column", *(f"row {n + 1}" for n in range(len(rows)))), lines)
    uids = ", ".join(f"`{name}`" for name in left_out)
    text = f"The first rows of a `results.csv`, with its columns one below the other; {uids} are "
    write_section(docs / "outputs.md", "results-csv", f"{text}left out here.\n\n{table}")


# ---- pictures of pages


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    from selenium import webdriver

    program, service = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or service is None:
        raise SpinelineError("chromium and chromedriver are wanted (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--hide-scrollbars"):  # fmt: skip
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        yield driver
    finally:
        driver.quit()


def show(driver: Any, address: str, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(address)


def shot(driver: Any, file: Path) -> None:
    save(file, Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB"))


def page(tour: Tour, images: Path) -> None:
    """The page of a study, on a wide screen and on a phone, and the page of all studies."""
    study = (tour.results / "study0" / "report.html").as_uri()
    with browser() as driver:
        show(driver, study, 1000, 960)
        shot(driver, images / "report_page.png")
        show(driver, study, 390, 844)
        shot(driver, images / "report_page_phone.png")
        show(driver, (tour.results / "index.html").as_uri(), 1200, 1150)
        shot(driver, images / "cohort_page.png")


def review(tour: Tour, images: Path) -> None:
    """The page of `spineline review` at both of its widths."""
    words = ("review", f"source={tour.results}", "port=0")
    process = subprocess.Popen([*_CLI, *words], stdout=subprocess.PIPE, text=True)
    try:
        with browser() as driver:
            show(driver, _address(process), 1400, 900)
            time.sleep(3)  # until the picture is loaded
            shot(driver, images / "review.png")
            show(driver, driver.current_url, 700, 1000)
            time.sleep(3)
            shot(driver, images / "review_narrow.png")
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        for word in line.split():
            if word.startswith("http://127.0.0.1"):
                return word
    raise SpinelineError("spineline review ended without an address")


# ---- the data flow

BOX_W, BOX_H = 150, 46
WAY = {
    "annotations": (0, 0, "annotations", "Tianchi, COCO, CVAT, …"),
    "convert": (1, 0, "convert", "YOLO, COCO, VOC"),
    "dataset": (2, 0, "dataset", "images, boxes, splits"),
    "train": (3, 0, "train, kfold", "detector, reader, grades"),
    "weights": (3, 1, "weights", "safetensors, ONNX, …"),
    "studies": (0, 1, "studies", "DICOM, NIfTI, PNG"),
    "select": (1, 1, "select", "series, slice, refusal"),
    "predict": (2, 1, "predict", "find, name, grade"),
    "results": (2, 2, "results", "JSON, CSV, pages, DICOM"),
    "review": (1, 2, "review", "correct by hand"),
    "val": (3, 2, "val", "metrics with intervals"),
}
"""Column, row, name and content of each box."""

ARROWS = (
    ("annotations", "convert"), ("convert", "dataset"), ("dataset", "train"), ("train", "weights"),
    ("studies", "select"), ("select", "predict"), ("weights", "predict"), ("predict", "results"),
    ("results", "review"), ("results", "val"),
)  # fmt: skip


def data_way() -> str:
    """The data flow as SVG."""
    width, height = 4 * BOX_W + 3 * 50 + 20, 3 * BOX_H + 2 * 44 + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" role="img">',
        "<title>From annotations to weights, and from studies to results</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#546e7a"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
    ]
    for tail, tip in ARROWS:
        (x0, y0), (x1, y1) = _ends(tail, tip)
        lines.append(
            f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#546e7a" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )
    for column, row, name, content in WAY.values():
        x, y = _corner(column, row)
        middle = x + BOX_W // 2
        lines += [
            f'<rect x="{x}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="5" fill="#e8eaf6" '
            'stroke="#3f51b5"/>',
            f'<text x="{middle}" y="{y + 19}" font-size="14" font-weight="bold" '
            f'text-anchor="middle" fill="#1a237e">{name}</text>',
            f'<text x="{middle}" y="{y + 36}" font-size="11" text-anchor="middle" '
            f'fill="#37474f">{content}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _corner(column: int, row: int) -> tuple[int, int]:
    return 10 + column * (BOX_W + 50), 10 + row * (BOX_H + 44)


def _ends(tail: str, tip: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The ends of an arrow between two neighbouring boxes."""
    (c0, r0), (c1, r1) = WAY[tail][:2], WAY[tip][:2]
    x, y = _corner(c0, r0)
    dc, dr = c1 - c0, r1 - r0
    start = (x + BOX_W // 2 + dc * BOX_W // 2, y + BOX_H // 2 + dr * BOX_H // 2)
    return start, (start[0] + dc * 48, start[1] + dr * 42)


# ---- sheets and files


def captioned(image: Image.Image, lines: Sequence[str], *, width: int = 320) -> Image.Image:
    """An image of the given width, with lines of text below it."""
    height = round(image.height * width / image.width)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    font = ImageFont.load_default(13)
    tile = Image.new("RGB", (width, height + 6 + 17 * len(lines)), "white")
    tile.paste(small)
    for n, line in enumerate(lines):
        ImageDraw.Draw(tile).text((4, height + 3 + 17 * n), line, fill="black", font=font)
    return tile


def sheet(tiles: Sequence[Image.Image], *, columns: int) -> Image.Image:
    """Tiles in rows, eight pixels apart."""
    rows = [tiles[n : n + columns] for n in range(0, len(tiles), columns)]
    width = max(sum(tile.width + 8 for tile in row) for row in rows) - 8
    heights = [max(tile.height for tile in row) + 8 for row in rows]
    whole = Image.new("RGB", (width, sum(heights) - 8), "white")
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for tile in row:
            whole.paste(tile, (x, y))
            x += tile.width + 8
        y += height
    return whole


def save(file: Path, image: Image.Image) -> None:
    """Write a small PNG, with a palette."""
    data = io.BytesIO()
    shades = image.convert("RGB").quantize(128, kmeans=1, dither=Image.Dither.NONE)
    shades.save(data, "PNG", optimize=True)
    write_bytes(file, data.getvalue())


def run_tool(name: str, *words: Path | str) -> None:
    """Run a program of DCMTK."""
    if shutil.which(name) is None:
        raise SpinelineError(f"{name} is wanted (Debian: dcmtk)")
    done = subprocess.run([name, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SpinelineError(f"{name}: {done.stderr}")


def main(words: list[str]) -> None:
    settings = parse_words(words, PictureSettings)
    if settings is None:
        return
    images = settings.docs / "images"
    made: dict[str, Callable[[Tour], None]] = {
        "crops": lambda tour: crops(tour, images),
        "csv": lambda tour: results_csv(tour, settings.docs),
        "dicom": lambda tour: dicom(tour, images),
        "failures": lambda tour: failures(tour, images),
        "page": lambda tour: page(tour, images),
        "review": lambda tour: review(tour, images),
    }
    wanted = settings.only or ("data_way", *made)
    if "data_way" in wanted:
        write_text(images / "data_way.svg", data_way())
    if set(wanted) == {"data_way"}:
        return
    with tempfile.TemporaryDirectory() as folder:
        tour = make_tour(Path(folder))
        for name in wanted:
            if name in made:
                made[name](tour)


if __name__ == "__main__":
    run_script(main)
