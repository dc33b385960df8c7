from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spineline.converters.formats.yolo import data_yaml_text, yolo_text
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.types import ImageRecord, Structure
from spineline.datasets.yolo_labels import parse_yolo_labels
from spineline.detect.engine.dataset import read_data, read_images


def record(*structures: Structure) -> ImageRecord:
    return ImageRecord("a", "a", 100, 200, structures)


def test_text_worked_out_by_hand():
    disc = Structure("L4-L5", "disc", (50, 100), (40, 80, 60, 120), ("v1",))
    low = Structure("L5-S1", "disc", (50, 195), (30, 180, 70, 210))
    # L5-S1 is cut at y = 200: from 180 to 200, centre 190.
    assert yolo_text(record(disc, low), "level") == (
        "8 0.500000000 0.500000000 0.200000000 0.200000000\n"
        "10 0.500000000 0.950000000 0.400000000 0.100000000\n"
    )


def test_what_is_less_than_a_pixel_is_no_box():
    sliver = Structure("L1", "vertebra", (50, 199), (40, 199.5, 60, 240))
    assert yolo_text(record(sliver), "level") == yolo_text(record(), "level") == ""


def test_rounding_stays_below_a_hundredth_of_a_pixel():
    rng = np.random.default_rng(3)
    for _ in range(50):
        left, top = rng.uniform(0, 40, 2)
        box = (left, top, left + rng.uniform(2, 50), top + rng.uniform(2, 90))
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        text = yolo_text(record(Structure("L1", "vertebra", centre, box)), "level")
        x, y, w, h = parse_yolo_labels(text, classes=11).boxes_cxcywhn[0] * [100, 200, 100, 200]
        assert np.abs(np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) - box).max() < 1e-6


def test_data_yaml_is_read_back(report_source, run_cli):
    files = report_source("001-000")
    assert run_cli("convert", "report", *files.words(split="train", to="yolo"))[0] == 0
    root = files.root / "out"
    names = ["no", "a: b", "ü"]
    (root / "data.yaml").write_text(data_yaml_text(names), encoding="utf-8")
    data = read_data(root)
    assert list(data.names) == names
    assert data.train == ((root / "images/train/001-000.png").resolve(),)


LINES = {
    "plain": ("0 0.5 0.5 0.1 0.1", True),
    "class as a decimal": ("0.0 0.5 0.5 0.1 0.1", True),
    "rounding above one": ("0 0.5 0.5 1.00005 0.1", True),
    "a hundredth above one": ("0 0.5 0.5 0.1 1.01", True),
    "a hundredth below zero": ("0 -0.01 0.5 0.1 0.1", True),
    "blank": ("  ", True),
    "byte-order mark": ("\ufeff0 0.5 0.5 0.1 0.1", True),
    "further above one": ("0 0.5 0.5 0.1 1.02", False),
    "further below zero": ("0 0.5 -0.02 0.1 0.1", False),
    "in pixels": ("0 50 50 10 10", False),
    "no width": ("0 0.5 0.5 0 0.1", False),
    "no height": ("0 0.5 0.5 0.1 0.0", False),
    "negative width": ("0 0.5 0.5 -0.005 0.1", False),
    "not a number": ("0 nan 0.5 0.1 0.1", False),
    "infinite": ("0 0.5 0.5 inf 0.1", False),
    "class beyond the names": ("11 0.5 0.5 0.1 0.1", False),
    "negative class": ("-1 0.5 0.5 0.1 0.1", False),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", False),
    "class is no number": ("nan 0.5 0.5 0.1 0.1", False),
    "a word": ("L1 0.5 0.5 0.1 0.1", False),
    "too few": ("0 0.5 0.5 0.1", False),
    "too many": ("0 0.5 0.5 0.1 0.1 0.9", False),
    "polygon": ("0 0.1 0.1 0.2 0.1 0.2 0.2", False),
}
ULTRALYTICS_TAKES = {"no width", "no height", "polygon"}
"""It drops the first two while it trains, and makes a box of the third."""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose images are called by the number of a line in ``LINES``."""
    from spineline.converters.convert import convert_report
    from spineline.converters.settings import ConvertReport

    root = tmp_path_factory.mktemp("lines")
    (root / "frames").mkdir()
    points = [
        {
            "identification": n,
            "class": "(2,0)" if n % 2 == 0 else "(0,0)",
            "coord": [48, 14 + 13 * n],
        }
        for n in range(11)
    ]
    rng = np.random.default_rng(0)
    for number in range(len(LINES)):
        np.save(root / f"frames/{number:03}.npy", rng.integers(0, 250, (160, 96), dtype=np.uint8))
    entries = [{"id": f"{number:03}", "point": points} for number in range(len(LINES))]
    (root / "labels.json").write_text(json.dumps(entries))
    convert_report(
        ConvertReport(
            annotations=root / "labels.json",
            images=root / "frames",
            out=root / "set",
            split="train",
        )
    )
    for number, (line, _) in enumerate(LINES.values()):
        path = root / f"set/labels/train/{number:03}.txt"
        path.write_text(f"{line}\n1 0.5 0.5 0.1 0.1\n", encoding="utf-8")
    return root / "set"


def test_every_command_gives_a_line_the_same_verdict(labelled, run_cli, tmp_path):
    assert run_cli("data", "check", f"data={labelled}", f"out={tmp_path / 'check'}")[0] == 0
    found = json.loads((tmp_path / "check/check.json").read_text())
    refused = {f["image_id"] for f in found if f["finding"] == "label_file"}
    data = read_data(labelled)
    verdicts = {}
    for file, name in zip(data.train, LINES, strict=True):
        trains = True
        try:
            read_images((file,), data.names, part="train")
        except AnnotationError:
            trains = False
        verdicts[name] = (file.stem not in refused, trains)
    assert verdicts == {name: (taken, taken) for name, (_, taken) in LINES.items()}


def test_ultralytics_gives_the_same_verdicts_but_for_three(labelled):
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.data.utils import verify_image_label

    for file, (name, (_, taken)) in zip(read_data(labelled).train, LINES.items(), strict=True):
        label = labelled / f"labels/train/{file.stem}.txt"
        if name == "polygon":
            label.write_text(LINES[name][0])
        corrupt = verify_image_label((str(file), str(label), "", False, 11, 0, 0, False))[8]
        assert (not corrupt) == (taken or name in ULTRALYTICS_TAKES), name


def test_a_line_that_repeats_another_counts_once_in_training(report_source, run_cli, caplog):
    files = report_source("001-000")
    assert run_cli("convert", "report", *files.words(split="train"))[0] == 0
    path = files.root / "out/labels/train/001-000.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0]]))
    data = read_data(files.root / "out")
    with caplog.at_level("WARNING", logger="spineline"):
        (image,) = read_images(data.train, data.names, part="train")
    assert image.class_index.tolist() == list(range(11))
    assert "train: 1 label lines repeat another and count once" in caplog.text
