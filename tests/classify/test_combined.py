"""Several classifiers that answer as one: their mean by hand, their file, their calibration."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize
from sklearn.metrics import log_loss, roc_curve

from spineline.classify import Combination, CombinedClassifier, Grades, load_classifier
from spineline.classify.calibrate import Graded, fit_shares, fit_temperature, threshold_at
from spineline.classify.combined import (
    adjusted_codes,
    combination_from_json,
    combined_grades,
    equal_shares,
    given_shares,
)
from spineline.classify.network.build import build_network
from spineline.classify.network.layers import NetworkConfig
from spineline.classify.network.weights_file import network_state, save_combined, save_weights
from spineline.datasets.common.errors import AnnotationError, ConfigError, WeightsError
from spineline.datasets.crops.grades_csv import GRADE_COLUMNS
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import LEVELS, SEVEN_NAMES, kind_of_level
from spineline.weights import names_in_list, read_metadata, resolve_classifiers, weights_record

Cli = Callable[..., tuple[int, str, str]]
KINDS = [kind_of_level(level) for level in LEVELS]
DISC = np.array([kind == "disc" for kind in KINDS])


def config(margin: float = 1.0, size: int = 32, head: str = "both", **more) -> NetworkConfig:
    crop = CropSpec(size, margin, "none")
    return NetworkConfig("test_resnet", head, 8, 0.0, 1, crop, mean=0.4, std=0.2, **more)


def write_network(path: Path, seed: int, **values) -> Path:
    """A network with drawn weights whose answers are far from even."""
    network = build_network(config(**values), seed=seed)
    for layer in network.heads.values():
        layer.weight.data *= 20
    save_weights(path, network_state(network), network.config)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks of another margin, size and normalisation."""
    folder = tmp_path_factory.mktemp("pair")
    first = write_network(folder / "a.safetensors", 1)
    return [first, write_network(folder / "b.safetensors", 2, margin=1.5, size=24)]


def crops_of(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (11, size, size), dtype=np.uint8)


def both_crops() -> list[np.ndarray]:
    """What the two of `pair` want to see."""
    return [crops_of(32), crops_of(24)]


def words_of(files: Sequence[Path]) -> str:
    return ",".join(map(str, files))


def test_the_mean_of_members_by_hand(pair: list[Path]) -> None:
    combined = load_classifier(pair)
    assert isinstance(combined, CombinedClassifier)
    assert [spec.size for spec in combined.crops] == [32, 24]
    crops = [crops_of(32), crops_of(24)]
    found = combined.grade(crops, KINDS)
    alone = [load_classifier(f).grade(c, KINDS) for f, c in zip(pair, crops, strict=True)]
    np.testing.assert_allclose(found.seven, (alone[0].seven + alone[1].seven) / 2, atol=1e-6)
    np.testing.assert_allclose(found.binary, (alone[0].binary + alone[1].binary) / 2, atol=1e-6)
    np.testing.assert_array_equal(found.seven_given, found.seven.argmax(1))
    assert (found.binary[~DISC] == 0).all()


@pytest.mark.parametrize("temperature", [{}, {"seven": 1.5, "binary": 0.8}], ids=["1", "own"])
def test_no_structures_have_no_grades(pair: list[Path], temperature: dict[str, float]) -> None:
    combined = load_classifier(pair)
    assert isinstance(combined, CombinedClassifier)
    combined = replace(combined, combination=replace(combined.combination, temperature=temperature))
    crops = [crops_of(32)[:0], crops_of(24)[:0]]
    for kinds in (None, []):
        found = combined.grade(crops, kinds)
        assert (found.seven.shape, found.binary.shape) == ((0, 7), (0,))
        assert (found.seven_given.shape, found.binary_given.shape) == ((0,), (0,))


def test_one_file_alone_is_the_classifier_itself(pair: list[Path]) -> None:
    crops = crops_of(32)
    one, listed = load_classifier(pair[0]).grade(crops), load_classifier(pair[:1]).grade(crops)
    np.testing.assert_array_equal(one.seven, listed.seven)
    np.testing.assert_array_equal(one.binary, listed.binary)


