"""What all DICOM outputs share: identity, dates, half pixels, headers that break the rules."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from spineline.datasets.common.errors import SpinelineError
from spineline.pipeline.inference.naming import Naming
from spineline.pipeline.inference.settings import ModelSettings, changed_settings
from spineline.pipeline.outputs.dicom import codes as dicom_codes
from spineline.pipeline.outputs.dicom import presentation_state
from spineline.pipeline.outputs.dicom.source import (
    NO_DATE,
    identity,
    moment_of,
    outline,
    plain_text,
    read_source_instance,
    to_graphic,
    uid_of,
)

pytest.importorskip("highdicom")


@pytest.fixture
def write(writer_of):
    """Write the presentation state of an analysis."""
    return writer_of("pr")


def test_graphics_are_half_a_pixel_on_and_stay_in_the_image(analyse_slice) -> None:
    """The centre of the top left pixel is 0, 0 in results and 0.5, 0.5 in DICOM graphics."""
    source = read_source_instance(analyse_slice().frame.header)
    points = [[0, 0], [119, 149], [-3, 200], [10.25, 20]]
    np.testing.assert_array_equal(
        to_graphic(points, source), [[0.5, 0.5], [119.5, 149.5], [0, 150], [10.75, 20.5]]
    )
    np.testing.assert_array_equal(
        outline((-5, 3, 10, 300), source),
        [[0, 3.5], [10.5, 3.5], [10.5, 150], [0, 150], [0, 3.5]],
    )


def test_uids_follow_from_their_parts() -> None:
    one, same, other = uid_of("a", "b"), uid_of("a", "b"), uid_of("a", "c")
    assert one == same != other
    assert pydicom.uid.UID(one).is_valid


@pytest.mark.parametrize(
    ("tags", "moment"),
    [
        ({}, (NO_DATE, "000000")),
        ({"StudyDate": "20200102", "StudyTime": "1122"}, ("20200102", "1122")),
        ({"StudyDate": "20200102", "ContentDate": "20200103"}, ("20200103", "000000")),
        (
            {"ContentDate": "", "AcquisitionDate": "20210405", "AcquisitionTime": "101112.5"},
            ("20210405", "101112.5"),
        ),
        ({"StudyDate": "20200101-20200102", "SeriesDate": "2020.1.1"}, (NO_DATE, "000000")),
    ],
    ids=["none", "study", "content first", "empty content", "no dates at all"],
)
def test_the_moment_is_the_sources(tags, moment) -> None:
    dataset = Dataset()
    with pydicom.config.disable_value_validation():
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        assert moment_of(dataset) == moment


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "王^小東"),
        ("GB18030", "王^小东"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 100", "Buc^Jérôme"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
    ids=["utf-8", "gb18030", "cyrillic", "latin", "japanese", "korean"],
)
def test_names_of_any_character_set_become_unicode(analyse_slice, write, charset, name) -> None:
    def change(ds: Dataset) -> None:
        ds.SpecificCharacterSet = charset
        ds.PatientName = name

    analysis = analyse_slice(change)
    source = read_source_instance(analysis.frame.header)
    assert source.dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(source.dataset.PatientName) == name
    path = write(analysis)
    written = pydicom.dcmread(path)
    assert written.SpecificCharacterSet == "ISO_IR 192"
    assert str(written.PatientName) == name
    assert name.encode() in path.read_bytes()


def broken(ds: Dataset) -> None:
    """A header that no archive should hold, and many do."""
    with pydicom.config.disable_value_validation():
        ds.PatientSex = "W"
        ds.PatientBirthDate = "1.2.1960"
        ds.PatientAge = "sixty"
        ds.StudyDate = "yesterday"
        ds.StudyDescription = "x" * 99
        ds.AccessionNumber = "A1"
        ds.add_new(0x00091001, "LO", "private")
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1" * 40, "99X", "fine"
        ds.ProcedureCodeSequence = [item]


def test_values_that_break_the_rules_are_left_empty_and_told(analyse_slice, write, caplog) -> None:
    caplog.set_level(logging.INFO, "spineline")
    path = write(analyse_slice(broken))
    written = pydicom.dcmread(path)
    assert (written.PatientSex, written.PatientBirthDate, written.StudyDate) == ("", "", "")
    assert "PatientAge" not in written
    assert "StudyDescription" not in written
    assert (written.AccessionNumber, written.PatientID) == ("A1", "SECRET-ID")
    assert written.ProcedureCodeSequence[0].CodeMeaning == "fine"
    assert not [element for element in written if element.tag.is_private]
    (line,) = [r.getMessage() for r in caplog.records if "left empty" in r.getMessage()]
    told = "StudyDate, StudyDescription, CodeValue, PatientBirthDate, PatientAge, PatientSex"
    assert line.endswith(f"the source violates the DICOM standard there: {told}")
    for secret in ("SECRET", "1960", "sixty", "yesterday"):
        assert secret not in caplog.text


def test_uids_that_break_the_rules_are_kept_and_not_said_to_be_empty(analyse_slice) -> None:
    def change(ds: Dataset) -> None:
        with pydicom.config.disable_value_validation():
            ds.StudyInstanceUID = "1.02.3"
            ds.PatientAge = "sixty"

    source = read_source_instance(analyse_slice(change).frame.header)
    assert source.dataset.StudyInstanceUID == "1.02.3"
    assert source.left_empty == ("PatientAge",)


@pytest.mark.parametrize("uid", ["", "1.2.3.4.5"], ids=["absent", "unknown"])
def test_a_class_that_nothing_can_point_at_is_warned_of(
    tmp_path, analyse_slice, write, caplog, uid
) -> None:
    caplog.set_level(logging.WARNING, "spineline")

    def change(ds: Dataset) -> None:
        ds.SOPClassUID = uid

    analysis = analyse_slice(change)
    dataset = pydicom.dcmread(tmp_path / "s.dcm")
    del dataset.file_meta.MediaStorageSOPClassUID
    dataset.save_as(tmp_path / "s.dcm")
    assert not write(analysis).parent.exists()
    assert "s: to=pr: not written: its SOP class is" in caplog.text


@pytest.mark.parametrize("word", ["sr", "pr", "sc"])
@pytest.mark.parametrize("name", ["MRImageStorage", "EnhancedMRImageStorage"])
def test_a_class_that_the_files_meta_information_alone_holds(
    tmp_path, analyse_slice, writer_of, word, name
) -> None:
    """Studies made anonymous lack it, and patient, dates and modality, in the data set."""

    def change(ds: Dataset) -> None:
        ds.file_meta.MediaStorageSOPClassUID = getattr(pydicom.uid, name)
        for keyword in ("SOPClassUID", "Modality", "PatientName", "SeriesNumber"):
            delattr(ds, keyword)

    analysis = analyse_slice(change)
    written = pydicom.dcmread(writer_of(word)(analysis))
    found = {
        str(element.value)
        for element in written.iterall()
        if element.keyword == "ReferencedSOPClassUID"
    }
    assert found == {getattr(pydicom.uid, name)}
    assert written.StudyInstanceUID == analysis.result.study_uid
    assert (written.StudyDate, written.StudyTime, written.PatientName) == ("", "", "")


@pytest.mark.slow
def test_a_real_study_without_class_and_dates(shared_external, predict, tmp_path) -> None:
    source = shared_external / "rsna" / "study7001"
    code, _, errors = predict(source, "to=sr,pr,sc")
    assert (code, "not written" in errors) == (0, False)
    for name in ("report.sr.dcm", "overlay.pr.dcm", "overlay.sc.dcm"):
        written = pydicom.dcmread(tmp_path / "o" / "study7001" / name)
        assert (written.PatientID, written.StudyInstanceUID) == ("7001", "7001")


def test_frames_in_a_class_of_single_images(
    tmp_path, make_multi_frame, analyse, write, caplog
) -> None:
    caplog.set_level(logging.WARNING, "spineline")
    path = tmp_path / "e" / "enhanced.dcm"
    make_multi_frame(path)
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = pydicom.uid.MRImageStorage
    dataset.save_as(path)
    assert not write(analyse(tmp_path / "e")).parent.exists()
    assert "to=pr: not written: it holds several frames" in caplog.text


def test_a_source_that_went_away(tmp_path, analyse_slice, write) -> None:
    analysis = analyse_slice()
    (tmp_path / "s.dcm").unlink()
    with pytest.raises(SpinelineError, match=r"s\.dcm: cannot be read again"):
        write(analysis)


def test_an_error_of_the_library_says_no_value(analyse_slice, write, monkeypatch) -> None:
    analysis = analyse_slice()

    def fail(*args: object, **keys: object) -> None:
        raise KeyError("SECRET^NAME")

    monkeypatch.setattr(presentation_state, "presentation_state_of", fail)
    with pytest.raises(SpinelineError, match=r"s: to=pr: cannot be made .*KeyError") as caught:
        write(analysis)
    assert "SECRET" not in str(caught.value)
    plain = replace(analysis, frame=replace(analysis.frame, header=None))
    with pytest.raises(ValueError, match="needs a DICOM source"):
        write(plain)


@pytest.mark.parametrize("word", ["sr", "pr", "sc"])
def test_the_same_input_gives_the_same_bytes(
    tmp_path, make_study, analyse, writer_of, word
) -> None:
    """From another folder too; another result is another object."""
    write = writer_of(word)
    make_study(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "elsewhere" / "s")
    paths = [write(analyse(tmp_path / "s"), "1"), write(analyse(tmp_path / "elsewhere" / "s"), "2"),
             write(analyse(tmp_path / "s", min_naming_probability=1.0), "3")]  # fmt: skip
    one, same, other = (path.read_bytes() for path in paths)
    assert one == same != other
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in paths]
    assert uids[0] == uids[1] != uids[2]


@pytest.mark.parametrize("word", ["sr", "pr", "sc"])
def test_no_text_is_written_letter_by_letter(analysis, writer_of, word) -> None:
    """A library that wants a sequence takes the letters of a text for its items."""
    for element in pydicom.dcmread(writer_of(word)(analysis)).iterall():
        if element.VM > 2 and all(isinstance(value, str) for value in element.value):
            assert max(map(len, element.value)) > 1, element.keyword


def test_text_that_no_file_could_hold() -> None:
    assert plain_text("a\nb\ud800\0 c  ü 腰") == "a b? c ü 腰"


# Codes


def all_codes() -> list[Code]:
    found = [v for v in vars(dicom_codes).values() if isinstance(v, Code)]
    tables = (dicom_codes.SITES, dicom_codes.KIND_CODES)
    return [*found, *dicom_codes.FINDINGS, *(c for table in tables for c in table.values())]


def test_sites_are_those_of_the_standards_context_groups() -> None:
    """Vertebrae of CID 7603 and discs of CID 7604, as pydicom's dictionaries have them."""
    from pydicom.sr.codedict import codes

    groups = {"disc": codes.cid7604, "vertebra": codes.cid7603}
    for level, site in dicom_codes.SITES.items():
        group = groups["disc" if "-" in level else "vertebra"]
        name = f"{level.replace('-', '')}{'Disc' if '-' in level else 'Vertebra'}"
        wanted = getattr(group, name)
        assert (site.value, site.scheme_designator, site.meaning) == tuple(wanted[:3])


