"""Who the patient is stays in the source: headers always, names and UIDs by names=hash."""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
import logging
import shutil
import stat
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.dicom.privacy import (
    holds_identity,
    privacy_remarks,
)
from spineline.datasets.dicom.study import scan

NAME, NUMBER = "Qwertzmann^Xaverine", "PID-778899"
IN_HEADERS = {
    "PatientName": NAME,
    "PatientID": NUMBER,
    "PatientBirthDate": "19431207",
    "AccessionNumber": "ACC5544332",
    "InstitutionName": "Klinikum Zwettlaxing",
    "ReferringPhysicianName": "Hausarztenko^Ybbs",
    "OtherPatientIDs": "OTHER-4711",
    "PatientAddress": "Nirgendgasse 99",
}
WORDS = (
    "Qwertzmann", "Xaverine", "778899", "19431207", "ACC5544332", "Zwettl", "Hausarztenko",
    "Ybbs", "OTHER-4711", "Nirgendgasse",
)  # fmt: skip
SALT = "pepper-and-salt"
HASH = ("names=hash", f"salt={SALT}")


def identify(ds: pydicom.Dataset) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in IN_HEADERS.items():
        setattr(ds, keyword, value)


def everything(out: Path) -> str:
    """All names and bytes of a run, as text."""
    files = [path for path in out.rglob("*") if path.is_file()]
    names = [str(path.relative_to(out)) for path in out.rglob("*")]
    return "\n".join([*names, *(path.read_bytes().decode("latin-1") for path in files)])


def cohort(source: Path, make_study) -> None:
    make_study(source / "QWERTZMANN_XAVERINE_19431207", study="a", change=identify)
    make_study(source / "778899" / "deep", study="b", change=identify)
    (source / "778899" / "deep" / "im-Qwertzmann.dcm").write_bytes(b"broken")
    broken = source / "Xaverine-broken"
    broken.mkdir()
    (broken / "Qwertzmann.dcm").write_bytes((source / "778899" / "deep" / "im0").read_bytes()[:150])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(fake_models, predict, source, out):
    """Predict with the fakes, by default from ``in`` into ``out``: code, and all that is said."""

    def go(*words: str, source: Path = source, out: Path = out) -> tuple[int, str]:
        code, said, warned = predict(source, *words, out=out)
        return code, said + warned

    return go


def result_in(out: Path, name: str) -> dict:
    return json.loads((out / name / "result.json").read_text())


# ---- headers stay in the source, whatever the names


@pytest.mark.parametrize("to", ["", "tianchi,coco"])
def test_no_identifier_of_a_header_gets_out(make_study, to, run, source, out) -> None:
    for name in ("one", "two"):
        make_study(source / name, change=identify)
    code, said = run(*([f"to={to}"] if to else []))
    assert code == 0
    text = everything(out) + said
    words = list(WORDS)
    assert [word for word in words if word.lower() in text.lower()] == []


# ---- names=hash


def test_names_and_uids_are_hashed(make_study, run, source, out) -> None:
    cohort(source, make_study)
    code, said = run(*HASH)
    assert code == 1  # the broken study
    text = (everything(out) + said).lower()
    words = [word.lower() for word in WORDS]
    assert [word for word in words if word in text] == []
    uids = {study.study_uid for study in scan(source)} - {""}
    assert len(uids) == 2
    for uid in uids:
        assert uid not in text
        digest = hmac.new(SALT.encode(), uid.encode(), hashlib.sha256).hexdigest()
        result = result_in(out, f"study-{digest[:16]}")
        assert result["study_uid"] == f"2.25.{int(digest[:32], 16)}"
        assert len(result["study_uid"]) <= 64
        assert result["instance_uid"].startswith("2.25.")
    assert str(source).lower() not in text.replace(str(out).lower(), "")
    assert SALT not in text
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    done = [row for row in rows if row["status"] != "failed"]
    assert {row["study"] for row in done} == {p.name for p in out.iterdir() if p.is_dir()}
    assert {row["study_uid"][:5] for row in done} == {"2.25."}
    assert len(rows) == len(done) + 1