def test_temperature_adjustment_and_threshold_by_hand() -> None:
    rng = np.random.default_rng(0)
    sevens = [rng.dirichlet(np.ones(7), 11).astype(np.float32) for _ in range(2)]
    v5 = [rng.random(11).astype(np.float32) for _ in range(2)]
    shares = {"seven": (0.75, 0.25), "binary": (0.4, 0.6)}
    counts = (400, 60, 300, 200, 90, 30, 4)
    how = Combination(shares, {"seven": 1.7, "binary": 0.8}, 0.5, counts, 0.3)
    found = combined_grades([Grades(s, b) for s, b in zip(sevens, v5, strict=True)], how, KINDS)
    for n, kind in enumerate(KINDS):
        own = slice(0, 2) if kind == "vertebra" else slice(2, 7)
        p = sum(s * t[n, own] / t[n, own].sum() for s, t in zip((0.75, 0.25), sevens, strict=True))
        warm = p ** (1 / 1.7) / (p ** (1 / 1.7)).sum()
        np.testing.assert_allclose(found.seven[n, own], warm, atol=1e-6)
        assert found.seven[n].sum() == pytest.approx(1, abs=1e-6)
        adjusted = warm / np.array(counts[own]) ** 0.5
        assert found.seven_given[n] == own.start + adjusted.argmax()
        q = 0.4 * v5[0][n] + 0.6 * v5[1][n]
        yes = q ** (1 / 0.8) / (q ** (1 / 0.8) + (1 - q) ** (1 / 0.8))
        assert found.binary[n] == pytest.approx(yes if kind == "disc" else 0, abs=1e-6)
        assert found.binary_given[n] == (kind == "disc" and yes >= 0.3)
    plain = combined_grades([Grades(sevens[0], None)], Combination({"seven": (1.0,)}), KINDS)
    assert (plain.seven_given != found.seven_given).any()


def test_a_class_that_training_did_not_have_can_be_answered() -> None:
    p = np.array([[0.2, 0.8], [0.9, 0.1]])
    assert adjusted_codes(p, 0.5, (100, 0)).tolist() == [1, 1]
    assert adjusted_codes(p, 0.0, ()).tolist() == [1, 0]


def test_members_with_different_heads(tmp_path: Path) -> None:
    seven = write_network(tmp_path / "s.safetensors", 1, head="seven")
    binary = write_network(tmp_path / "b.safetensors", 2, head="binary")
    both = write_network(tmp_path / "c.safetensors", 3)
    crops = crops_of(32)
    alone = {f: load_classifier(f).grade(crops, KINDS) for f in (seven, binary, both)}
    found = load_classifier([seven, binary])
    assert found.head == "both"
    grades = found.grade([crops, crops], KINDS)
    np.testing.assert_allclose(grades.seven, alone[seven].seven, atol=1e-6)
    np.testing.assert_allclose(grades.binary, alone[binary].binary, atol=1e-6)
    grades = load_classifier([seven, both]).grade([crops, crops], KINDS)
    np.testing.assert_allclose(
        grades.seven, (alone[seven].seven + alone[both].seven) / 2, atol=1e-6
    )
    np.testing.assert_allclose(grades.binary, alone[both].binary, atol=1e-6)


def test_members_that_look_at_levels(tmp_path: Path) -> None:
    plain = write_network(tmp_path / "p.safetensors", 1)
    looks = write_network(tmp_path / "l.safetensors", 2, level_input=True)
    crops, levels = crops_of(32), np.arange(11)
    alone = load_classifier(looks).grade(crops, KINDS, levels=levels)
    assert np.abs(alone.seven - load_classifier(looks).grade(crops, KINDS).seven).max() > 1e-3
    found = load_classifier([plain, looks]).grade([crops, crops], KINDS, levels=levels)
    other = load_classifier(plain).grade(crops, KINDS)
    np.testing.assert_allclose(found.seven, (alone.seven + other.seven) / 2, atol=1e-6)


def test_crops_are_cut_once_for_members_that_want_the_same(pair: list[Path]) -> None:
    asked: list[CropSpec] = []

    def cut(spec: CropSpec, only: np.ndarray | None) -> np.ndarray:
        assert only is None
        asked.append(spec)
        return crops_of(spec.size)

    combined = load_classifier([pair[0], pair[1], pair[0]])
    assert [len(c[0]) for c in combined.cut(cut)] == [32, 24, 32]
    assert [spec.size for spec in asked] == [32, 24]


