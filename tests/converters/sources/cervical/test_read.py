"""The cervical source: its rules against the published result, hand-worked cases, bad inputs."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from spineline.converters.sources.cervical.filters import CervicalRules
from spineline.converters.sources.cervical.read import read_cervical
from spineline.datasets.cervical import USABLE_VALUE, CervicalColumns
from spineline.datasets.dataset import load_dataset

COLUMNS = CervicalColumns()
HEADER = ["ID", COLUMNS.file, COLUMNS.usable, COLUMNS.xml, "Комментарий", "Пациент"]
HEALTHY, SICK = "shejnyj-mezhpozvonochnyj-disk-zdorovyj", "shejnyj-mezhpozvonochnyj-disk-x"
THORACIC = "grudnoj-mezhpozvonochnyj-disk-zdorovyj"
SIZE = (96, 160)


def item(name: str, box: tuple[float, ...], *, deleted: str = "0", points: Any = None) -> str:
    left, top, right, bottom = box
    corners = points or [(left, top), (right, top), (right, bottom), (left, bottom)]
    pts = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in corners)
    return (
        f"<object><name>{name}</name><deleted>{deleted}</deleted><polygon>{pts}</polygon></object>"
    )


def discs(count: int = 5, sick: int = 2) -> list[str]:
    return [
        item(SICK if n < sick else HEALTHY, (30, 10 + 24 * n, 60, 22 + 24 * n))
        for n in range(count)
    ]


def annotation(
    objects: list[str], *, name: str = "", wrapped: bool = False, size: Any = SIZE
) -> str:
    sizes = (
        f"<imagesize><nrows>{size[1]}</nrows><ncols>{size[0]}</ncols></imagesize>" if size else ""
    )
    xml = f"<annotation><filename>{name}</filename>{sizes}{''.join(objects)}</annotation>"
    return f"<annotationgroup>{xml}</annotationgroup>" if wrapped else xml


def row(
    name: str, xml: str | None = None, usable: str = USABLE_VALUE, patient: str = ""
) -> list[str]:
    return ["0", name, usable, annotation(discs()) if xml is None else xml, "", patient]


def table(*rows: list[str], header: list[str] = HEADER) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


class FilesOfCervical:
    """A source to be: CSV files and images of 96 x 160 in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "descr").mkdir()
        (root / "images").mkdir()

    def csv(self, data: bytes, name: str = "a.csv") -> FilesOfCervical:
        (self.root / "descr" / name).write_bytes(data)
        return self

    def image(self, *names: str) -> FilesOfCervical:
        for seed, name in enumerate(names):
            noise = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0]), np.uint8)
            cv2.imwrite(str(self.root / "images" / name), noise)
        return self

    def words(self, **more: object) -> list[str]:
        given = {"annotations": self.root / "descr", "images": self.root / "images",
                 "out": self.root / "out", **more}  # fmt: skip
        return [f"{name}={value}" for name, value in given.items() if value is not None]

    def conversion(self) -> dict[str, Any]:
        return json.loads((self.root / "out" / "conversion.json").read_text())


@pytest.fixture
def source(tmp_path: Path) -> FilesOfCervical:
    return FilesOfCervical(tmp_path)


# The published source


