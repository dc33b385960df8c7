from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from spineline.datasets.common.errors import ConfigError
from spineline.detect.defaults import DEFAULTS, FASTERRCNN_DEFAULTS, OWN_KEYS
from spineline.detect.recipe import (
    ANCHOR_ONLY,
    load_detect_recipe,
    log_outcomes,
    parse_recipe,
    resolve_recipe,
)
from spineline.detect.settings import DetectTrain

# The report's 27 values, and what becomes of each.
REPORT = {
    "lr0": (0.01, True), "lrf": (0.2, True), "momentum": (0.937, True),
    "weight_decay": (0.0005, True), "warmup_epochs": (3.0, True), "warmup_momentum": (0.8, True),
    "warmup_bias_lr": (0.1, True), "box": (0.05, False), "cls": (0.5, True), "cls_pw": (1.0, False),
    "obj": (1.0, False), "obj_pw": (1.0, False), "iou_t": (0.20, False), "anchor_t": (4.0, False),
    "fl_gamma": (0.0, False), "hsv_h": (0.015, False), "hsv_s": (0.7, False), "hsv_v": (0.4, True),
    "degrees": (0.0, True), "translate": (0.1, True), "scale": (0.5, True), "shear": (0.0, True),
    "perspective": (0.0, True), "flipud": (0.0, True), "fliplr": (0.5, True), "mosaic": (1.0, True),
    "mixup": (0.2, True),
}  # fmt: skip


def settings(**given: Any) -> DetectTrain:
    return DetectTrain(model="yolov8n", data=Path("data"), out=Path("out"), **given)


def test_report_holds_its_27_values_as_given() -> None:
    recipe = load_detect_recipe("report")
    assert len(recipe.values) == 27
    found = {v.key: (v.value, v.status == "mapped") for v in recipe.values}
    assert found == REPORT
    assert all(v.reason for v in recipe.values if v.status == "not_applicable")


def test_report_trains_with_what_maps_and_leaves_the_rest_at_the_package_default() -> None:
    resolved = resolve_recipe(settings(hyp="report"))
    mapped = {name: value for name, (value, applies) in REPORT.items() if applies}
    beside = {"optimizer": "SGD", "close_mosaic": 0, "cos_lr": True}
    assert resolved.values == {**DEFAULTS, **mapped, **beside}
    assert resolved.values["box"] == 7.5
    assert resolved.values["cls_pw"] == 0.0


def test_report_outcomes_account_for_every_value() -> None:
    report = resolve_recipe(settings(hyp="report", mixup=0.0)).report()
    by_key = {entry["key"]: entry for entry in report["values"]}
    assert list(by_key)[:27] == list(REPORT)
    assert by_key["mixup"]["status"] == "overridden"
    assert by_key["mixup"]["trained_with"] == 0.0
    assert "mixup=0.0 was given" in by_key["mixup"]["reason"]
    assert by_key["obj"]["status"] == "not_applicable"
    assert by_key["obj"]["trained_with"] is None
    assert by_key["box"]["trained_with"] == 7.5
    assert by_key["optimizer"]["status"] == "applied"


def test_log_names_every_value(said: pytest.LogCaptureFixture) -> None:
    log_outcomes(resolve_recipe(settings(hyp="report", lr0=0.02)))
    for name in REPORT:
        assert f"{name}=" in said.text
    assert "recipe report: 17 of its 27 values applied: lrf=0.2 " in said.text
    assert "recipe report: also set: optimizer=SGD close_mosaic=0 cos_lr=True" in said.text
    assert "lr0=0.01 overridden: lr0=0.02 was given" in said.text
    assert "obj=1.0 not applied: the anchor-free head has no objectness" in said.text


def test_defaults_are_those_of_the_package() -> None:
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.utils import DEFAULT_CFG_DICT

    ours = {k: v for k, v in DEFAULTS.items() if k not in OWN_KEYS}
    assert ours == {k: DEFAULT_CFG_DICT[k] for k in ours}


def test_cosine_is_the_one_that_yolov5_calls_onecycle() -> None:
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.utils.torch_utils import one_cycle

    schedule = one_cycle(1, 0.2, 200)
    for epoch in range(200):
        wanted = ((1 - math.cos(epoch * math.pi / 200)) / 2) * (0.2 - 1) + 1
        assert schedule(epoch) == wanted


def test_every_bundled_recipe_resolves() -> None:
    lumbar = resolve_recipe(settings(hyp="lumbar"))
    assert lumbar.values["imgsz"] == 320
    assert all(outcome.status == "applied" for outcome in lumbar.outcomes)


# The older cervical project's train/train_pytorch.cfg; mean and std of its three channels.
CERVICAL = {
    "optimizer": "SGD", "backbone": "resnet50", "lr0": 0.005, "lrf": 1.0, "momentum": 0.9,
    "weight_decay": 1e-4, "batch": 8, "imgsz": 384, "crop": 330, "distortion_min": 0.05,
    "distortion_max": 0.1, "distortion_p": 0.7, "degrees": 19.0, "degrees_p": 0.7,
    "quarter_turns": True, "fliplr": 0.5, "flipud": 0.5, "brightness": 0.075, "contrast": 0.075,
    "brightness_contrast_p": 0.65, "min_visibility": 0.3,
    "mean": pytest.approx((0.15790240544637338 + 0.1552071038276819 + 0.14960934155744626) / 3,
                          abs=1e-6),
    "std": pytest.approx((0.17360058569013256 + 0.1712755483385491 + 0.16214239162025465) / 3,
                         abs=1e-6),
}  # fmt: skip