def test_the_salt_is_kept_for_the_user_alone_and_used_again(make_study, run, source, out) -> None:
    make_study(source / "one")
    assert run("names=hash")[0] == 0
    salt = out / "salt.txt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    assert len(salt.read_text().strip()) == 32
    names = {p.name for p in out.iterdir() if p.is_dir()}
    make_study(source / "two")
    assert run("names=hash")[0] == 0
    now = {p.name for p in out.iterdir() if p.is_dir()}
    assert names < now
    assert len(now) == 2
    assert salt.read_text().strip() not in (out / "run.yaml").read_text()


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ([], HASH, "an earlier run named studies by their folders"),
        (HASH, [], "an earlier run hid names by names=hash"),
    ],
    ids=["hidden now", "hidden before"],
)
def test_a_run_is_not_gone_on_with_under_other_names(
    make_study, run, source, out, first, then, said
) -> None:
    make_study(source / "QWERTZMANN", change=identify)
    assert run(*first)[0] == 0
    before = everything(out)
    code, told = run(*then)
    assert code == 1
    assert said in told
    assert "overwrite=true" in told
    assert everything(out) == before
    assert run(*then, "overwrite=true")[0] == 0
    assert ("qwertzmann" in everything(out).lower()) == (not then)


def test_two_salts_two_names(tmp_path, make_study, run, source) -> None:
    make_study(source / "one")
    found = set()
    for salt in ("first-salt", "second-salt", "first-salt"):
        out = tmp_path / f"{salt}{len(found)}"
        run("names=hash", f"salt={salt}", out=out)
        found |= {p.name for p in out.iterdir() if p.is_dir()}
    assert len(found) == 2


def test_plain_images_are_named_by_their_file_names(make_spots, run, source, out) -> None:
    source.mkdir()
    for name in ("Qwertzmann.png", "other.png"):
        cv2.imwrite(str(source / name), make_spots())
    np.save(source / "flat-Xaverine.npy", np.zeros((90, 90)))
    code, said = run(*HASH)
    assert code == 1
    assert "constant image" in said
    text = everything(out) + said
    assert "Qwertzmann" not in text
    assert "Xaverine" not in text
    digest = hmac.new(SALT.encode(), b"other.png", hashlib.sha256).hexdigest()
    assert result_in(out, f"study-{digest[:16]}")["study_uid"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["salt=12345678"], "names=hash"),
        (["names=hash", "salt=short"], "eight characters"),
        (["names=hash", "compare=labels.json"], "finds labels by the names"),
    ],
)
def test_bad_keys(make_study, words, said, run, source, out) -> None:
    make_study(source)
    code, text = run(*words)
    assert code == 2
    assert said in text
    assert not out.exists()


def test_a_spoilt_salt_is_refused(make_study, run, source, out) -> None:
    make_study(source / "one")
    run("names=hash")
    (out / "salt.txt").write_text("x")
    code, text = run("names=hash")
    assert code == 1
    assert "salt.txt: holds no salt" in text


# ---- the same salt again


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ([f"salt={SALT}"], [], "an earlier run named its studies with a salt=… of yours"),
        ([f"salt={SALT}"], ["salt=another-one"], "is not the one of the earlier run"),
        ([], ["salt=another-one"], "is not the one of the earlier run"),
    ],
    ids=["left away", "another", "another than the kept one"],
)
def test_another_salt_is_noticed(make_study, first, then, said, run, source, out) -> None:
    make_study(source / "one")
    assert run("names=hash", *first)[0] == 0
    before = everything(out)
    code, text = run("names=hash", *then)
    assert code == 2
    assert said in text
    assert "overwrite=true" in text
    assert SALT not in text
    assert everything(out) == before
    assert run("names=hash", *first)[0] == 0
    assert run("names=hash", *then, "overwrite=true")[0] == 0


