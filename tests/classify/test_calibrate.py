"""``classify calibrate``: the temperature that is fitted, where it is written, what it changes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from scipy.optimize import minimize_scalar
from torch.nn import functional

from spineline.classify import load_classifier
from spineline.classify.calibrate import Graded, calibration, fit_temperature, tempered
from spineline.classify.export import ExportNetwork
from spineline.classify.network.layers import MIN_TEMPERATURE
from spineline.datasets.crops.grades_csv import GRADE_COLUMNS
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.weights import sha256_of

Cli = Callable[..., tuple[int, str, str]]


def drawn(temperature: float, count: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of probabilities, and labels drawn from them at a temperature."""
    rng = np.random.default_rng(seed)
    log_p = torch.log_softmax(torch.tensor(rng.normal(0, 2, (count, 5))), dim=1).numpy()
    p = tempered(log_p, [temperature])
    return log_p, np.array([rng.choice(5, p=row) for row in p])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    log_p, true = drawn(temperature)
    assert fit_temperature(log_p, true) == pytest.approx(temperature, rel=0.08)


def test_the_fit_agrees_with_scipy_and_torch() -> None:
    log_p, true = drawn(1.7, count=300)

    def loss(log_t: float) -> float:
        scaled = torch.tensor(log_p) / float(np.exp(log_t))
        return float(functional.cross_entropy(scaled, torch.tensor(true)))

    wanted = np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x)
    assert fit_temperature(log_p, true) == pytest.approx(wanted, abs=1e-3)


def test_classes_that_are_ruled_out_change_nothing() -> None:
    log_p, true = drawn(1.4, count=300)
    wide = np.concatenate([log_p, np.full((300, 2), -np.inf)], axis=1)
    assert fit_temperature(wide, true) == fit_temperature(log_p, true)
    np.testing.assert_allclose(tempered(wide, [2.0])[:, :5], tempered(log_p, [2.0]))


def test_what_no_temperature_can_help_ends_at_the_range() -> None:
    sure = np.log(np.array([[0.9, 0.1]] * 4))
    lowest, highest = MIN_TEMPERATURE, 1 / MIN_TEMPERATURE
    found = [fit_temperature(sure, np.full(4, answer)) for answer in (0, 1)]
    assert lowest <= found[0] < 1.2 * lowest  # all but certain already
    assert found[1] == pytest.approx(highest)


def test_folds_are_scored_by_the_others_temperature() -> None:
    log_p, true = drawn(2.0, count=3000)
    fold = np.arange(3000) % 3
    found = calibration(Graded(log_p, true, fold))
    assert len(found.by_fold) == 3
    for n, value in enumerate(found.by_fold):
        assert value == fit_temperature(log_p[fold != n], true[fold != n])
    assert found.ece_after < 0.03 < 0.1 < found.ece_before
    assert calibration(Graded(log_p, true, np.zeros(3000, dtype=np.int64))).by_fold == ()