def test_standard_codes_are_known_and_private_ones_said_to_be() -> None:
    from pydicom.sr._concepts_dict import concepts

    known = {
        (scheme, value)
        for scheme, names in concepts.items()
        for values in names.values()
        for value in values
    }
    # Not in DICOM's own groups: the body structure 360499006, and the container of TID 1500.
    known |= {("SCT", "360499006"), ("UMLS", "C0034375"), ("LN", "25056-3")}
    for code in all_codes():
        if code.scheme_designator != dicom_codes.PRIVATE_SCHEME:
            assert (code.scheme_designator, code.value) in known, code
        assert 0 < len(code.value) <= 16
        assert 0 < len(code.meaning) <= 64
    meanings = {(code.scheme_designator, code.value): code.meaning for code in all_codes()}
    assert all(meanings[code.scheme_designator, code.value] == code.meaning for code in all_codes())


@pytest.mark.parametrize(
    ("seven", "kind"), [(3, "vertebra"), (0, "disc"), (7, "disc"), (-1, "disc")]
)
def test_a_finding_of_the_other_kind(seven, kind) -> None:
    with pytest.raises(ValueError, match=f"code {seven} is none of a {kind}'s"):
        dicom_codes.finding_of(seven, kind)


def test_series_of_other_weights_or_settings_are_told_apart(tmp_path, analyse, make_study) -> None:
    """A list of series shows description and number; 64 characters are what it may have."""
    make_study(tmp_path / "s")
    first, again, other = (analyse(tmp_path / "s", slices=n) for n in ("auto", "auto", 1))
    trained = replace(first, result=replace(first.result, weights_sha256="1" * 64))
    shown = []
    for each in (first, again, other, trained):
        source = replace(read_source_instance(each.frame.header), settings=each.settings)
        naming = Naming(0.5, (), True)
        made = identity("sr", source, replace(each.result, naming=naming))
        assert len(made["series_description"]) <= 64
        assert 0 < made["series_number"] < 2**31
        shown.append((made["series_description"], made["series_number"]))
    assert shown[0] == shown[1]
    assert len(set(shown)) == 3
    assert shown[0][0] == "spineline 00000000: research use only, levels are a guess"
    digits = changed_settings(ModelSettings(slices=1))
    assert shown[2][0].startswith(f"spineline 00000000/{digits}: ")
    assert shown[3][0].startswith("spineline 11111111:")