def test_what_is_kept_of_a_salt_is_sixteen_bits(make_study, run, source, out) -> None:
    make_study(source / "one")
    run(*HASH)
    digest = hmac.new(SALT.encode(), b"spineline names=hash", hashlib.sha256).hexdigest()
    assert (out / "salt-check.txt").read_text() == digest[:4] + "\n"


def test_a_run_of_an_earlier_version_with_its_kept_salt(make_study, run, source, out) -> None:
    make_study(source / "one")
    run("names=hash")
    (out / "salt-check.txt").unlink()
    code, said = run("names=hash", "salt=another-one")
    assert code == 2
    assert "is not the one of the earlier run" in said
    assert run("names=hash")[0] == 0


def test_a_run_that_did_nothing_leaves_no_check(make_study, monkeypatch, run, source, out) -> None:
    make_study(source / "one")

    def fails(*_: object, **__: object) -> None:
        raise SpinelineError("the models cannot be loaded")

    monkeypatch.setattr("spineline.pipeline.run.predict._Run.go", fails)
    assert run(*HASH)[0] == 1
    assert not out.exists()


# ---- errors while the source is looked through


@pytest.mark.parametrize("names", ["folder", "hash"])
def test_files_are_numbered_where_nothing_is_a_dicom_image(names, run, source) -> None:
    folder = source / "QWERTZMANN"
    folder.mkdir(parents=True)
    (folder / "Xaverine 1943.dcm").write_bytes(b"broken")
    (folder / "a.txt").write_text("x")
    code, said = run(f"names={names}")
    assert code == 1
    assert "no DICOM image: 2 files checked" in said
    hidden = names == "hash"
    assert ("Xaverine" in said, str(source) in said) == (not hidden, not hidden)
    assert ("file-2: named as DICOM" in said) is hidden


@pytest.mark.parametrize("names", ["folder", "hash"])
def test_what_is_passed_over_is_counted(make_study, names, run, source, out) -> None:
    make_study(source / "one")
    make_study(source / "Qwertzmann" / "two")
    assert run(out=source / "Qwertzmann" / "results")[0] == 0
    shutil.copytree(source / "one", source / "one Qwertzmann")
    (source / "Qwertzmann.txt").write_text("x")
    code, said = run(f"names={names}")
    assert code == 0
    assert ("Qwertzmann" in said) == (names == "folder")
    # results, three slices of a copy, a text
    assert ("5 files or folders not used" in said) == (names == "hash")


def test_a_source_that_is_not_there_is_not_named(tmp_path, run, source) -> None:
    code, said = run("names=hash", source=tmp_path / "Qwertzmann")
    assert code == 1
    assert "Qwertzmann" not in said
    assert "source: no such file or folder" in said


# ---- the log; test_hidden_log has the rest


def test_a_module_by_another_name_tells_no_more(make_study, monkeypatch, run, source) -> None:
    """What is said while the source is looked through, whatever the module is called."""
    make_study(source / "one")
    make_study(source / "Qwertzmann" / "two")
    (source / "Qwertzmann.txt").write_text("x")
    make = logging.LogRecord

    def made(*values: object, **keys: object) -> logging.LogRecord:
        record = make(*values, **keys)  # type: ignore[arg-type]
        record.module = "another"
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", made)
    code, said = run("names=hash")
    assert code == 0
    assert "Qwertzmann" not in said
    assert "1 files or folders not used" in said


def test_short_names_leave_the_words_of_the_log_alone(make_study, run, source) -> None:
    """Files called 1 and 2, as some exports have them, are not found in numbers."""
    make_study(source / "one")
    for number in range(3):
        (source / "one" / f"im{number}").rename(source / "one" / str(number + 1))
    _, said = run("names=hash")
    assert "11 of 11 levels, slice 2 of 3 of series 1" in said


# ---- pipeline val