@pytest.fixture(scope="module")
def published(shared_cervical: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from spineline.pipeline.cli.main import main

    out = tmp_path_factory.mktemp("published") / "out"
    words = (f"annotations={shared_cervical}", f"out={out}", "min_boxes=3", "min_bin_size=9")
    formats = "to=yolo,voc,coco,fasterrcnn"
    assert main(["convert", "cervical", *words, "iou=0.65", "train_ratio=0.67", formats]) == 1
    return out


def test_the_published_table_to_the_last_disc(shared_cervical: Path, published: Path) -> None:
    wanted = json.loads((shared_cervical / "expected.json").read_text())
    content = json.loads((published / "conversion.json").read_text())
    found = content["table"]
    pairs = {
        "files": "markup_files", "rows": "images", "usable": "good_for_markup",
        "with_cervical_discs": "with_cervical_discs", "used": "used", "discs": "discs",
        "healthy": "healthy", "sick": "sick", "discs_per_image": "discs_per_image",
    }  # fmt: skip
    assert {name: found[name] for name in pairs} == {n: wanted[w] for n, w in pairs.items()}
    assert found["used"] + sum(found["left_out"].values()) == found["rows"] == 891
    reasons = Counter(entry["reason"] for entry in content["left_out"])
    assert reasons == found["left_out"] == {
        "broken_xml": 6, "no_cervical_disc": 16, "not_usable": 526, "rare_disc_count": 9,
        "too_few_discs": 6,
    }  # fmt: skip
    objects = dict(found["objects"])
    assert objects.pop("marked") - sum(objects.values()) == found["discs"] == 1641


def test_every_box_is_the_published_one(shared_cervical: Path, published: Path) -> None:
    wanted = json.loads((shared_cervical / "expected.json").read_text())["boxes"]
    dataset = load_dataset(published)
    found = {
        f"{record.image_id}.jpg": sorted([*s.box_xyxy, *s.pathology] for s in record.structures)
        for record in dataset.all_records()
    }
    assert found == {name: sorted(boxes) for name, boxes in wanted.items()}
    assert [len(dataset.records[part]) for part in ("train", "val", "test")] == [219, 109, 0]


def test_the_prepared_files_hold_the_published_boxes(
    shared_cervical: Path, published: Path
) -> None:
    wanted = json.loads((shared_cervical / "expected.json").read_text())["boxes"]
    markup = json.loads((published / "fasterrcnn" / "markup.json").read_text())
    found = {
        Path(entry["img_path"]).stem + ".jpg": sorted(
            [*box["bbox"], ["", "healthy", "sick"][box["label"]]] for box in entry["annotation"]
        )
        for entry in markup
    }
    assert found == {name: sorted(boxes) for name, boxes in wanted.items()}
    parts = [
        json.loads((published / "fasterrcnn" / f"{part}.json").read_text())
        for part in ("train", "val", "test")
    ]
    assert [len(part) for part in parts] == [219, 109, 0]
    assert [entry for part in parts for entry in part] == markup


def test_defaults_are_those_of_the_publication(shared_cervical: Path) -> None:
    assert len(read_cervical(shared_cervical, None, CervicalRules()).records) == 328


# Rules


def test_what_is_left_out_of_an_image_is_counted(source: FilesOfCervical, run_cli) -> None:
    twice = item(HEALTHY, (31, 10, 60, 22))  # over the first, sick one
    objects = [
        *discs(), twice,
        item(THORACIC, (30, 140, 60, 150)),
        item(HEALTHY, (30, 140, 60, 150), deleted="1"),
        item("poyasnichnyj-disk", (30, 140, 60, 150)),
        item(SICK, (0, 0, 1, 1), points=[(1, 2), (5, 2), (5, 4), (1, 5)]),
        item(SICK, (30, 140, 30, 150)),
        "<object><name>shejnyj-disk-x</name></object>",
    ]  # fmt: skip
    source.csv(table(row("a.png", annotation(objects, wrapped=True)))).image("a.png")
    assert run_cli("convert", "cervical", *source.words())[0] == 0
    content = source.conversion()
    assert content["table"]["objects"] == {
        "marked": 12, "deleted_object": 1, "thoracic_disc": 1, "unknown_class": 1,
        "not_rectangle": 2, "degenerate_box": 1, "duplicate_box": 1, "in_images_left_out": 0,
    }  # fmt: skip
    assert content["counts"]["class"] == {"healthy": 3, "sick": 2}
    assert content["counts"]["pathology"]["disc"]["sick"] == 2
    assert Counter(f["finding"] for f in content["findings"]) == {
        "thoracic_disc": 1, "deleted_object": 1, "unknown_class": 1, "not_rectangle": 2,
        "degenerate_box": 1, "duplicate_box": 1,
    }  # fmt: skip


def test_filters_on_the_number_of_discs(source: FilesOfCervical, run_cli) -> None:
    rows = [row(f"five{n}.png") for n in range(3)]
    rows += [row("four.png", annotation(discs(4))), row("two.png", annotation(discs(2)))]
    rows += [row("none.png", annotation([])), row("side.png", "", "нет"), row("bare.png", "")]
    source.csv(table(*rows))
    words = source.words(images=None, min_boxes=3, min_bin_size=2)
    assert run_cli("convert", "cervical", *words)[0] == 0
    content = source.conversion()
    assert {e["image_id"]: e["reason"] for e in content["left_out"]} == {
        "four": "rare_disc_count", "two": "too_few_discs", "none": "no_cervical_disc",
        "side": "not_usable", "bare": "no_annotation",
    }  # fmt: skip
    assert content["table"]["discs_per_image"] == {"5": 3}
    assert content["table"]["objects"]["in_images_left_out"] == 6
    assert content["counts"]["entries"] == 8


def test_a_small_source_is_not_emptied_by_the_default(source: FilesOfCervical) -> None:
    source.csv(table(row("a.png"), row("b.png", annotation(discs(4)))))
    folder = source.root / "descr"
    assert len(read_cervical(folder, None, CervicalRules()).records) == 2
    assert len(read_cervical(folder, None, CervicalRules(min_bin_size=2)).records) == 0
    many = [row(f"m{n}.png") for n in range(100)] + [row("b.png", annotation(discs(4)))]
    source.csv(table(*many))
    assert len(read_cervical(folder, None, CervicalRules()).records) == 100


def test_the_first_row_of_an_image_counts(source: FilesOfCervical) -> None:
    source.csv(table(row("a.png"), row("a.png/n", annotation(discs(4)))))
    found = read_cervical(source.root / "descr", None, CervicalRules())
    assert [len(record.structures) for record in found.records] == [5]
    assert [(e.reason, e.failed) for e in found.left_out] == [("duplicate_id", False)]


def test_images_of_one_name_in_two_folders_are_two(source: FilesOfCervical, run_cli) -> None:
    for folder in ("one", "two"):
        (source.root / "images" / folder).mkdir()
    source.image("one/a.png", "two/a.png", "b.jpg", "b.png")
    again, gone = annotation(discs(4)), annotation(discs(3))
    source.csv(
        table(
            row("one/a.png"), row("two/a.png", again), row("b.png"), row("b.jpg", again),
            row("two/a.png/n", gone), row("three/a.png", gone), row("b.npy", gone),
        )
    )  # fmt: skip
    code, _, errors = run_cli("convert", "cervical", *source.words(split="test", to="yolo,coco"))
    assert code == 0, errors
    records = load_dataset(source.root / "out").records["test"]
    assert {r.image_id: len(r.structures) for r in records} == {
        "a": 5, "two-a": 4, "b": 5, "b-jpg": 4
    }  # fmt: skip
    assert {r.study_id for r in records} == {"a", "two-a", "b", "b-jpg"}
    left_out = source.conversion()["left_out"]
    assert [entry["reason"] for entry in left_out] == ["duplicate_id"] * 3
    images = [(source.root / "out/images/test" / f"{r.image_id}.png").read_bytes() for r in records]
    assert len(set(images)) == 4


def test_images_of_a_patient_stay_together_whatever_their_folder(source: FilesOfCervical) -> None:
    (source.root / "images" / "two").mkdir()
    source.image("a.png", "two/a.png")
    source.csv(table(row("a.png", patient="P"), row("two/a.png", patient="P")))
    rules = CervicalRules(columns=CervicalColumns(patient="Пациент"))
    records = read_cervical(source.root / "descr", source.root / "images", rules).records
    assert [(r.image_id, r.study_id) for r in records] == [
        ("a", "patient-001"), ("two-a", "patient-001")
    ]  # fmt: skip


def test_without_images_a_name_is_one_image(source: FilesOfCervical) -> None:
    source.csv(table(row("one/a.png"), row("two/a.png")))
    found = read_cervical(source.root / "descr", None, CervicalRules())
    assert [record.image_id for record in found.records] == ["a"]


@pytest.mark.parametrize(
    ("separator", "name"), [(";", "semicolons"), ("\t", "tabs")], ids=["semicolons", "tabs"]
)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL], ids=["plain", "quoted"])
def test_other_separators_are_named(
    source: FilesOfCervical, run_cli, separator: str, name: str, quoting: Any
) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, quoting=quoting).writerows([HEADER, row("a.png")])
    source.csv(b"\xef\xbb\xbf" + text.getvalue().encode())
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert f"a.csv: {'its header' if separator == ';' and quoting else ''}" in errors
    assert f"its columns are separated by {name}: save it with commas" in errors