@pytest.mark.parametrize(
    ("crops", "kinds", "message"),
    [
        ([crops_of(32)], None, "wanted a list of 2 arrays"),
        ([crops_of(32), crops_of(24)[:5]], None, "found 2 of 5, "),
        ([crops_of(32), crops_of(32)], None, "wanted"),
        ([crops_of(32), crops_of(24)], KINDS[:3], "11 crops but 3 kinds"),
    ],
)
def test_crops_that_do_not_fit(pair: list[Path], crops, kinds, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_classifier(pair).grade(crops, kinds)


def combined_file(path: Path, pair: Sequence[Path], **values) -> Path:
    found = [load_classifier(file).network for file in pair]
    members = [(network_state(network), network.config) for network in found]
    how = Combination(equal_shares([c.head for _, c in members]), **values)
    save_combined(path, members, how)
    return path


def test_a_file_of_several_says_what_they_say(pair: list[Path], tmp_path: Path) -> None:
    file = combined_file(tmp_path / "both.safetensors", pair, threshold=0.25)
    found, listed = load_classifier(file), load_classifier(pair)
    crops = [crops_of(32), crops_of(24)]
    one, other = found.grade(crops, KINDS), listed.grade(crops, KINDS)
    np.testing.assert_array_equal(one.seven, other.seven)
    np.testing.assert_array_equal(one.binary, other.binary)
    assert (one.threshold, other.threshold) == (0.25, 0.5)
    metadata = read_metadata(file)
    assert metadata["task"] == "classify"
    assert metadata["names"][: len(SEVEN_NAMES)] == list(SEVEN_NAMES)
    tensors = load_file(file)
    for n, source in enumerate(pair):
        for name, tensor in load_file(source).items():
            assert torch.equal(tensors[f"member{n}.{name}"], tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["combination"].update(threshold=float("nan")), "damaged.*nan"),
        (lambda d: d["combination"].update(threshold=0), "threshold 0"),
        (lambda d: d["combination"].update(tau=-1), "tau -1"),
        (lambda d: d["combination"].update(tau=0.2, counts=[1, 2]), "2 counts"),
        (lambda d: d["combination"].update(temperature={"seven": 0, "binary": 1}), "temperature"),
        (lambda d: d["combination"]["shares"].update(seven=[0.5]), "1 shares of seven"),
        (lambda d: d["combination"]["shares"].update(seven=[0.9, 0.9]), "add up to 1"),
        (lambda d: d["combination"]["shares"].update(seven=[2.0, -1.0]), "0 or more"),
        (lambda d: d["combination"]["shares"].pop("seven"), "wanted seven, binary"),
        (lambda d: d.pop("combination"), "combination"),
        (lambda d: d.update(combined=[]), "of no member"),
        (lambda d: d.update(combined=3), "damaged"),
        (lambda d: d["combined"][1].update(names=["x", "y"]), "member 1.*classes"),
        (lambda d: d["combined"].pop(), "of no member"),
    ],
)
def test_a_damaged_file_is_refused(pair: list[Path], tmp_path: Path, change, message: str) -> None:
    from safetensors.torch import save_file

    file = combined_file(tmp_path / "both.safetensors", pair)
    description = read_metadata(file)
    change(description)
    damaged = tmp_path / "damaged.safetensors"
    save_file(load_file(file), damaged, {"spineline": json.dumps(description)})
    with pytest.raises(WeightsError, match=message):
        load_classifier(damaged)


def test_a_combination_is_no_member(pair: list[Path], tmp_path: Path, run_cli: Cli) -> None:
    file = combined_file(tmp_path / "both.safetensors", pair)
    with pytest.raises(WeightsError, match="already holds several combined classifiers"):
        load_classifier([file, pair[0]])
    out = tmp_path / "o.onnx"
    code, _, errors = run_cli("classify", "export", f"model={file}", f"out={out}")
    assert code == 1
    assert "several combined classifiers" in errors
    assert not out.exists()