@pytest.fixture
def labelled(tmp_path, make_study, make_annotation, make_points, source) -> tuple[Path, Path]:
    """Two good studies and one of a constant image, in folders that tell, with labels."""
    for name in ("Qwertzmann-1", "Qwertzmann-2"):
        make_study(source / name, change=identify)
    flat = np.full((150, 120), 7, np.uint8)
    make_study(source / "Xaverine", flat, change=identify)
    points = {name: make_points() for name in ("Qwertzmann-1", "Qwertzmann-2", "Xaverine")}
    return source, make_annotation(tmp_path / "labels-Qwertzmann.json", points)


def test_val_hides_names_in_all_that_it_writes(tmp_path, fake_models, labelled, val, out) -> None:
    plain = tmp_path / "plain"
    assert val(*labelled, out=plain)[0] == 1
    code, *said = val(*labelled, *HASH, "overlay=true", "min_naming_probability=1", out=out)
    said = "".join(said)
    assert code == 1  # the constant image
    assert "constant image" in said
    text = everything(out) + said
    assert [word for word in (*WORDS, SALT) if word.lower() in text.lower()] == []
    uids = {study.study_uid for study in scan(labelled[0])} - {""}
    assert len(uids) == 3
    assert [uid for uid in uids if uid in text] == []
    digests = [hmac.new(SALT.encode(), uid.encode(), hashlib.sha256).hexdigest() for uid in uids]
    folders = {path.name for path in (out / "predictions").iterdir()}
    assert folders < {f"study-{digest[:16]}" for digest in digests}
    assert len(folders) == 2
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["abstained"]) == folders
    with (out / "results.csv").open() as file:
        assert {row["study"] for row in csv.DictReader(file)} == folders


def test_val_scores_the_same_whatever_the_names(tmp_path, fake_models, labelled, val, out) -> None:
    found = []
    for words in ([], ["names=hash"]):
        out = tmp_path / f"out{len(words)}"
        val(*labelled, *words, out=out)
        metrics = json.loads((out / "metrics.json").read_text())
        found.append({k: v for k, v in metrics.items() if k not in ("failures", "left_out")})
    assert found[0] == found[1]
    assert stat.S_IMODE((tmp_path / "out1" / "salt.txt").stat().st_mode) == 0o600


def test_val_names_studies_as_predict_does(tmp_path, labelled, run, val) -> None:
    keys = HASH
    run(*keys, source=labelled[0], out=tmp_path / "a")
    val(*labelled, *keys, out=tmp_path / "b")
    predicted = {path.name for path in (tmp_path / "a").iterdir() if path.is_dir()}
    assert {path.name for path in (tmp_path / "b" / "predictions").iterdir()} == predicted


def test_val_of_labelled_slices_of_one_study(
    tmp_path, fake_models, make_study, make_annotation, make_points, val, source, out
) -> None:
    make_study(source / "Qwertzmann", study="s")
    entries = []
    for number in (1, 2):
        path = make_annotation(tmp_path / "l.json", {"s": make_points()}, number=number)
        entries += json.loads(path.read_text())
    path.write_text(json.dumps(entries))
    code, *said = val(source, path, "names=hash", "slice=annotated", out=out)
    assert code == 0
    assert len(list((out / "predictions").iterdir())) == 2
    assert "Qwertzmann" not in "".join([everything(out), *said])


@pytest.mark.parametrize("words", [["salt=12345678"], ["names=hash", "salt=short"]])
def test_val_refuses_a_bad_salt(labelled, val, words, out) -> None:
    code, _, said = val(*labelled, *words, out=out)
    assert code == 2
    assert "salt=…: wanted eight characters" in said
    assert not out.exists()


# ---- what is warned of


@pytest.mark.parametrize(
    ("name", "identity", "found"),
    [
        ("study_PID778899_mr", NUMBER, True),
        ("PID-778899", NUMBER, True),
        ("", NUMBER, False),
        *(("a 12 study A", short, False) for short in ("", "A", "12", "--")),
    ],
)
def test_names_that_hold_a_number(name: str, identity: str, found: bool) -> None:
    assert holds_identity(name, [identity]) is found