def test_discs_are_sorted_from_the_top(source: FilesOfCervical) -> None:
    source.csv(table(row("a.png", annotation(discs()[::-1]))))
    (record,) = read_cervical(source.root / "descr", None, CervicalRules()).records
    assert [s.point_xy[1] for s in record.structures] == [16, 40, 64, 88, 112]
    assert record.structures[0].box_xyxy == (30, 10, 60, 22)
    assert (record.width, record.height) == SIZE
    assert {s.level for s in record.structures} == {""}


def test_boxes_over_the_edge_are_clipped_in_files_only(source: FilesOfCervical, run_cli) -> None:
    objects = [*discs(4), item(SICK, (70, 140, 120, 150))]
    source.csv(table(row("a.png", annotation(objects)))).image("a.png")
    assert run_cli("convert", "cervical", *source.words(split="val"))[0] == 0
    dataset = load_dataset(source.root / "out")
    (record,) = dataset.records["val"]
    assert record.structures[-1].box_xyxy == (70, 140, 120, 150)
    assert record.structures[-1].findings == ("box_outside",)
    coco = json.loads((source.root / "out/annotations/val.json").read_text())
    assert coco["annotations"][-1]["bbox"] == [70, 140, 26, 10]
    (finding,) = source.conversion()["findings"]
    assert finding["level"] is None
    assert "disc (70, 140, 120, 150)" in finding["detail"]


