from __future__ import annotations

import pytest

from spineline.converters.sources.exports.images import ImagesOfExport, path_parts
from spineline.converters.sources.exports.marks import ExportedImage, texts_of
from spineline.converters.sources.source import EntryError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.png", ("a.png",)),
        ("./x/a.png", ("x", "a.png")),
        ("x/../../y/a.png", ("y", "a.png")),
        ("/home/me/a.png", ("home", "me", "a.png")),
        (r"..\images\a.png", ("images", "a.png")),
        (r"D:\x\a b.png", ("x", "a b.png")),
        ("https://h:80/x/a%20b.png?token=1/2#f", ("x", "a b.png")),
        ("http://[/a.png", ("a.png",)),
        ("file:///x/a.png", ("x", "a.png")),
        ("/data/local-files/?d=x%2Fa.png", ("data", "local-files", "x", "a.png")),
        ("/data/local-files/?d=../../a.png", ("a.png",)),
        ("100%.png", ("100%.png",)),
        ("..", ()),
        ("", ()),
    ],
)
def test_the_last_parts_of_a_name(name, parts):
    assert path_parts(name) == parts


def found_file(images, name):
    return images.find(ExportedImage("x", name)).file


def test_files_are_found_by_name_suffix_or_none(tmp_path, spine):
    images = ImagesOfExport(spine.images)
    assert found_file(images, "a-1.jpg") == "a-1.png"
    assert found_file(images, "b-1") == "b-1.png"
    assert found_file(images, "/data/upload/1/0a1b2c3d-c-1.png") == "c-1.png"
    with pytest.raises(EntryError, match=r"no file d-1\.png"):
        found_file(images, "d-1.png")
    with pytest.raises(EntryError, match="names no file"):
        found_file(images, "../..")
    assert images.not_taken() == []


def test_hidden_files_are_none(spine):
    (spine.images / ".hidden.png").write_bytes((spine.images / "a-1.png").read_bytes())
    with pytest.raises(EntryError, match="no file"):
        found_file(ImagesOfExport(spine.images), ".hidden.png")


def test_a_file_of_another_kind(spine):
    (spine.images / "notes.txt").write_text("x")
    with pytest.raises(EntryError, match="neither an image, a volume nor a DICOM file"):
        found_file(ImagesOfExport(spine.images), "notes.txt")


def test_a_damaged_image(spine):
    (spine.images / "a-1.png").write_bytes(b"\x89PNG")
    with pytest.raises(EntryError, match="cannot be read as an image"):
        found_file(ImagesOfExport(spine.images), "a-1.png")


def test_names_that_cannot_be_ids_become_some(spine):
    (spine.images / "a-1.png").rename(spine.images / "Müller, T2 (1).png")
    found = ImagesOfExport(spine.images).find(ExportedImage("x", "Müller, T2 (1).png"))
    assert found.image_id == "Müller--T2--1-"


def test_studies_by_the_names_of_images(spine):
    for number, name in enumerate(spine.names):
        (spine.images / name).rename(spine.images / f"053-00{number}.png")
    entry = ExportedImage("x", "053-001.png")
    assert ImagesOfExport(spine.images).find(entry).study_id == "053"
    alone = ImagesOfExport(spine.images, studies_by_name=False)
    assert alone.find(entry).study_id == "053-001"


def test_deep_lists_end():
    value: object = "a"
    for _ in range(5000):
        value = [value]
    assert texts_of(value) == ()
    assert texts_of([["a", ["b"]], 1]) == ("a", "b", "1")
