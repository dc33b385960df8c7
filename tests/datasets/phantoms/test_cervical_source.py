"""Cervical phantoms: the same seed the same bytes, sane necks, and a source that fits them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from spineline.datasets.cervical import USABLE_VALUE, CervicalClasses
from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.phantoms.cervical_source import marked_objects, neck_record, source_csv
from spineline.datasets.phantoms.neck import draw_neck
from spineline.datasets.phantoms.phantom import draw_neck_phantom, sagittal_values

RunCli = Callable[..., tuple[int, str, str]]


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.yaml"
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("necks") / "out"
    phantom(DataPhantom(out=out, n=5, size=192, slices=3, seed=2, region="cervical"))
    return out


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    phantom(DataPhantom(out=again, n=1, size=192, slices=3, seed=2, region="cervical"))
    csv_file = Path("descr", "descr_00.csv")
    first = {k: v for k, v in digest(written).items() if "study0" in k or "/000-" in k}
    assert digest(again) == {**first, str(csv_file): digest(again)[str(csv_file)]}
    assert len(first) == 8
    assert (written / csv_file).read_bytes().startswith((again / csv_file).read_bytes())


def test_files(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [
        "descr", "frames", "run.yaml", "studies",
    ]  # fmt: skip
    frames = sorted(path.name for path in (written / "frames").iterdir())
    assert frames == [f"{n:03d}-00{k}.png" for n in range(5) for k in (0, 1)]
    with Image.open(written / "frames" / "000-000.png") as picture:
        assert (picture.size, picture.mode) == ((192, 192), "L")
    headers = [
        pydicom.dcmread(path, stop_before_pixels=True)
        for path in sorted((written / "studies" / "study0").iterdir())
    ]
    assert {header.BodyPartExamined for header in headers} == {"CSPINE"}
    assert Counter(header.SeriesDescription for header in headers) == {
        "T1_TSE_SAG": 3, "T2_TSE_SAG": 3,
    }  # fmt: skip


def test_the_source_has_what_real_ones_have(written: Path) -> None:
    first, second = ((written / "descr" / f"descr_0{n}.csv").read_bytes() for n in (0, 1))
    assert first.startswith(b"\xef\xbb\xbf")
    assert not second.startswith(b"\xef\xbb\xbf")
    rows = [
        row
        for data in (first, second)
        for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    ]
    usable = [row for row in rows if USABLE_VALUE in row.values()]
    assert (len(rows), len(usable)) == (10, 5)
    assert {row["Файлы"][-2:] for row in usable} == {"ng", "/n", "g\n"}
    assert sum(row["XML"].startswith("<annotationgroup>") for row in usable) == 2
    assert all(not row["XML"] for row in rows if row not in usable)


def test_necks_are_those_of_people() -> None:
    for seed in range(40):
        anatomy = draw_neck(np.random.default_rng(seed))
        centres = np.array([body.centre for body in anatomy.bodies])
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        assert (np.diff(centres[:, 1]) > 8).all()  # downwards, mm
        assert (steps > 13).all()
        assert (steps < 27).all()
        span = np.linalg.norm(centres[0] - centres[5])  # C2 to C7
        assert 75 < span < 115


def test_discs_lie_inside_the_frame_and_do_not_overlap() -> None:
    tags: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    for seed in range(60):
        record = neck_record(draw_neck_phantom(np.random.default_rng(seed), None), "0-0")
        boxes = np.array([s.box_xyxy for s in record.structures])
        assert (boxes == boxes.round()).all()
        assert (boxes[:, :2] > 0).all()
        assert (boxes[:, 2] < record.width - 1).all()
        assert (boxes[:, 3] < record.height - 1).all()
        middles = [s.point_xy[1] for s in record.structures]
        assert (np.diff(middles) > 10).all()
        tags.update(s.pathology[0] for s in record.structures)
        sizes[len(boxes)] += 1
    assert set(tags) == {"healthy", "sick"}
    assert min(tags.values()) > 40
    assert set(sizes) == {5, 6}


def test_what_is_marked_is_what_the_record_says() -> None:
    classes, extra = CervicalClasses(), Counter[str]()
    for seed in range(60):
        drawn = draw_neck_phantom(np.random.default_rng(seed), (384, 384))
        objects = marked_objects(drawn, np.random.default_rng([seed, 9]))
        marked = {
            (*item.points_xy[0], *item.points_xy[2]): classes.health(item.name)
            for item in objects
            if not item.deleted and classes.region(item.name) == "cervical"
            if item.points_xy[3] == (item.points_xy[0][0], item.points_xy[2][1])
        }
        for structure in neck_record(drawn, "0-0").structures:
            assert marked[structure.box_xyxy] == structure.pathology[0]
        extra["deleted"] += sum(item.deleted for item in objects)
        extra["thoracic"] += sum(classes.region(item.name) == "thoracic" for item in objects)
    assert min(extra.values()) > 5


def test_cord_fluid_and_air_look_as_in_t2() -> None:
    drawn = draw_neck_phantom(np.random.default_rng(1), (384, 384))
    values = sagittal_values(drawn)
    body = next(b for b in drawn.anatomy.bodies if b.name == "C4")
    s = drawn.anatomy.s_of(body.centre)
    scale, wall = drawn.anatomy.scale, body.depth / 2 + 0.8

    def at(u: float) -> float:
        x, y = drawn.view.to_pixels(drawn.anatomy.place([s], [u]))[0].round().astype(int)
        return float(np.median(values[y - 1 : y + 2, x - 1 : x + 2]))

    cord, front = at(wall + 6.5 * scale), at(wall + 1.5 * scale)
    assert front > 1.4 * cord > 1.4 * at(0.0) * 0.8
    assert values[:, 5].mean() < 0.1 * front


def test_sick_discs_are_darker_than_healthy_ones() -> None:
    signals: dict[str, list[float]] = {"healthy": [], "sick": []}
    for seed in range(12):
        drawn = draw_neck_phantom(np.random.default_rng(seed), (384, 384))
        values = sagittal_values(drawn)
        for structure in neck_record(drawn, "0-0").structures:
            x, y = (round(v) for v in structure.point_xy)
            signal = float(np.median(values[y - 1 : y + 2, x - 2 : x + 3])) / drawn.csf_value
            signals[structure.pathology[0]].append(signal)
    assert np.mean(signals["sick"]) < 0.8 * np.mean(signals["healthy"])


def test_the_slice_beside_the_midline_shows_no_cord() -> None:
    drawn = draw_neck_phantom(np.random.default_rng(1), (256, 256))
    middle, beside = sagittal_values(drawn), sagittal_values(drawn, lateral_mm=15.0)
    fluid = float(drawn.anatomy.depth_at(0.0)) / 2 + 2.3
    x, y = drawn.view.to_pixels(drawn.anatomy.place([0.0], [fluid]))[0].round().astype(int)
    assert beside[y - 1 : y + 2, x - 1 : x + 2].mean() < 0.7 * middle[y, x]


@pytest.mark.parametrize("mark", [True, False])
def test_csv_text(mark: bool) -> None:
    data = source_csv([["0", "a\n", "b", "<x/>", "", "p"]], mark=mark)
    assert data.startswith(b"\xef\xbb\xbf") == mark
    assert next(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))["Файлы"] == "a\n"


def test_from_phantoms_to_a_dataset(written: Path, tmp_path: Path, run_cli: RunCli) -> None:
    from spineline.datasets.dataset import load_dataset

    words = (f"annotations={written}", f"images={written / 'frames'}", f"out={tmp_path / 'data'}")
    code, output, errors = run_cli("convert", "cervical", *words, "columns.patient=Пациент")
    assert (code, errors) == (0, "")
    assert "5 of 10 annotated images converted" in output
    dataset = load_dataset(tmp_path / "data")
    assert {record.study_id for record in dataset.all_records()} == {
        f"patient-00{n}" for n in range(1, 6)
    }
    found = {record.image_id: record.structures for record in dataset.all_records()}
    for number in range(5):
        drawn = draw_neck_phantom(np.random.default_rng([2, 1, number]), (192, 192))
        wanted = neck_record(drawn, f"{number:03d}-000")
        assert found[wanted.image_id] == wanted.structures