# Settings


def test_names_of_columns_and_classes_are_settings(source: FilesOfCervical, run_cli) -> None:
    xml = annotation([item("c3 ok", (10, 10, 30, 20)), item("c4 bad", (10, 40, 30, 50)),
                      item("t1 ok", (10, 70, 30, 80)), item("L1", (10, 90, 30, 99))])  # fmt: skip
    rows = [["a.png", "yes", xml, "Doe"], ["b.png", "no", "", "Doe"], ["c.png", "yes", xml, "Doe"],
            ["d.png", "yes", xml, "Roe"], ["e.png", "yes", xml, ""]]  # fmt: skip
    source.csv(table(*rows, header=["Name", "OK", "Markup", "Who"]))
    words = source.words(
        images=None, min_boxes=1, usable_value="yes",
        **{"columns.file": "Name", "columns.usable": "OK", "columns.xml": "Markup",
           "columns.patient": "Who", "classes.cervical": "c*", "classes.thoracic": "t*",
           "classes.healthy": "* ok"},
    )  # fmt: skip
    assert run_cli("convert", "cervical", *words)[0] == 0
    records = load_dataset(source.root / "out").all_records()
    studies = {record.image_id: record.study_id for record in records}
    assert studies == {"a": "patient-001", "c": "patient-001", "d": "patient-002", "e": "e"}
    assert {s.pathology for r in records for s in r.structures} == {("healthy",), ("sick",)}
    assert source.conversion()["table"]["objects"]["unknown_class"] == 4
    assert "Doe" not in "".join(
        p.read_text() for p in (source.root / "out").rglob("*.*") if p.suffix in (".json", ".yaml")
    )
    kept = yaml.safe_load((source.root / "out/run.yaml").read_text())["settings"]
    assert kept["columns"]["file"] == "Name"
    assert kept["classes"]["healthy"] == ["* ok"]
    cfg = source.root / "again.yaml"
    kept.pop("out")
    cfg.write_text(yaml.safe_dump(kept, allow_unicode=True))
    again = source.root / "again"
    assert run_cli("convert", "cervical", f"cfg={cfg}", f"out={again}")[0] == 0
    assert len(load_dataset(again).all_records()) == 4