def test_lists_of_names(pair: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "a,b.safetensors"
    odd.write_bytes(pair[0].read_bytes())
    assert names_in_list(str(odd)) == [str(odd)]
    assert names_in_list("") == []
    found = resolve_classifiers(f"[{words_of(pair)}]")
    assert [file.path for file in found] == pair
    record = weights_record(found)
    assert record["name"] == "a.safetensors,b.safetensors"
    assert [member["sha256"] for member in record["members"]] == [f.sha256 for f in found]
    with pytest.raises(ConfigError, match="names no classifier"):
        resolve_classifiers([])
    with pytest.raises(ConfigError, match="no weights file"):
        load_classifier([])


def test_shares_that_are_given() -> None:
    even = {"seven": (0.75, 0.25), "binary": (0.75, 0.25)}
    assert given_shares([3, 1], ["both", "both"]) == (even, ())
    assert given_shares([3, 1], ["seven", "both"])[0]["binary"] == (0.0, 1.0)
    shares, vertebra = given_shares([2, 1, 1], ["both"] * 3, ["vertebra", "both", "disc"])
    assert shares == {"seven": (0.0, 0.5, 0.5), "binary": (0.0, 0.5, 0.5)}
    assert vertebra == pytest.approx((2 / 3, 1 / 3, 0))
    with pytest.raises(ConfigError, match="seven head has a share for the kind vertebra"):
        given_shares([1, 1], ["both", "both"], ["disc", "disc"])
    for numbers, message in (
        ([1], "1 numbers for 2"), ([1, -1], "0 or more"), ([0, 0], "no classifier with a seven"),
        ([float("nan"), 1], "0 or more"), ([1, 0], "no classifier with a binary"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            given_shares(numbers, ["seven", "both"])
    again = combination_from_json(Combination(equal_shares(["both"])).to_json(), ["both"])
    assert again.shares == equal_shares(["both"])


BY_KIND = Combination(
    {"seven": (0.25, 0.75), "binary": (0.5, 0.5)}, threshold=0.25, vertebra=(1.0, 0.0)
)
"""The second member answers for discs alone."""


def test_a_member_that_answers_for_discs_alone(pair: list[Path]) -> None:
    asked: dict[int, np.ndarray | None] = {}

    def cut(spec: CropSpec, only: np.ndarray | None) -> np.ndarray:
        asked[spec.size] = only
        return crops_of(spec.size)[slice(None) if only is None else only]

    members = load_classifier(pair).members
    combined = CombinedClassifier(members, BY_KIND)
    crops = combined.cut(cut, KINDS)
    assert [len(each) for each in crops] == [11, 6]
    assert asked[32] is None
    np.testing.assert_array_equal(asked[24], DISC)
    found = combined.grade(crops, KINDS, levels=np.arange(11))
    alone = [
        load_classifier(f).grade(crops_of(size), KINDS)
        for f, size in zip(pair, (32, 24), strict=True)
    ]
    np.testing.assert_allclose(found.seven[~DISC], alone[0].seven[~DISC], atol=1e-6)
    mean = 0.25 * alone[0].seven + 0.75 * alone[1].seven
    np.testing.assert_allclose(found.seven[DISC], mean[DISC], atol=1e-6)
    yes = (alone[0].binary + alone[1].binary) / 2
    np.testing.assert_allclose(found.binary, np.where(DISC, yes, 0), atol=1e-6)
    whole = combined.grade([crops_of(32), crops_of(24)], KINDS)
    np.testing.assert_array_equal(whole.seven, found.seven)
    with pytest.raises(ValueError, match="3 crops"):
        combined.grade([crops_of(32), crops_of(24)[:3]], KINDS)


def test_vertebrae_alone_leave_a_member_nothing_to_do(pair: list[Path]) -> None:
    combined = CombinedClassifier(load_classifier(pair).members, BY_KIND)
    kinds = ["vertebra"] * 3
    crops = combined.cut(
        lambda spec, only: crops_of(spec.size)[:3][slice(None) if only is None else only], kinds
    )
    assert [len(each) for each in crops] == [3, 0]
    found = combined.grade(crops, kinds)
    wanted = load_classifier(pair[0]).grade(crops_of(32)[:3], kinds)
    np.testing.assert_allclose(found.seven, wanted.seven, atol=1e-6)
    assert not found.binary.any()


def test_structures_of_unknown_kind_are_asked_of_all(pair: list[Path]) -> None:
    combined = CombinedClassifier(load_classifier(pair).members, BY_KIND)
    found = combined.grade([crops_of(32), crops_of(24)])
    alone = [
        load_classifier(f).grade(crops_of(size)) for f, size in zip(pair, (32, 24), strict=True)
    ]
    mean = (1.25 * alone[0].seven + 0.75 * alone[1].seven) / 2
    np.testing.assert_allclose(found.seven, mean, atol=1e-6)


def test_shares_by_kind_in_a_file(pair: list[Path], tmp_path: Path) -> None:
    values = BY_KIND.to_json()
    assert values["shares"]["seven"] == {"disc": [0.25, 0.75], "vertebra": [1.0, 0.0]}
    assert combination_from_json(values, ["both", "both"]) == replace(
        BY_KIND, temperature={"seven": 1.0, "binary": 1.0}
    )
    plain = Combination(BY_KIND.shares).to_json()
    assert plain["shares"]["seven"] == [0.25, 0.75]  # as versions before read it
    for by_kind, message in (
        ({"disc": [0.5, 0.5]}, "wanted disc and vertebra"),
        ({"disc": [0.5, 0.5], "vertebra": [0.5]}, "1 shares of seven"),
        ({"disc": [0.5, 0.5], "vertebra": [0.9, 0.9]}, "add up to 1"),
        ({"disc": [0.5, 0.5], "vertebra": ["a", 1]}, "wanted a number"),
    ):
        damaged = {**values, "shares": {**values["shares"], "seven": by_kind}}
        with pytest.raises(ValueError, match=message):
            combination_from_json(damaged, ["both", "both"])
    states = [load_classifier(file).network for file in pair]
    file = tmp_path / "kinds.safetensors"
    save_combined(file, [(network_state(n), n.config) for n in states], BY_KIND)
    crops = [crops_of(32), crops_of(24)]
    loaded = load_classifier(file)
    assert loaded.combination.vertebra == (1.0, 0.0)
    wanted = CombinedClassifier(load_classifier(pair).members, BY_KIND).grade(crops, KINDS)
    np.testing.assert_array_equal(loaded.grade(crops, KINDS).seven, wanted.seven)


def write_histograms(path: Path, seed: int, **values) -> Path:
    """A network on gradient histograms, fitted to drawn crops."""
    crop = CropSpec(32, values.pop("margin", 1.0), "none")
    made = NetworkConfig("gradients", "both", 8, 0.0, 1, crop, components=6, **values)
    network = build_network(made, seed=seed)
    network.trunk.fit(network.trunk.measure(torch.rand(20, 1, 32, 32)))
    save_weights(path, network_state(network), network.config)
    return path


def test_histograms_of_the_same_crops_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spineline.classify.trunks.gradients import GradientTrunk

    files = [
        write_histograms(tmp_path / "a.safetensors", 1),
        write_histograms(tmp_path / "b.safetensors", 2, level_input=True, members=2),
        write_histograms(tmp_path / "c.safetensors", 3, margin=2.0),
    ]
    alone = [load_classifier(f).grade(crops_of(32), KINDS, levels=np.arange(11)) for f in files]
    measured: list[int] = []
    measure = GradientTrunk.measure

    def counted(self: GradientTrunk, images: torch.Tensor) -> torch.Tensor:
        measured.append(len(images))
        return measure(self, images)

    monkeypatch.setattr(GradientTrunk, "measure", counted)
    combined = load_classifier(files)
    found = combined.grade([crops_of(32)] * 3, KINDS, levels=np.arange(11))
    assert measured == [11, 11]
    mean = sum(each.seven for each in alone) / 3
    np.testing.assert_allclose(found.seven, mean, atol=1e-6)
    mean = sum(each.binary for each in alone) / 3
    np.testing.assert_allclose(found.binary, mean, atol=1e-6)
    assert [numbers for numbers, _ in combined.groups] == [(0, 1)]
    with pytest.raises(ValueError, match="wanted"):
        combined.grade([crops_of(24)] * 3, KINDS)


def drawn_members(count: int = 600) -> tuple[list[np.ndarray], np.ndarray]:
    """Two sets of probabilities, labels drawn from 0.7 of the one and 0.3 of the other."""
    rng = np.random.default_rng(5)
    tables = [rng.dirichlet(np.full(5, 0.5), count) for _ in range(2)]
    mean = 0.7 * tables[0] + 0.3 * tables[1]
    return tables, np.array([rng.choice(5, p=row) for row in mean])


def test_fitted_shares_agree_with_scipy() -> None:
    tables, true = drawn_members()
    tables.append(np.roll(tables[0], 1, axis=1))  # says what is not so
    fold = np.zeros(len(true), dtype=np.int64)
    found = fit_shares([Graded(np.log(table), true, fold) for table in tables])

    def loss(shares: np.ndarray) -> float:
        return log_loss(true, sum(s * t for s, t in zip(shares, tables, strict=True)))

    wanted = minimize(
        loss, np.full(3, 1 / 3), bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda s: s.sum() - 1},
    )  # fmt: skip
    np.testing.assert_allclose(found, wanted.x, atol=5e-3)
    assert sum(found) == pytest.approx(1)
    assert loss(np.array(found)) <= wanted.fun + 1e-6
    assert fit_shares([None, Graded(np.log(tables[0]), true, fold)]) == (0.0, 1.0)


@pytest.mark.parametrize("specificity", [0.8, 0.95, 1.0])
def test_the_threshold_agrees_with_scikit_learn(specificity: float) -> None:
    rng = np.random.default_rng(3)
    positive = rng.random(500) < 0.1
    score = np.clip(rng.normal(0.2 + 0.3 * positive, 0.15), 0, 1).astype(np.float32).round(2)
    found = threshold_at(score, positive, specificity)
    fpr, tpr, thresholds = roc_curve(positive, score, drop_intermediate=False)
    best = tpr[1 - fpr >= specificity].max()
    called = score >= found
    assert called[positive].mean() == pytest.approx(best)
    assert (~called[~positive]).mean() >= specificity
    if found <= score.max():
        assert found == pytest.approx(thresholds[(tpr == best) & (1 - fpr >= specificity)].min())


def test_thresholds_that_cannot_be() -> None:
    one = np.ones(4, np.float32)
    with pytest.raises(AnnotationError, match="probability 1"):
        threshold_at(one, np.array([True, False, False, True]), 0.9)
    with pytest.raises(AnnotationError, match="no structure without v5"):
        threshold_at(one, np.ones(4, dtype=bool), 0.9)


def write_grades(path: Path, seed: int, *, noise: float = 1.0, studies: int = 40) -> Path:
    """Out-of-fold predictions; labels are the same for every seed."""
    truth, rng = np.random.default_rng(0), np.random.default_rng(seed)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["fold", *GRADE_COLUMNS])
        for study in range(studies):
            for level in LEVELS:
                disc = kind_of_level(level) == "disc"
                own = range(2, 7) if disc else range(2)
                seven = int(truth.choice(own))
                node = int(disc and truth.random() < 0.2)
                logit = np.full(7, -np.inf)
                logit[list(own)] = rng.normal(0, noise, len(own))
                logit[seven] += 2
                p = np.exp(logit) / np.exp(logit).sum()
                v5 = 1 / (1 + np.exp(2 - 3 * node + rng.normal(0, noise))) if disc else 0.0
                row = [study % 3, f"{study}-0", study, level, seven, node, *p, v5]
                writer.writerow(row)
    return path


def table_of(path: Path) -> dict[str, np.ndarray]:
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    seven = [[float(row[f"p_{name}"]) for name in SEVEN_NAMES] for row in rows]
    return {
        "seven": np.array(seven),
        "v5": np.array([float(row["p_v5"]) for row in rows]),
        "seven_true": np.array([int(row["seven"]) for row in rows]),
        "binary_true": np.array([int(row["binary"]) for row in rows]),
    }


def test_calibrate_writes_one_file_of_all(pair: list[Path], tmp_path: Path, run_cli: Cli) -> None:
    files = [write_grades(tmp_path / f"{n}.csv", n + 1, noise=n + 1) for n in range(2)]
    out = tmp_path / "combined.safetensors"
    code, said, errors = run_cli(
        "classify", "calibrate", f"model=[{words_of(pair)}]", f"predictions={words_of(files)}",
        "shares=fit", "tau=0.2", "specificity=0.95", f"out={out}",
    )  # fmt: skip
    assert code == 0, errors
    assert "cross-fitted" in said
    how = read_metadata(out)["combination"]
    assert how["shares"]["seven"][0] > how["shares"]["seven"][1]  # the less noisy one
    assert how["tau"] == 0.2
    one, other = (table_of(file) for file in files)
    assert how["counts"] == np.bincount(one["seven_true"], minlength=7).tolist()
    mean = sum(s * t["v5"] for s, t in zip(how["shares"]["binary"], (one, other), strict=True))
    inverse = 1 / how["temperature"]["binary"]
    warm = mean**inverse / (mean**inverse + (1 - mean) ** inverse)
    fpr, tpr, _ = roc_curve(one["binary_true"], warm, drop_intermediate=False)
    called = warm >= how["threshold"] - 1e-6
    assert (~called[one["binary_true"] == 0]).mean() >= 0.95
    assert called[one["binary_true"] == 1].mean() == pytest.approx(tpr[1 - fpr >= 0.95].max())

    found = load_classifier(out)
    grades = found.grade([crops_of(32), crops_of(24)], KINDS)
    assert grades.threshold == how["threshold"]
    assert (grades.binary_given == (grades.binary >= how["threshold"])).all()
    assert run_cli("weights", "list", f"folder={tmp_path}")[0] == 0


@pytest.mark.parametrize("shares", ["equal", "fit", "1,3"])
def test_calibrate_a_member_for_discs_alone(
    pair: list[Path], tmp_path: Path, run_cli: Cli, shares: str
) -> None:
    files = [write_grades(tmp_path / f"{n}.csv", n + 1, noise=n + 1) for n in range(2)]
    out = tmp_path / "combined.safetensors"
    code, _, errors = run_cli(
        "classify", "calibrate", f"model={words_of(pair)}", f"predictions={words_of(files)}",
        f"shares={shares}", "kinds=both,disc", f"out={out}",
    )  # fmt: skip
    assert code == 0, errors
    how = read_metadata(out)["combination"]
    one, other = (table_of(file) for file in files)
    disc = one["seven_true"] >= 2
    assert how["shares"]["seven"]["vertebra"] == [1.0, 0.0]
    of_discs = how["shares"]["seven"]["disc"]
    if shares == "fit":
        fold = np.zeros(disc.sum(), dtype=np.int64)
        with np.errstate(divide="ignore"):
            logs = [np.log(t["seven"][disc]) for t in (one, other)]
        wanted = fit_shares([Graded(log, one["seven_true"][disc], fold) for log in logs])
        assert of_discs == pytest.approx(list(wanted))
    else:
        assert of_discs == ([0.5, 0.5] if shares == "equal" else [0.25, 0.75])
    mean = of_discs[0] * one["seven"] + of_discs[1] * other["seven"]
    mean = np.where(disc[:, None], mean, one["seven"])
    with np.errstate(divide="ignore"):
        wanted = fit_temperature(np.log(mean), one["seven_true"])
    assert how["temperature"]["seven"] in (pytest.approx(wanted, abs=1e-3), 1.0)


def test_one_model_may_have_a_threshold(pair: list[Path], tmp_path: Path, run_cli: Cli) -> None:
    file, out = write_grades(tmp_path / "p.csv", 1), tmp_path / "o.safetensors"
    words = (f"model={pair[0]}", f"predictions={file}", "specificity=0.9", f"out={out}")
    assert run_cli("classify", "calibrate", *words)[0] == 0
    found = load_classifier(out)
    assert isinstance(found, CombinedClassifier)
    assert found.grade([crops_of(32)], KINDS).threshold < 0.5


def bad_predictions(folder: Path) -> dict[str, list[Path]]:
    good = write_grades(folder / "good.csv", 1)
    lines = good.read_text().splitlines()

    def altered(name: str, content: Sequence[str]) -> Path:
        (folder / name).write_text("\n".join(content) + "\n")
        return folder / name

    cells = lines[5].split(",")
    nan = [*cells[:6], "nan", *cells[7:]]
    label = [*cells[:4], "1" if cells[4] == "0" else "0", *cells[5:]]
    fold = ["2" if cells[0] != "2" else "1", *cells[1:]]
    return {
        "one file": [good],
        "shorter": [good, altered("short.csv", lines[:-1])],
        "twice": [good, altered("twice.csv", [*lines, lines[-1]])],
        "nan": [good, altered("nan.csv", [*lines[:5], ",".join(nan), *lines[6:]])],
        "label": [good, altered("label.csv", [*lines[:5], ",".join(label), *lines[6:]])],
        "fold": [good, altered("fold.csv", [*lines[:5], ",".join(fold), *lines[6:]])],
        "none": [good, folder / "none.csv"],
    }


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("one file", 2, "1 files for 2 models"),
        ("shorter", 1, "short.csv: has no line of image '39-0', L5-S1"),
        ("twice", 1, "occurs twice"),
        ("nan", 1, "not numbers"),
        ("label", 1, "label.csv: image '0-0', L2-L3: seven is"),
        ("fold", 1, "fold is"),
        ("none", 1, "cannot be read"),
    ],
)
def test_predictions_that_do_not_fit(
    pair: list[Path], tmp_path: Path, run_cli: Cli, name: str, code: int, message: str
) -> None:
    files, out = bad_predictions(tmp_path)[name], tmp_path / "o.safetensors"
    words = (f"model={words_of(pair)}", f"predictions={words_of(files)}", f"out={out}")
    found, _, errors = run_cli("classify", "calibrate", *words)
    assert found == code
    assert message in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shares=1"], "1 numbers for 2"),
        (["shares=some"], "equal, fit, or a number"),
        (["shares=1,-1"], "0 or more"),
        (["kinds=both"], "wanted both, disc, vertebra for each of 2 models"),
        (["kinds=both,spine"], "kinds=both,spine: wanted both, disc, vertebra"),
        (["kinds=disc,disc"], "for the kind vertebra"),
        (["tau=9"], "out of range"),
        (["specificity=1.5"], "out of range"),
        (["model=[]"], "names no classifier"),
    ],
)
def test_keys_that_do_not_fit(
    pair: list[Path], tmp_path: Path, run_cli: Cli, words: list[str], message: str
) -> None:
    file, out = write_grades(tmp_path / "p.csv", 1, studies=4), tmp_path / "o.safetensors"
    given = [f"model={words_of(pair)}", f"predictions={file},{file}", f"out={out}"]
    given = [w for w in given if w.split("=")[0] not in {x.split("=")[0] for x in words}]
    code, _, errors = run_cli("classify", "calibrate", *given, *words)
    assert code == 2
    assert message in errors
    assert not out.exists()