def test_a_folder_with_the_patients_name_is_told_without_it(make_study, run, source) -> None:
    make_study(source / "qwertzmann_x", study="s", change=identify)
    _, said = run(source=source / "qwertzmann_x")
    assert "identity_in_name: the name of the study's folder" in said
    assert "Qwertzmann" not in said
    assert "Xaverine" not in said


def test_text_in_a_plain_image_is_told_once(tmp_path, make_spots, run, source, out) -> None:
    image = cv2.resize(make_spots() // 2, None, fx=3, fy=3)
    cv2.putText(image, "DOE JOHN 1961", (5, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert run(source=tmp_path / "a.png")[0] == 0
    assert [each["code"] for each in result_in(out, "a")["warnings"]].count("burned_in_text") == 1


def test_a_secondary_capture_is_told(tmp_path, make_slice, make_spots) -> None:
    def capture(ds: pydicom.Dataset) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"

    make_slice(tmp_path / "s", make_spots(), study="s", change=capture)
    header = scan(tmp_path / "s")[0].series[0].slices[0]
    assert "secondary capture" in privacy_remarks(header, ["s"]).burned_in


def test_a_file_that_vanished_tells_nothing(tmp_path, make_study) -> None:
    make_study(tmp_path / "s")
    header = scan(tmp_path / "s")[0].series[0].slices[0]
    header.path.unlink()
    assert not privacy_remarks(header, ["SECRET"]).named


# ---- descriptions and names of files


def described(ds: pydicom.Dataset) -> None:
    identify(ds)
    ds.SeriesDescription, ds.SeriesNumber = "T2_TSE_SAG qwertzMANN", 7


@pytest.mark.parametrize("words", [(), ("names=hash",)], ids=["folder", "hash"])
def test_a_description_with_the_patients_name_stays_out(
    make_study, words, run, source, out
) -> None:
    make_study(source / "one", change=described)
    (source / "one" / "im-Xaverine9").write_bytes((source / "one" / "im0").read_bytes()[:150])
    _, said = run(*words)
    text = everything(out) + said
    assert "of series 7" in text
    assert "qwertzmann" not in text.lower()
    assert "xaverine" not in text.lower()


@pytest.mark.parametrize(("words", "kept"), [((), True), (("names=hash",), False)])
def test_a_description_without_it_is_kept_in_folder_mode(
    make_study, words, kept, run, source, out
) -> None:
    make_study(source / "one")
    assert run(*words)[0] == 0
    assert ("of series '" in (out / "log.txt").read_text()) is kept


@pytest.mark.parametrize("words", [(), ("names=hash",)], ids=["folder", "hash"])
def test_a_failed_study_is_told_too(make_study, words, run, source, out) -> None:
    def wrong(ds: pydicom.Dataset) -> None:
        described(ds)
        ds.Modality = "CT"

    make_study(source / "Xaverine", change=wrong)
    code, said = run(*words)
    log = (out / "log.txt").read_text()
    assert code == 1
    assert "series 7: modality CT, not MR" in log
    assert ("identity_in_name: " in log) is (not words)
    assert "qwertzmann" not in (everything(out) + said).lower()


@pytest.mark.parametrize(
    ("names", "to", "warns"),
    [("hash", ("sr", "coco"), True), ("hash", ("coco",), False), ("folder", ("sr",), False)],
)
def test_dicom_outputs_of_hashed_names_are_warned_of(caplog, names, to, warns) -> None:
    from types import SimpleNamespace

    from spineline.pipeline.outputs.writers import check_extras

    check_extras(SimpleNamespace(names=names, to=to, compare=None))
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["to=sr"] * warns
    assert ("to=sr: these files contain the patient's name" in caplog.text) is warns