def test_images_of_a_patient_are_not_split(source: FilesOfCervical, run_cli) -> None:
    rows = [row(f"p{n}-{k}.png", patient=f"name {n}") for n in range(9) for k in range(3)]
    source.csv(table(*rows))
    words = source.words(images=None, train_ratio=0.67, **{"columns.patient": "Пациент"})
    assert run_cli("convert", "cervical", *words)[0] == 0
    dataset = load_dataset(source.root / "out")
    parts = {part: {r.image_id[:2] for r in dataset.records[part]} for part in ("train", "val")}
    assert parts["train"] | parts["val"] == {f"p{n}" for n in range(9)}
    assert not parts["train"] & parts["val"]
    assert [len(dataset.records[part]) for part in ("train", "val")] == [18, 9]


def test_the_seed_decides_the_split(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(*(row(f"a{n}.png") for n in range(20))))
    found = []
    for seed in (1, 1, 2):
        words = source.words(images=None, train_ratio=0.5, seed=seed, overwrite="true")
        assert run_cli("convert", "cervical", *words)[0] == 0
        found.append((source.root / "out/split.json").read_text())
    assert found[0] == found[1] != found[2]


def test_folds(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(*(row(f"a{n}.png") for n in range(9))))
    words = source.words(images=None, kfold=3, to="yolo,coco,fasterrcnn")
    assert run_cli("convert", "cervical", *words)[0] == 0
    for n in range(3):
        assert len(load_dataset(source.root / f"out/fold{n}").records["val"]) == 3
        assert (source.root / f"out/fold{n}/fasterrcnn/val.json").is_file()
    assert source.conversion()["table"]["used"] == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            {"labels": "level"}, "names no levels and grades discs no further", id="level"
        ),
        pytest.param({"labels": "seven"}, "labels=seven: a cervical source", id="seven"),
        pytest.param({"labels": "binary"}, "use labels=health", id="binary"),
        pytest.param({"train_ratio": "1"}, "train_ratio=1.0: wanted a ratio", id="ratio"),
        pytest.param({"train_ratio": "0.5", "split": "val"}, "leave one out", id="two splits"),
        pytest.param({"train_ratio": "0.5", "kfold": "3"}, "leave one out", id="ratio and folds"),
        pytest.param({"iou": "2"}, "iou=2.0: out of range", id="iou"),
        pytest.param({"min_boxes": "0"}, "min_boxes=0: out of range", id="min_boxes"),
        pytest.param({"columns.fiel": "x"}, "did you mean 'columns.file'", id="column key"),
        pytest.param({"columns": "x"}, "names a group of keys", id="group"),
        pytest.param({"to": "yolov3"}, "to=yolov3: not an allowed value", id="format"),
    ],
)
def test_settings_that_do_not_fit(source, run_cli, words: dict[str, str], message: str) -> None:
    source.csv(table(row("a.png")))
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None, **words))
    assert code == 2
    assert message in errors
    assert not (source.root / "out").exists()


# Images


def test_missing_images_are_counted(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(row("a.png"), row("b.png"), row("c.jpg"))).image("a.png", "c.png")
    code, _, errors = run_cli("convert", "cervical", *source.words(split="train"))
    assert code == 0
    assert "1 images are missing" in errors
    content = source.conversion()
    assert content["table"]["missing_images"] == 1
    assert [f["image_id"] for f in content["findings"]] == ["b"]
    images = sorted(path.name for path in (source.root / "out/images/train").iterdir())
    assert images == ["a.png", "c.png"]  # the same name with another suffix is found
    assert len(load_dataset(source.root / "out").records["train"]) == 3