@pytest.mark.slow
def test_val_scores_the_mean(
    pair: list[Path], tmp_path: Path, dataset_folder: Path, run_cli: Cli
) -> None:
    file = combined_file(tmp_path / "both.safetensors", pair, threshold=0.2)
    tables = {}
    for name, model in {"a": pair[0], "b": pair[1], "list": words_of(pair), "file": file}.items():
        out = tmp_path / name
        words = (f"model={model}", f"data={dataset_folder}", f"out={out}")
        code, _, errors = run_cli("classify", "val", *words)
        assert code == 0, errors
        tables[name] = table_of(out / "predictions.csv")
    for key in ("seven", "v5"):
        mean = (tables["a"][key] + tables["b"][key]) / 2
        np.testing.assert_allclose(tables["list"][key], mean, atol=1e-6)
        np.testing.assert_array_equal(tables["file"][key], tables["list"][key])
    metrics = json.loads((tmp_path / "file" / "metrics.json").read_text())["binary"]
    called, true = tables["file"]["v5"] >= 0.2, tables["file"]["binary_true"] == 1
    assert metrics["threshold"] == 0.2
    assert metrics["sensitivity"] == pytest.approx(called[true].mean())
    assert metrics["specificity"] == pytest.approx((~called[~true]).mean())
    assert "members" in (tmp_path / "list" / "run.yaml").read_text()


def test_predict_shows_members_of_a_smaller_margin_the_middle(
    pair: list[Path], tmp_path: Path, run_cli: Cli
) -> None:
    import cv2

    wide = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "x_L4-L5.png"), wide)
    words = (
        f"model={words_of(pair)}",
        f"source={tmp_path / 'x_L4-L5.png'}",
        f"out={tmp_path / 'o'}",
    )
    code, said, errors = run_cli("classify", "predict", *words)
    assert code == 0, errors
    assert "1.5 times the box" in said
    middle = wide[8:40, 8:40]  # 1.0 of 1.5
    shrunk = cv2.resize(wide, (24, 24), interpolation=cv2.INTER_AREA)
    wanted = load_classifier(pair).grade([middle[None], shrunk[None]], ["disc"])
    (entry,) = json.loads((tmp_path / "o" / "predictions.json").read_text())["predictions"]
    assert entry["binary"]["probability"] == pytest.approx(float(wanted.binary[0]), abs=1e-6)
