"""The quick header reader gives what pydicom gives, or leaves the file to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from spineline.datasets.dicom import header as dicom_header
from spineline.datasets.dicom.header import HeaderRejected, read_headers
from spineline.datasets.dicom.quick import read_quick


def slice_file(
    path: Path,
    syntax: UID = ExplicitVRLittleEndian,
    change: Callable[[Dataset], object] = lambda ds: None,
) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.4")
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["quick"])
    ds = Dataset()
    ds.file_meta = meta
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    ds.SOPClassUID, ds.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    ds.Modality, ds.SeriesDescription, ds.ProtocolName = "MR", " T2_TSE_SAG ", "lumbar\\spine"
    ds.PatientName, ds.BodyPartExamined = "A^B", "LSPINE"
    ds.ScanningSequence, ds.ScanOptions, ds.SequenceName = ["SE", "IR"], ["FS"], "*tse2d"
    ds.RepetitionTime, ds.EchoTime, ds.InversionTime = 3200.5, 102, None
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    ds.SeriesNumber, ds.InstanceNumber = 3, 12
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-1.25, 2e1, -3], [0, 1, 0, 0, 0, -1]
    ds.PixelSpacing = [0.625, 0.7]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = 4, 6
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.arange(24, dtype=np.uint16).tobytes()
    change(ds)
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)
    return path


def by_pydicom(path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    with monkeypatch.context() as patch:
        patch.setattr(dicom_header, "read_quick", lambda path: None)
        try:
            return read_headers(path)
        except HeaderRejected as rejected:
            return rejected.reason


def outcome(path: Path) -> object:
    try:
        return read_headers(path)
    except HeaderRejected as rejected:
        return rejected.reason


def sequence_of(undefined: bool) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        inner, outer = Dataset(), Dataset()
        inner.ReferencedSOPInstanceUID = "1.9"
        inner.SeriesDescription = "not this one"
        outer.PurposeOfReferenceCodeSequence = Sequence([inner])
        outer.is_undefined_length_sequence_item = undefined
        inner.is_undefined_length_sequence_item = undefined
        ds.ReferencedImageSequence = Sequence([outer, outer])
        ds["ReferencedImageSequence"].is_undefined_length = undefined
        outer["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined

    return change


def many(**values: object) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    return change


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda ds: None, id="plain"),
        pytest.param(sequence_of(False), id="sequence"),
        pytest.param(sequence_of(True), id="sequence of undefined length"),
        pytest.param(many(PixelSpacing=None, EchoTime=None), id="absent"),
        pytest.param(many(SeriesDescription="", ScanOptions="", EchoTime=""), id="empty"),
        pytest.param(many(ImageComments="x" * 3000), id="long text"),
    ],
)
def test_same_as_pydicom(tmp_path, monkeypatch, syntax: UID, change) -> None:
    path = slice_file(tmp_path / "a", syntax, change)
    assert read_quick(path) is not None
    assert read_headers(path) == by_pydicom(path, monkeypatch)


@pytest.mark.parametrize(
    ("syntax", "change"),
    [
        pytest.param(DeflatedExplicitVRLittleEndian, lambda ds: None, id="deflated"),
        pytest.param(ExplicitVRBigEndian, lambda ds: None, id="big endian"),
        pytest.param(ExplicitVRLittleEndian, many(NumberOfFrames=1), id="frames"),
        pytest.param(ExplicitVRLittleEndian, many(PixelData=None), id="no pixels"),
        pytest.param(
            ExplicitVRLittleEndian, many(ImageComments="x" * 10240, Rows=None), id="no rows"
        ),
        pytest.param(
            ExplicitVRLittleEndian,
            many(SpecificCharacterSet="ISO_IR 192", SeriesDescription="矢状 T2"),
            id="beyond ASCII",
        ),
    ],
)
def test_unusual_files_come_out_the_same_too(tmp_path, monkeypatch, syntax: UID, change) -> None:
    path = slice_file(tmp_path / "a", syntax, change)
    assert outcome(path) == by_pydicom(path, monkeypatch)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"0.625\\0.7 ", b"abc\\0.7   ", id="spacing no number"),
        pytest.param(b"0.625\\0.7 ", b"nan\\nan   ", id="spacing nan"),
        pytest.param(b"0.625\\0.7 ", b"          ", id="spacing blank"),
        pytest.param(b"IS\x02\x0012", b"IS\x02\x00x2", id="number of letters"),
        pytest.param(b"US\x02\x00\x04\x00", b"SS\x02\x00\x04\x00", id="rows of another kind"),
        pytest.param(b"US\x02\x00\x04\x00", b"US\x02\x00\x00\x00", id="no row"),
        pytest.param(b"CS\x02\x00MR", b"ZZ\x02\x00MR", id="unknown kind"),
    ],
)
def test_odd_values_come_out_the_same(tmp_path, monkeypatch, old: bytes, new: bytes) -> None:
    path = slice_file(tmp_path / "a")
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    assert outcome(path) == by_pydicom(path, monkeypatch)


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_cut_short_anywhere_come_out_the_same(tmp_path, monkeypatch, syntax: UID) -> None:
    path = slice_file(tmp_path / "a", syntax, sequence_of(True))
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        assert outcome(path) == by_pydicom(path, monkeypatch), length


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_bytes_changed_at_random_never_raise_and_agree(tmp_path, monkeypatch) -> None:
    """A changed byte may hide in a value; whatever is read must be what pydicom reads."""
    path = slice_file(tmp_path / "a", change=sequence_of(False))
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        changed[int(rng.integers(132, len(data) - 60))] = int(rng.integers(256))
        path.write_bytes(changed)
        quick = read_quick(path)
        if quick is None:
            continue
        found, expected = outcome(path), by_pydicom(path, monkeypatch)
        if isinstance(expected, str):
            assert isinstance(found, str)
        else:
            assert found == expected


def test_a_real_reader_agrees_on_what_it_reads(tmp_path) -> None:
    path = slice_file(tmp_path / "a")
    quick, dataset = read_quick(path), pydicom.dcmread(path)
    for keyword in ("StudyInstanceUID", "Rows", "EchoTime", "InstanceNumber", "Modality"):
        assert quick.get(keyword) == dataset.get(keyword)
    assert quick.get("ImageOrientationPatient") == list(dataset.ImageOrientationPatient)
    assert "PatientName" not in quick