def test_required_images(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(row("a.png"), row("b.png"))).image("a.png")
    code, _, errors = run_cli("convert", "cervical", *source.words(require_images="true"))
    assert code == 1
    assert "1 of 2 images are missing, such as b" in errors
    assert not (source.root / "out").exists()
    source.image("b.png")
    assert run_cli("convert", "cervical", *source.words(require_images="true"))[0] == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda path: path.write_bytes(b"no image"), "cannot be decoded", id="damaged"),
        pytest.param(
            lambda path: cv2.imwrite(str(path), np.zeros((9, 9), np.uint8)),
            "the image is 9x9, its header or annotation says 96x160",
            id="of another size",
        ),
    ],
)
def test_images_that_do_not_fit(source, run_cli, spoil, message: str) -> None:
    source.csv(table(row("a.png"), row("b.png"))).image("a.png", "b.png")
    spoil(source.root / "images" / "a.png")
    code, _, errors = run_cli("convert", "cervical", *source.words(split="train"))
    assert code == 1
    assert message in errors
    content = source.conversion()
    assert content["table"]["left_out"] == {"unreadable_image": 1}
    assert (content["table"]["used"], content["counts"]["images"]["train"]) == (1, 1)


def test_a_size_that_the_xml_does_not_give_is_the_images(source: FilesOfCervical, run_cli) -> None:
    bare = annotation(discs(), size=None)
    source.csv(table(row("a.png", bare), row("b.png", bare))).image("a.png")
    code, _, errors = run_cli("convert", "cervical", *source.words(split="train"))
    assert code == 1
    assert "the XML gives no imagesize, and the image is missing" in errors
    (record,) = load_dataset(source.root / "out").all_records()
    assert (record.width, record.height) == SIZE


def test_names_do_not_lead_out_of_the_images_folder(source: FilesOfCervical) -> None:
    source.image("a.png")
    (source.root / "images/a.png").rename(source.root / "secret.png")
    source.csv(table(row("../secret.png"), row(str(source.root / "secret.png"))))
    found = read_cervical(source.root / "descr", source.root / "images", CervicalRules())
    assert [record.file for record in found.records] == [None]


@pytest.mark.parametrize("folder", ["a" * 300, "sub/" * 2000, "nothing"], ids=len)
def test_a_folder_that_cannot_be_there_is_a_missing_one(
    source: FilesOfCervical, run_cli, folder: str
) -> None:
    source.csv(table(row(f"{folder}/a.png"), row(f"{folder}/b.png"))).image("a.png")
    code, _, errors = run_cli("convert", "cervical", *source.words(split="train"))
    assert (code, "1 images are missing" in errors) == (0, True)
    found = read_cervical(source.root / "descr", source.root / "images", CervicalRules())
    assert [record.file for record in found.records] == ["a.png", None]


# What may come from anywhere

BOMB = (
    '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    "<annotation><filename>&b;</filename></annotation>"
)
OUTSIDE = (
    '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&x;</filename></annotation>"
)