def test_cervical_is_the_older_project_s_configuration() -> None:
    found = resolve_recipe(DetectTrain(model="fasterrcnn", out=Path("out"), hyp="cervical"))
    rest = {k: v for k, v in FASTERRCNN_DEFAULTS.items() if k not in CERVICAL}
    assert found.values == {**rest, **CERVICAL}


def test_without_a_recipe_a_key_given_beats_the_default() -> None:
    resolved = resolve_recipe(settings(lr0=0.5, optimizer="SGD"))
    assert resolved.values == {**DEFAULTS, "lr0": 0.5, "optimizer": "SGD"}
    assert resolved.recipe is None


def test_flat_yolov5_file(tmp_path: Path) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_text(yaml.safe_dump({"lr0": 0.02, "box": 0.05, "cls_pw": 1.0, "obj": 1.0}))
    resolved = resolve_recipe(settings(hyp=str(path), optimizer="SGD"))
    assert resolved.values["lr0"] == 0.02
    assert resolved.values["box"] == 7.5
    status = {o.key: o.status for o in resolved.outcomes}
    assert status["lr0"] == "applied"
    assert [status[k] for k in ("box", "cls_pw", "obj")] == ["not_applicable"] * 3


def test_flat_file_of_the_package_means_its_box(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("box: 5.0\nlr0: 1e-3\n")  # YAML 1.1 reads 1e-3 as text
    resolved = resolve_recipe(settings(hyp=str(path)))
    assert (resolved.values["box"], resolved.values["lr0"]) == (5.0, 0.001)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lr": 0.1}, "unknown key 'lr'; did you mean 'lrf'"),
        ({"mosiac": 1.0}, "unknown key 'mosiac'; did you mean 'mosaic'"),
        ({"lr0": "fast"}, "lr0=fast: not a valid value"),
        ({"lr0": float("nan")}, "lr0=nan: out of range"),
        ({"fliplr": 1.5}, "fliplr=1.5: out of range"),
        ({"seed": 1}, "unknown key 'seed'"),
        ({"values": {}, "settings": {"lr": 0.1}}, "settings: unknown key 'lr'"),
        ([1, 2], "holds list"),
        ({}, "holds dict"),
        ({"values": {"lr0": 1}}, "lr0: wanted value, status"),
        ({"values": {"lr0": {"value": 1, "status": "maybe"}}}, "status 'maybe'; allowed"),
        ({"values": {"obj": {"value": 1, "status": "not_applicable"}}}, "needs a reason"),
        ({"values": {}, "setings": {}}, "unknown key 'setings'; did you mean 'settings'"),
        ({"values": {}, "settings": {"model": "x"}}, "settings: unknown key 'model'"),
    ],
)
def test_bad_recipe(content: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(content, where="hyp=x.yaml")


@pytest.mark.parametrize(
    ("hyp", "message"),
    [("reprot", "did you mean 'report'"), ("no/such.yaml", "neither a bundled recipe")],
)
def test_unknown_recipe(hyp: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_detect_recipe(hyp)


def test_image_size_must_fit_the_stride() -> None:
    with pytest.raises(
        ConfigError, match=r"imgsz=330: wanted a multiple of 32, such as 320 or 352"
    ):
        resolve_recipe(settings(imgsz=330))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr0": 0.1}, "optimizer=auto ignores lr0=0.1"),
        ({"epochs": 10}, "no epoch is left with mosaic"),
        ({"epochs": 10, "mosaic": 0, "mixup": 0.2}, "no epoch is left with mixup"),
        ({"epochs": 2, "cutmix": 0.1, "mixup": 0.2}, "left with mosaic or mixup or cutmix"),
        ({"rect": True}, "rect=true turns mosaic"),
    ],
    ids=["auto", "close_mosaic", "mixup alone", "all three", "rect"],
)
def test_keys_that_switch_others_off_are_said(
    given: dict[str, Any], message: str, said: pytest.LogCaptureFixture
) -> None:
    resolve_recipe(settings(**given))
    assert message in said.text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {"lr0": ("applied", 0.02), "mixup": ("applied", 0.2)}),
        ({"epochs": 10}, {"lr0": ("applied", 0.02), "mixup": ("overridden", 0.0)}),
        ({"rect": True}, {"lr0": ("applied", 0.02), "mixup": ("overridden", 0.0)}),
        ({"optimizer": "auto"}, {"lr0": ("overridden", None), "mixup": ("applied", 0.2)}),
    ],
    ids=["as it is", "no epoch left", "rect", "auto"],
)
def test_a_value_that_another_key_switches_off_is_not_said_to_be_applied(
    tmp_path: Path, given: dict[str, Any], told: dict[str, tuple[str, float | None]]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{lr0: 0.02, mixup: 0.2, cutmix: 0, optimizer: SGD}")
    outcomes = {o.key: o for o in resolve_recipe(settings(hyp=str(file), **given)).outcomes}
    assert {k: (outcomes[k].status, outcomes[k].trained_with) for k in told} == told
    assert outcomes["cutmix"].status == "applied"  # it is off, as it says


def test_no_key_is_both_trained_and_not_applicable() -> None:
    assert not set(DEFAULTS) & set(ANCHOR_ONLY)
