"""Which parts of a patient's name are looked for, and where they are seen."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from spineline.datasets.dicom.privacy import (
    holds_identity,
    identity_parts,
    mentions_identity,
    name_parts,
    privacy_remarks,
)
from spineline.datasets.dicom.study import scan

YAMADA = "Yamada^Tarou=山田^太郎=やまだ^たろう"  # PS3.5, annex H.3.1


@pytest.mark.parametrize(
    ("name", "folder", "held"),
    [
        (YAMADA, "yamada_t2", True),
        (YAMADA, "T2_TAROU", True),
        (YAMADA, "山田_腰椎", True),
        (YAMADA, "腰椎山田太郎様", True),
        (YAMADA, "太郎", True),
        (YAMADA, "やまだ_2019", True),
        (YAMADA, "ＹＡＭＡＤＡ", True),  # of full width
        (YAMADA, "山_田", True),
        (YAMADA, "山形_t2", False),
        (YAMADA, "yamadas_t2", False),
        ("Hong^Gildong=洪^吉洞=홍^길동", "길동", True),
        ("Hong^Gildong=洪^吉洞=홍^길동", "홍길동_mri", True),
        ("Hong^Gildong=洪^吉洞=홍^길동", "홍_mri", False),  # one syllable is in too many words
        ("Wang^XiaoDong=王^小东", "王_t2", False),
        ("Li^Na", "na_li_t2", True),
        ("Li^Na", "LiNa-2019", True),
        ("Li^Na", "li_t2", False),
        ("Li^Na", "carolina", False),
        ("Li^Na", "na", False),
        ("X^Y", "x_y", False),
        ("Doe^John^Quincy^Dr^Jr", "quincy_01", True),
        ("Doe^John^Quincy^Prof^Junior", "prof_junior_study", False),
        ("Doe^John^Q", "q_q_q", False),
        ("van der Berg^Jan Willem", "berg_lwk", True),
        ("van der Berg^Jan Willem", "2019willem", False),
        ("van der Berg^Jan Willem", "willem 2019", True),
        ("van der Berg^Jan Willem", "van_der_waals", False),
        ("van der Berg^Jan Willem", "van-der-berg", True),
        ("Meyer-Landrut^Lena", "landrut", True),
        ("Müller^Émile", "muller", True),
        ("Müller^Émile", "EMILE_t2", True),
        ("Müller^Émile", "Mueller_lwk", True),
        ("Mueller^Emile", "müller_lwk", True),
        ("Sørensen^Åge", "soerensen", True),
        ("Groß^Anna", "gross_2019", True),
        ("Groß^Anna", "grosz_2019", False),
        ("Doe, John", "john_x", True),
    ],
)
def test_names_in_folders(name: str, folder: str, held: bool) -> None:
    assert holds_identity(folder, name_parts(name)) is held


def test_a_text_tells_by_any_script() -> None:
    parts = [part for part in name_parts(YAMADA) if len(part) > 1]
    assert mentions_identity("series '山田太郎 T2'", parts)
    assert mentions_identity("series 'やまだ'", parts)
    assert not mentions_identity("series 'T2_TSE_SAG'", parts)


def named(change):
    def identify(ds: pydicom.Dataset) -> None:
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        change(ds)

    return identify


@pytest.fixture
def write(tmp_path, write_dicom):
    """Write one slice whose header is changed; its header as spineline reads it."""

    def run(change):
        write_dicom(tmp_path / "s" / "im", change)
        return scan(tmp_path / "s")[0].series[0].slices[0]

    return run


@pytest.fixture
def write_dicom():
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    def write(path: Path, change) -> None:
        ds = pydicom.Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
        ds.Modality, ds.Rows, ds.Columns = "MR", 4, 4
        ds.PatientName, ds.PatientID = "Nobody^Noone", "PID-77"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        change(ds)
        ds.PixelData = bytes(32)
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)

    return write


def test_a_name_in_three_scripts_is_read_from_a_file(write) -> None:
    header = write(named(lambda ds: setattr(ds, "PatientName", YAMADA)))
    parts = identity_parts(header.path)
    assert {"Yamada", "Tarou", "山田", "太郎", "やまだ", "たろう", "PID-77"} <= set(parts)
    assert privacy_remarks(header, ["山田"]).named
    assert not privacy_remarks(header, ["腰椎"]).named


@pytest.mark.parametrize(
    ("keyword", "value", "folder"),
    [
        ("OtherPatientNames", ["Maiden^Mary", "Alias^Ann"], "alias_t2"),
        ("PatientBirthName", "Geborene^Mary", "geborene"),
        ("OtherPatientIDs", ["4711-08", "55"], "st471108"),
        ("PatientBirthDate", "19580317", "mr_19580317"),
        ("PatientBirthDate", "19580317", "17.3.1958 and 17.03.1958"),
        ("PatientBirthDate", "1958.03.17", "03-17-1958"),
    ],
)
def test_other_names_and_numbers_count(write, keyword: str, value: object, folder: str) -> None:
    header = write(lambda ds: setattr(ds, keyword, value))
    assert privacy_remarks(header, [folder]).named


@pytest.mark.parametrize("date", ["", "1958", "19580318", "unknown"])
def test_other_dates_do_not(write, date: str) -> None:
    header = write(lambda ds: ds.add_new("PatientBirthDate", "DA", date))
    assert not privacy_remarks(header, ["mr_19580317", "1958"]).named
    assert not mentions_identity("series 'T2 17.03.1958'", identity_parts(header.path))


def test_a_birth_date_in_a_description_is_found(write) -> None:
    header = write(lambda ds: ds.add_new("PatientBirthDate", "DA", "19580317"))
    for text in ("T2 1958-03-17", "T2 *17.03.1958", "T2_17031958"):
        assert mentions_identity(text, identity_parts(header.path))


def overlay(data: bytes, group: int = 0x6000):
    def add(ds: pydicom.Dataset) -> None:
        ds.add_new((group, 0x0010), "US", 4)
        ds.add_new((group, 0x0011), "US", 4)
        ds.add_new((group, 0x3000), "OW", data)

    return add


@pytest.mark.parametrize("group", [0x6000, 0x601E])
def test_an_overlay_plane_is_told(write, group: int) -> None:
    remarks = privacy_remarks(write(overlay(b"\x10\x00", group)), [])
    assert remarks.burned_in == (
        "viewers draw graphics over it that its file holds (overlay plane 60xx)"
    )


def test_an_empty_overlay_plane_is_none(write) -> None:
    assert privacy_remarks(write(overlay(bytes(2))), []).burned_in == ""


def test_both_reasons_are_given(write) -> None:
    def change(ds: pydicom.Dataset) -> None:
        overlay(b"\x01\x00")(ds)
        ds.BurnedInAnnotation = "YES"

    burned_in = privacy_remarks(write(change), []).burned_in
    assert "BurnedInAnnotation" in burned_in
    assert "60xx" in burned_in


def test_a_file_that_is_none_tells_nothing(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"no DICOM")
    assert identity_parts(tmp_path / "a") == []