@pytest.mark.parametrize(
    ("xml", "reason", "message"),
    [
        pytest.param("<annotation><na", "broken_xml", "not well-formed", id="cut short"),
        pytest.param("plain text", "broken_xml", "not well-formed", id="no XML"),
        pytest.param(BOMB, "broken_xml", "DOCTYPE is not allowed", id="entities"),
        pytest.param(OUTSIDE, "broken_xml", "DOCTYPE is not allowed", id="outside entity"),
        pytest.param("<annotation>&x;</annotation>", "broken_xml", "Entity 'x'", id="entity"),
        pytest.param("<a>" * 5000 + "</a>" * 5000, "broken_xml", "depth", id="deep nesting"),
        pytest.param("<html/>", "broken_xml", "root is <html>", id="other root"),
        pytest.param("<annotationgroup/>", "broken_xml", "without annotation", id="empty group"),
        pytest.param("<annotation>\x01</annotation>", "broken_xml", "well-formed", id="control"),
        pytest.param(
            "<annotation>\x00</annotation>", "broken_xml", "Char 0x0 out of allowed range",
            id="zero byte",
        ),
        pytest.param(
            annotation([item(SICK, ("x", 1, 2, 3))]), "not_a_number", "<x> is 'x'", id="no number"
        ),
        pytest.param(
            annotation([item(SICK, ("nan", 1, 2, 3))]), "not_a_number", "'nan'", id="nan"
        ),
        pytest.param(
            annotation([item(SICK, ("1e300", 1, 2, 3))]), "not_a_number", "'1e300'", id="huge"
        ),
        pytest.param(
            "<annotation>" + "x" * (11 << 20) + "</annotation>",
            "oversized_field", "characters, allowed 10485760", id="oversized",
        ),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_and_the_others_are_read(
    source, run_cli, xml: str, reason: str, message: str
) -> None:
    source.csv(table(row("good.png"), row("bad.png", xml), row("fine.png")))
    before = csv.field_size_limit()
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert csv.field_size_limit() == before
    (line,) = [line for line in errors.splitlines() if reason in line]
    assert "a.csv, row 3" in line
    assert message in line
    content = source.conversion()
    assert content["table"]["used"] == 2
    (entry,) = content["left_out"]
    assert (entry["reason"], entry["failed"]) == (reason, True)
    assert "/etc" not in errors
    assert "root:" not in errors


@pytest.mark.parametrize(
    ("spoil", "reason", "message"),
    [
        pytest.param(
            lambda data: data.replace(b"bad.png", "плохо.png".encode("cp1251")),
            "wrong_encoding", "'Файлы' is not UTF-8", id="row in another encoding",
        ),
        pytest.param(
            lambda data: data.replace(b"0,bad.png,", b"0,"), "bad_row", "", id="too few columns"
        ),
        pytest.param(
            lambda data: data + b'0,"never closed,', "bad_row", "not CSV near line", id="open quote"
        ),
        pytest.param(
            lambda data: data.replace(b"bad.png", b"a b.png"), "bad_entry", "cannot name a file",
            id="no file name",
        ),
        pytest.param(
            lambda data: data.replace(b"bad.png", b""), "bad_entry", "names no image file",
            id="no name",
        ),
    ],
)  # fmt: skip
def test_bad_rows(source, run_cli, spoil, reason: str, message: str) -> None:
    rows = [row("good.png")[:5], row("bad.png")[:5]]
    if reason == "bad_row" and not message:
        rows[1] = rows[1][:4]
    source.csv(spoil(table(*rows, header=HEADER[:5])))
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert f"({reason}): a.csv, row" in errors
    assert message in errors
    assert source.conversion()["table"]["used"] >= 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "bad.csv: empty; wanted a header with 'Файлы'", id="empty"),
        pytest.param(b"\r\n\r\n", "bad.csv: empty", id="blank lines"),
        pytest.param(b"\xef\xbb\xbf", "bad.csv: empty", id="byte-order mark alone"),
        pytest.param(table(), "bad.csv: a header and no rows", id="no rows"),
        pytest.param(
            table(row("a.png"), header=["ID", "Name", "OK", "XML", "x", "y"]),
            "bad.csv: no column 'Файлы'; found 'ID', 'Name', 'OK', 'XML', 'x', 'y'; "
            "name it with columns.file=…",
            id="missing column",
        ),
        pytest.param(
            table(row("a.png")).decode().encode("utf-16"), "UTF-16 text, wanted UTF-8", id="utf-16"
        ),
        pytest.param(
            table(row("a.png")).decode().encode("cp1251"), "its header is not UTF-8", id="cp1251"
        ),
        pytest.param(b'"ID', "its header cannot be read", id="open quote"),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_read(source, run_cli, data, message: str) -> None:
    source.csv(data, "bad.csv")
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert message in errors
    assert not (source.root / "out").exists()
    source.csv(table(row("good.png")), "good.csv")
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert message in errors
    assert [r.image_id for r in load_dataset(source.root / "out").all_records()] == ["good"]


@pytest.mark.parametrize("name", ["a\x1b[31m.png", "a\x00.png", "\x1b[31m/a.png", "a.\x1b[31m"])
def test_no_control_character_of_a_name_reaches_the_terminal(source, run_cli, name: str) -> None:
    source.csv(table(row("good.png"), row(name, "<cut")))
    code, out, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert "a.csv, row 3" in errors
    assert all(c.isprintable() or c == "\n" for c in out + errors)


def test_a_row_that_is_short_and_in_another_encoding(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(row("good.png")) + "0,плохо.png\r\n".encode("cp1251"))
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert "a.csv, row 3: left out (bad_row): a.csv, row 3: 2 of 6 columns" in errors
    assert source.conversion()["left_out"][0]["image_id"] == "a.csv, row 3"


def test_the_lines_behind_an_open_quote_are_named(source: FilesOfCervical, run_cli) -> None:
    lost = table(row("b.png"), row("c.png")).split(b"\r\n", 1)[1]
    source.csv(table(row("good.png")) + b'0,"never closed,\r\n' + lost)
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert "lines 3 to 5 are left out: is a quote there never closed?" in errors


def test_a_missing_patient_column_is_named(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(row("a.png")))
    words = source.words(images=None, **{"columns.patient": "Кто"})
    code, _, errors = run_cli("convert", "cervical", *words)
    assert code == 1
    assert "no column 'Кто'" in errors
    assert "columns.patient=…" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"annotations": "nowhere"}, "annotations=nowhere: no such file or folder"),
        ({"images": "nowhere"}, "images=nowhere: no such folder"),
    ],
)
def test_places_that_are_not_there(source, run_cli, words, message: str) -> None:
    source.csv(table(row("a.png")))
    code, _, errors = run_cli("convert", "cervical", *source.words(**words))
    assert code == 1
    assert message in errors


