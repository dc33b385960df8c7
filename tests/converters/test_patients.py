"""The studies of one patient stay together, and nothing tells who the patient is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pydicom
import pytest

from spineline.converters.patients import read_patients
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.dataset import load_dataset


def part_of(out: Path) -> dict[str, str]:
    return {r.study_id: part for part, held in load_dataset(out).records.items() for r in held}


def give_patients(images: Path, patients: list[dict[str, str]]) -> None:
    """Write other names into the files of studies, in their order."""
    for folder, values in zip(sorted(images.iterdir()), patients, strict=True):
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            for keyword, value in values.items():
                setattr(dataset, keyword, value)
            dataset.save_as(path)


NUMBERED = [{"PatientID": f"ID-{n // 2}"} for n in range(8)]
NAMED = [
    {"PatientID": "", "PatientName": f"Doe^Jo{n // 2}", "PatientBirthDate": "19700102"}
    for n in range(8)
]


NUMBERED_ODDLY = [{"PatientID": ("0{}a ", " {}A")[n % 2].format(n // 2 + 1)} for n in range(8)]
NUMBERED_BY_ANONYMISER = [{"PatientID": f"ANON{n // 2}"} for n in range(8)]
NAMED_ODDLY = [
    {**values, "PatientName": (f"DOE^JO{n // 2}^^", f"Doe, Jo{n // 2}")[n % 2]}
    for n, values in enumerate(NAMED)
]


@pytest.mark.parametrize(
    "patients",
    [NUMBERED, NUMBERED_ODDLY, NUMBERED_BY_ANONYMISER, NAMED, NAMED_ODDLY],
    ids=["number", "number-written-oddly", "number-of-an-anonymiser", "name", "name-written-oddly"],
)
def test_no_ratio_parts_the_studies_of_a_patient(
    tianchi_source, run_cli, patients: list[dict[str, str]]
) -> None:
    run = tianchi_source(*range(1, 9))
    give_patients(run.images, patients)
    for seed in range(2):
        out = run.root / f"out{seed}"
        code, said, _ = run_cli("convert", "tianchi", *run.words(split="0.5", seed=seed, out=out))
        assert code == 0
        assert "8 studies of 4 patients" in said
        parts = part_of(out)
        assert all(parts[f"study{n}"] == parts[f"study{n + 1}"] for n in (1, 3, 5, 7))
        assert list(parts.values()).count("train") == 4
        split = json.loads((out / "split.json").read_text())
        assert split["patients"]["study3"] == split["patients"]["study4"] == "patient-0002"
    content = json.loads((out / "conversion.json").read_text())
    assert content["patients"] == {"studies": 8, "patients": 4, "studies_without_patient": 0}
    for path in out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret in data for secret in (b"ID-", b"Doe", b"19700102", b"SECRET"))


def test_folds_keep_patients_together_and_data_check_finds_one_that_is_parted(
    tianchi_source, run_cli
) -> None:
    run = tianchi_source(*range(1, 9))
    give_patients(run.images, NUMBERED)
    assert run_cli("convert", "tianchi", *run.words(kfold=3))[0] == 0
    for n in range(3):
        parts = part_of(run.root / "out" / f"fold{n}")
        assert all(parts[f"study{n}"] == parts[f"study{n + 1}"] for n in (1, 3, 5, 7))
    (run.root / "split.json").write_text(
        json.dumps({f"study{n}": "val" if n == 2 else "train" for n in range(1, 9)})
    )
    words = run.words(out=run.root / "parted", split=run.root / "split.json")
    code, _, said = run_cli("convert", "tianchi", *words)
    assert code == 0
    assert "1 patients have studies in more than one part, such as study1 and study2" in said
    check = [f"data={run.root / 'parted'}", f"out={run.root / 'check'}"]
    run_cli("data", "check", *check)
    found = json.loads((run.root / "check/check.json").read_text())
    assert [f["finding"] for f in found if "patient" in f["finding"]] == ["patient_in_two_parts"]


@pytest.mark.parametrize("placeholder", ["", "ANON", "Anonymized", "0000", "unknown", "n/a", "---"])
def test_what_an_anonymiser_left_is_no_patient(tianchi_source, run_cli, placeholder: str) -> None:
    run = tianchi_source(1, 2, 3, 4)
    give_patients(
        run.images, [{"PatientID": placeholder}, {"PatientID": placeholder}, *NUMBERED[:2]]
    )
    code, told, said = run_cli("convert", "tianchi", *run.words(split="0.5"))
    assert code == 0
    assert "of 2 of 4 studies the patient is not known, such as study1" in said
    assert "patients: 2 studies of 1 patient by PatientID" in told + said


def test_one_number_in_all_studies_is_told_and_taken_as_none(tianchi_source, run_cli) -> None:
    run = tianchi_source(1, 2, 3, 4)
    code, _, said = run_cli("convert", "tianchi", *run.words(split="0.5"))
    assert code == 0
    assert "all 4 studies have the same PatientID" in said
    assert sorted(part_of(run.root / "out").values()) == ["train", "train", "val", "val"]


def test_patients_of_files_that_gzip_compressed_are_known(tianchi_source, run_cli) -> None:
    run = tianchi_source(*range(1, 9))
    give_patients(run.images, NUMBERED)
    for path in [path for path in run.images.rglob("IM*") if path.is_file()]:
        path.with_name(f"{path.name}.dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    code, said, err = run_cli("convert", "tianchi", *run.words())
    assert code == 0, err
    assert "8 studies of 4 patients" in said


def test_a_source_that_names_no_patients_says_so(report_source, run_cli) -> None:
    run = report_source()
    code, said, _ = run_cli("convert", "report", *run.words(split="0.67"))
    assert code == 0
    assert "cannot be known" in said
    assert "patients=FILE" in said


FILES = {
    "a.csv": "image,patient\n001-000,Meier\n002-000,Meier\n151-000,Huber\n",
    "b.csv": "001;Meier\n002;Meier\n151;Huber\n",
    "c.json": '{"001": "Meier", "002": "Meier", "151": "Huber"}',
    "d.yaml": "Meier: ['001', '002']\nHuber: ['151']\n",
    "f.csv": "001,Meier\n002, MEIER \n151,Huber\n",
    "g.csv": "Study ID,Patient ID\n001,Meier\n002,Meier\n151,Huber\n",
    "e.csv": "\ufeffpatient_id,age,study\nMeier,3,001\nMeier,4,002\nHuber,5,151\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_who_is_who(report_source, run_cli, tmp_path: Path, name: str) -> None:
    run = report_source()
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    for seed in range(3):
        words = run.words(out=tmp_path / f"out{seed}", split="0.5", seed=seed)
        assert run_cli("convert", "report", *words, f"patients={tmp_path / name}")[0] == 0
        parts = part_of(tmp_path / f"out{seed}")
        assert parts["001"] == parts["002"]
        for path in (tmp_path / f"out{seed}").rglob("*.json"):
            assert "Meier" not in path.read_text()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.csv", None, "cannot be read"),
        ("a.csv", "", "is empty"),
        ("a.csv", "a,b,c\n1,2,3\n", "wanted two columns"),
        ("a.csv", "x,1\nx,2\n", "two patients"),
        ("a.json", "[1]", "wanted an object"),
        ("a.json", "{", "neither JSON nor YAML"),
        ("a.yaml", "x: {y: 1}", "wanted a patient"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_patients(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [("other,p\n", "name no image or study"), ("001-000,a\n001,b\n", "gives study 001 two")],
)
def test_files_that_do_not_fit(report_source, run_cli, tmp_path, text: str, message: str) -> None:
    run = report_source()
    (tmp_path / "p.csv").write_text(text)
    words = run.words(split="0.5", patients=tmp_path / "p.csv")
    code, _, said = run_cli("convert", "report", *words)
    assert code == 2
    assert message in said
    assert not (run.root / "out").exists()