def write_predictions(path: Path, temperature: float, *, fold: bool = True, seed: int = 0) -> Path:
    """Predictions whose labels were drawn at a temperature, 40 studies."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(["fold"] if fold else []), *GRADE_COLUMNS])
        for study in range(40):
            for level in LEVELS:
                own = range(2, 7) if kind_of_level(level) == "disc" else range(2)
                log_p = np.full(7, -np.inf)
                log_p[list(own)] = rng.normal(0, 2, len(own))
                p = tempered(log_p[None], [1.0])[0]
                v5 = float(1 / (1 + np.exp(-rng.normal(0, 2)))) if len(own) > 2 else 0.0
                warm = tempered(np.log(np.array([[1 - v5, v5]])), [temperature])[0] if v5 else None
                binary = 0 if warm is None else int(rng.random() < warm[1])
                seven = rng.choice(7, p=tempered(log_p[None], [temperature])[0])
                row = [f"{study}-0", str(study), level, seven, binary, *p, v5]
                writer.writerow([*([study % 3] if fold else []), *row])
    return path


@pytest.fixture
def weights(trained: Path) -> Path:
    return trained / "weights" / "best.safetensors"


def metadata_of(path: Path) -> dict:
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["spineline"])


def test_the_temperature_is_written_and_applied(
    weights: Path, tmp_path: Path, run_cli: Cli
) -> None:
    predictions = write_predictions(tmp_path / "predictions.csv", 2.0)
    out = tmp_path / "warm.safetensors"
    code, said, _ = run_cli(
        "classify", "calibrate", f"model={weights}", f"predictions={predictions}", f"out={out}"
    )
    assert code == 0
    assert "cross-fitted" in said
    found = metadata_of(out)["temperature"]
    assert found["seven"] == pytest.approx(2.0, rel=0.25)
    assert found["binary"] == pytest.approx(2.0, rel=0.5)
    assert "temperature" not in metadata_of(weights)

    cold, warm = load_classifier(weights), load_classifier(out)
    crops = np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    for head, before, after in zip(found, cold.logits(crops), warm.logits(crops), strict=True):
        torch.testing.assert_close(before / found[head], after)
    one, other = cold.grade(crops), warm.grade(crops)
    np.testing.assert_array_equal(one.seven.argmax(1), other.seven.argmax(1))
    np.testing.assert_array_equal(one.binary >= 0.5, other.binary >= 0.5)
    assert other.seven.max(1).mean() < one.seven.max(1).mean()
    exported = ExportNetwork(warm.network)(torch.tensor(crops).float())
    np.testing.assert_allclose(exported[0].detach().numpy(), warm.grade(crops).seven, atol=1e-6)


def test_predictions_made_at_a_temperature_are_refused(
    weights: Path, tmp_path: Path, run_cli: Cli
) -> None:
    folder = tmp_path / "val"
    folder.mkdir()
    predictions = write_predictions(folder / "predictions.csv", 2.0)
    warm = tmp_path / "warm.safetensors"
    words = [f"predictions={predictions}", f"out={warm}"]
    assert run_cli("classify", "calibrate", f"model={weights}", *words)[0] == 0
    for made_by, expected in ((warm, 2), (weights, 0)):
        record = {"command": "spineline classify val", "weights": {"sha256": sha256_of(made_by)}}
        (folder / "run.yaml").write_text(yaml.safe_dump(record))
        for place in (folder, predictions):
            again = [f"predictions={place}", f"out={tmp_path / 'o.safetensors'}", "overwrite=true"]
            code, _, warned = run_cli("classify", "calibrate", f"model={warm}", *again)
            assert code == expected
            assert ("with the temperature that warm.safetensors holds" in warned) == bool(expected)


def test_files_without_folds_are_a_fold_each(weights: Path, tmp_path: Path, run_cli: Cli) -> None:
    files = [write_predictions(tmp_path / f"{n}.csv", 2.0, fold=False, seed=n) for n in range(2)]
    words = (f"model={weights}", f"predictions={files[0]},{files[1]}")
    code, said, _ = run_cli("classify", "calibrate", *words, f"out={tmp_path / 'a.safetensors'}")
    assert code == 0
    assert said.count("cross-fitted") == 2
    words = (f"model={weights}", f"predictions={files[0]}")
    _, said, _ = run_cli("classify", "calibrate", *words, f"out={tmp_path / 'b.safetensors'}")
    assert said.count("fitted and scored on the same predictions") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "found no line"),
        ("image,study\na,b\n", "found no column level in line 2"),
        ("bad level", "'L9' is not a level"),
        ("no head", "has no probabilities of head seven"),
        ("code", "a code of seven is out of"),
        ("not a number", "are not numbers"),
        ("long code", "has no probabilities of head seven"),
    ],
)
def test_bad_predictions(
    weights: Path, tmp_path: Path, run_cli: Cli, content: str | None, message: str
) -> None:
    rows = {
        "bad level": ["a", "a", "L9", "2", "0", *["0"] * 7, "0"],
        "no head": ["a", "a", "L1", "0", "0", *[""] * 7, "0"],
        "code": ["a", "a", "L1", "9", "0", "1", *["0"] * 6, "0"],
        "long code": ["a", "a", "L1", "9" * 30, "0", "1", *["0"] * 6, "0"],
        "not a number": ["a", "a", "L1", "0", "0", "nan", *["0"] * 6, "0"],
    }
    file = tmp_path / "p.csv"
    if content in rows:
        content = ",".join(GRADE_COLUMNS) + "\n" + ",".join(rows[content]) + "\n"
    if content is not None:
        file.write_text(content)
    out = tmp_path / "o.safetensors"
    words = (f"model={weights}", f"predictions={file}", f"out={out}")
    code, _, errors = run_cli("classify", "calibrate", *words)
    assert code == 1
    assert message in errors
    assert not out.exists()


def test_out_is_a_weights_file_that_is_not_there(
    weights: Path, tmp_path: Path, run_cli: Cli
) -> None:
    file = write_predictions(tmp_path / "p.csv", 1.0)
    words = ("classify", "calibrate", f"model={weights}", f"predictions={file}")
    assert run_cli(*words, f"out={tmp_path / 'a.pt'}")[0] == 2
    code, _, errors = run_cli(*words, f"out={weights}")
    assert code == 1
    assert "overwrite=true" in errors


@pytest.mark.parametrize("value", [{"seven": 0.0}, {"binary": "x"}, [1.0], {"seven": 1e9}])
def test_a_damaged_temperature_is_refused(weights: Path, value: object) -> None:
    from spineline.classify.network.weights_file import config_from_metadata
    from spineline.datasets.common.errors import WeightsError

    with pytest.raises(WeightsError, match="its description is damaged"):
        config_from_metadata({**metadata_of(weights), "temperature": value}, "w")