def test_a_source_of_which_nothing_is_left_fails(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(row("a.png", annotation([]))))
    code, _, errors = run_cli("convert", "cervical", *source.words(images=None))
    assert code == 1
    assert "no image in it could be converted" in errors


# Other commands on it


@pytest.mark.parametrize("images", [True, False])
def test_data_check_knows_the_source(source: FilesOfCervical, run_cli, images: bool) -> None:
    odd = annotation([*discs(), item(SICK, (30, 140, 30, 150))])
    source.csv(table(row("a.png"), row("b.png", odd), row("c.png", "<a"))).image("a.png", "b.png")
    place = source.root / "images" if images else None
    code, output, _ = run_cli("data", "check", *source.words(images=place))
    assert code == 0
    assert "3 annotated images checked: degenerate_box 1, bad_entry 1" in output
    found = json.loads((source.root / "out/check.json").read_text())
    assert [(f["image_id"], f["finding"]) for f in found] == [
        ("b", "degenerate_box"), ("c", "bad_entry"),
    ]  # fmt: skip


def test_data_check_takes_the_names_of_columns(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(["a.png", "yes", annotation(discs())], header=["Name", "OK", "XML"]))
    names = {"columns.file": "Name", "columns.usable": "OK", "usable_value": "yes"}
    code, output, _ = run_cli("data", "check", *source.words(images=None, **names))
    assert code == 0
    assert "1 annotated images checked: nothing found" in output


@pytest.mark.usefixtures("without_figures")
def test_a_converted_dataset_has_no_findings(source: FilesOfCervical, run_cli) -> None:
    source.csv(table(row("a.png"), row("b.png"))).image("a.png", "b.png")
    assert run_cli("convert", "cervical", *source.words(split="train"))[0] == 0
    words = (f"data={source.root / 'out'}", f"out={source.root / 'check'}")
    code, output, _ = run_cli("data", "check", *words)
    assert code == 0
    assert "nothing found" in output
    code, output, _ = run_cli("data", "stats", words[0], f"out={source.root / 'stats'}")
    assert code == 0
    found = json.loads((source.root / "stats/stats.json").read_text())["parts"]["all"]
    assert found["pathology"]["disc"]["sick"] == 4
    assert found["discs_per_image"] == {"5": 2}
