"""From a cross-validation of two classifiers to a pipeline that asks both, on phantoms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spineline.weights import read_metadata

Cli = Callable[..., tuple[int, str, str]]
VARIANTS = "narrow: {margin: 1.0, size: 16}\nwide: {margin: 1.6, size: 24}\n"
TINY = ("model=test_resnet", "epochs=2", "batch=64", "head=both", "plots=false", "balance=none",
        "jitter=false", "draws=20", "k=2")  # fmt: skip


@pytest.mark.slow
def test_from_folds_to_a_pipeline_of_both(tmp_path: Path, run_cli: Cli) -> None:
    def run(*words: str) -> str:
        code, said, errors = run_cli(*words)
        assert code == 0, errors
        return said

    drawn, data, out = tmp_path / "drawn", tmp_path / "data", tmp_path / "kfold"
    run("data", "phantom", "n=6", "seed=3", "format=png", f"out={drawn}")
    labels = (f"annotations={drawn / 'report_labels.json'}", f"images={drawn / 'frames'}")
    run("convert", "report", *labels, f"out={data}")
    (tmp_path / "two.yaml").write_text(VARIANTS)
    variants = f"variants={tmp_path / 'two.yaml'}"
    run("kfold", "classify", f"data={data}", f"out={out}", variants, *TINY)

    names = ("narrow", "wide")
    files = [out / name / "fold0" / "weights" / "last.safetensors" for name in names]
    combined = tmp_path / "combined.safetensors"
    said = run(
        "classify", "calibrate", f"model={files[0]},{files[1]}",
        f"predictions={out / 'narrow'},{out / 'wide'}", "shares=2,1", "tau=0.2",
        "specificity=0.95", f"out={combined}",
    )  # fmt: skip
    assert "cross-fitted" in said
    how = read_metadata(combined)["combination"]
    np.testing.assert_allclose(how["shares"]["seven"], [2 / 3, 1 / 3])

    scored = tmp_path / "val"
    words = ("pipeline", "val", f"data={data}", "part=val", "force=true", "draws=20")
    run(*words, f"classifier={combined}", f"out={scored}")
    binary = json.loads((scored / "metrics.json").read_text())["binary"]
    assert binary["threshold"] == pytest.approx(how["threshold"], abs=5e-7)  # six places
    results = [json.loads(p.read_text()) for p in scored.glob("predictions/*/result.json")]
    grades = [s["binary"] for result in results for s in result["structures"]]
    assert grades
    for grade in grades:
        assert grade["class"] == int(grade["probability"] >= how["threshold"] - 1e-6)
        assert grade["threshold"] == binary["threshold"]

    stored = tmp_path / "stored"  # what was scored is what is stored
    run(*words, f"predictions={scored}", f"out={stored}")
    assert json.loads((stored / "metrics.json").read_text())["binary"] == binary

    studies = sorted({p.name for p in scored.glob("predictions/*")})
    fold = {"studies": [s.split("-")[0] for s in studies], "classifier": [str(f) for f in files]}
    (tmp_path / "folds.json").write_text(json.dumps({"folds": [fold]}))
    listed = tmp_path / "listed"
    run(*words, f"folds={tmp_path / 'folds.json'}", f"out={listed}")
    assert json.loads((listed / "metrics.json").read_text())["binary"]["threshold"] == 0.5
