"""Texts and values: what reads a spoilt document refuses it or answers soundly."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_mutators import HOSTILE_NAMES, places_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spineline.converters import convert
from spineline.converters import settings as keys
from spineline.converters.formats.voc import read_voc
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.settings import parse_settings, read_settings_file
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS
from spineline.datasets.yolo_labels import read_yolo_labels
from spineline.detect.engine.dataset import read_data
from spineline.pipeline.inference.results import StudyResult, read_result
from spineline.pipeline.run.settings import PipelinePredict
from spineline.weights import load_registry

# ---- documents that are spoilt


HOSTILE_TEXT = st.sampled_from(
    (*HOSTILE_NAMES, "nan", "-1", "1e999", "9" * 400, "<", "&x;", '"', "]]>")
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    HOSTILE_TEXT,
    st.sampled_from((10**400, "x" * 70_000, "\uff11\uff12", [0] * 1000, {"": None}, [[]], [{}])),
    st.recursive(st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
)
HEADS = st.sampled_from(
    (
        b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\n" * 1000, b'"', b"[" * 100_000,
        b'<!DOCTYPE a [<!ENTITY x "y">]>', b"<a>" * 5000,
        b'<?xml version="1.0" encoding="utf-16"?>', b"!!python/object/apply:os.getcwd []\n",
        b"a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n",
    )
)  # fmt: skip


@st.composite
def spoilt_json(draw: st.DrawFn, document: Any) -> bytes:
    """The document with one to three values replaced, removed, doubled or renamed."""
    value = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(value))
        if not places:
            break
        holder, name = draw(st.sampled_from(places))
        how = draw(st.sampled_from(("replace", "replace", "remove", "again")))
        if how == "replace":
            holder[name] = copy.deepcopy(draw(VALUES))
        elif how == "remove":
            del holder[name]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[name]))
        else:
            holder[draw(HOSTILE_TEXT)] = holder.pop(name)
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def spoilt_text(draw: st.DrawFn, text: bytes) -> bytes:
    """The text with a hostile head, a cut end, or words replaced."""
    how = draw(st.sampled_from(("head", "cut", "words", "words")))
    if how == "head":
        return draw(HEADS) + text
    if how == "cut":
        return text[: draw(st.integers(0, len(text)))]
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 12)))
        new = draw(HOSTILE_TEXT | st.text(max_size=12)).encode("utf-8", "surrogatepass")
        text = text[:start] + new + text[stop:]
    return text


# ---- what reads them


def check_records(records: Sequence[Any]) -> None:
    for record in records:
        assert record.width > 0
        assert record.height > 0
        for s in record.structures:
            assert all(math.isfinite(v) for v in (*s.point_xy, *s.box_xyxy))
            left, top, right, bottom = s.box_xyxy
            assert left <= right
            assert top <= bottom


def check_converted(result: Any, out: Path) -> None:
    check_records(result.source.records)
    if result.source.records:
        loaded = load_dataset(out)
        assert len(loaded.all_records()) == len(result.source.records)
        for record in loaded.all_records():
            assert loaded.image_path(record).resolve().is_relative_to(out.resolve())


def converting(source: str, images: str, **values: Any) -> Callable[[Path, Path, Path], None]:
    """Convert from a source, whose images lie below the base."""
    settings_class = getattr(keys, f"Convert{source.title()}")
    function = getattr(convert, f"convert_{source}")

    def read(base: Path, annotations: Path, out: Path) -> None:
        paths = {"annotations": annotations, "images": base / images, "out": out}
        check_converted(function(settings_class(**paths, split="train", **values)), out)

    return read


def coco(base: Path, annotations: Path, out: Path) -> None:
    shutil.copytree(base / "dataset", out)
    shutil.copy(annotations, out / "annotations" / "train.json")
    loaded = load_dataset(out)
    check_records(loaded.all_records())
    for record in loaded.all_records():
        assert loaded.image_path(record).parent.resolve().is_relative_to(out.resolve())


def voc(base: Path, file: Path, out: Path) -> None:
    read_voc(file)


def yolo(base: Path, file: Path, out: Path) -> None:
    assert np.isfinite(read_yolo_labels(file, classes=11).boxes_cxcywhn).all()


def data_yaml(base: Path, file: Path, out: Path) -> None:
    read_data(file)


def result(base: Path, file: Path, out: Path) -> None:
    found = read_result(file)
    assert found.width > 0
    assert found.height > 0
    levels = [LEVELS.index(s.level) for s in found.structures]
    assert len(set(levels)) == len(levels)
    for s in found.structures:
        assert all(math.isfinite(v) for v in (*s.point_xy, *s.box_xyxy))
        assert 0 <= s.confidence <= 1
        if s.seven is not None:
            assert 0 <= s.seven.class_index < 7 == len(s.seven.probabilities)
            assert all(0 <= p <= 1 for p in s.seven.probabilities)
        if s.binary is not None:
            assert s.binary.class_index in (0, 1)
            assert 0 <= s.binary.probability <= 1
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert StudyResult.from_json(again).to_json() == again


def settings_file(base: Path, file: Path, out: Path) -> None:
    parse_settings(PipelinePredict, read_settings_file(file))


def registry(base: Path, file: Path, out: Path) -> None:
    load_registry(file.parent)


@dataclass(frozen=True)
class Text:
    """A kind of document: a sound one below the base, how it is spoilt, and what reads it."""

    place: str
    read: Callable[[Path, Path, Path], None]
    kind: str = "json"
    says_where: bool = False


cervical = converting("cervical", "neck/frames", min_boxes=1)
TEXTS = {
    "tianchi": Text("tianchi/annotations.json", converting("tianchi", "tianchi/studies")),
    "report": Text("report/report_labels.json", converting("report", "report/frames")),
    "prepared": Text("prepared/markup.json", converting("prepared", "prepared/images")),
    "cervical CSV": Text("neck/descr/*.csv", cervical, "text"),
    "cervical XML": Text("neck/descr/*.csv", cervical, "cells"),
    "COCO": Text("dataset/annotations/train.json", coco),
    "VOC": Text("dataset/voc/Annotations/*.xml", voc, "text", says_where=True),
    "YOLO": Text("dataset/labels/train/*.txt", yolo, "text", says_where=True),
    "data.yaml": Text("dataset/data.yaml", data_yaml, "text", says_where=True),
    "result.json": Text("result/result.json", result),
    "settings": Text("text/keys.yaml", settings_file, "text"),
    "registry": Text("text/registry.yaml", registry, "text"),
}


def spoilt(draw: Callable[..., Any], text: Text, sound: Path) -> bytes:
    if text.kind == "json":
        return draw(spoilt_json(json.loads(sound.read_bytes())))
    if text.kind == "text":
        return draw(spoilt_text(sound.read_bytes()))
    csv.field_size_limit(1 << 24)
    rows = list(csv.reader(io.StringIO(sound.read_bytes().decode("utf-8-sig"))))
    for row in rows[1:]:
        for n, cell in enumerate(row):
            if "<annotation" in cell:
                changed = draw(spoilt_text(cell.encode())).decode("utf-8", "replace")
                row[n] = changed.replace("\0", " ")
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue().encode("utf-8", "replace")


def check(base: Path, name: str, draw: Callable[..., Any]) -> None:
    text = TEXTS[name]
    sound = sorted(base.glob(text.place))[0]
    data = spoilt(draw, text, sound)
    with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
        file = Path(scratch) / "in" / sound.name
        file.parent.mkdir()
        file.write_bytes(data)
        refusal = None
        try:
            text.read(base, file.parent if "neck" in text.place else file, Path(scratch) / "out")
        except SpinelineError as error:
            refusal = str(error)
        assert refusal is None or 0 < len(refusal) < 20_000
        assert refusal is None or not text.says_where or sound.name in refusal


UNHURRIED = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.parametrize("name", TEXTS)
@given(data=st.data())
@settings(UNHURRIED, max_examples=12, derandomize=True)
def test_it_is_refused_or_makes_sense(base: Path, name: str, data: st.DataObject) -> None:
    check(base, name, data.draw)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TEXTS)
@given(data=st.data())
@settings(UNHURRIED, max_examples=80, derandomize=True)
def test_hundreds_of_them(base: Path, name: str, data: st.DataObject) -> None:
    check(base, name, data.draw)
