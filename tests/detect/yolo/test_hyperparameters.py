"""Hyperparameters of ultralytics by their own names: from the command line to the trainer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import parse_settings, settings_to_dict
from spineline.detect.recipe import resolve_recipe
from spineline.detect.settings import DetectTrain
from spineline.detect.yolo.hyperparameters import check_hyperparameters
from spineline.detect.yolo.train import trainer_arguments


def settings(**given: Any) -> DetectTrain:
    values = {"model": "yolov8n", "data": "data", "out": "out", **given}
    return parse_settings(DetectTrain, values)


def test_a_hyperparameter_reaches_the_trainer() -> None:
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.cfg import get_cfg

    given = settings(**{"yolo.bgr": "0.25"})
    values = resolve_recipe(given).values
    assert values["yolo.bgr"] == 0.25  # so run.yaml keeps it under trained_with
    arguments = trainer_arguments(given, values)
    assert arguments["bgr"] == 0.25
    known = {name: value for name, value in arguments.items() if name != "save_dir"}
    assert get_cfg(overrides=known).bgr == 0.25
    assert settings_to_dict(given)["yolo"] == {"bgr": 0.25}
    assert parse_settings(DetectTrain, settings_to_dict(given)) == given


@pytest.mark.parametrize(
    "text",
    ["yolo.bgr: 0.5\nlr0: 0.02\n", "yolo: {bgr: 0.5}\nlr0: 0.02\n",
     "values: {lr0: {value: 0.02, status: mapped}}\nsettings: {yolo: {bgr: 0.5}}\n"],
    ids=["dotted", "mapping", "settings"],
)  # fmt: skip
def test_a_recipe_may_hold_one_and_a_key_beats_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    hyp = str(tmp_path / "mine.yaml")
    resolved = resolve_recipe(settings(hyp=hyp))
    assert (resolved.values["yolo.bgr"], resolved.values["lr0"]) == (0.5, 0.02)
    assert {o.key: o.status for o in resolved.outcomes}["yolo.bgr"] == "applied"
    beaten = resolve_recipe(settings(hyp=hyp, **{"yolo.bgr": 0.1}))
    assert beaten.values["yolo.bgr"] == 0.1
    assert {o.key: o.status for o in beaten.outcomes}["yolo.bgr"] == "overridden"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("yolo.bgrr=1", "no such hyperparameter; did you mean 'bgr'"),
        ("yolo.lr0=1", "yolo.lr0: is a key of spineline's own; give lr0=…"),
        ("yolo.degrees=5", "give degrees=…"),
        ("yolo.data=1", "give data=…"),
        ("yolo.project=1", "yolo.project: is not a hyperparameter"),
        ("yolo.cfg=1", "yolo.cfg: is not a hyperparameter"),
        ("yolo.single_cls=1", "yolo.single_cls: is not a hyperparameter"),
        ("yolo.hsv_h=0.1", "has no effect, since images are grey"),
        ("yolo.bgr=much", "wanted float"),
        ("yolo=0.1", "yolo=0.1: not a valid value"),
    ],
)
@pytest.mark.parametrize("command", ["detect train", "kfold detect"])
def test_what_cannot_be_given_exits_2_and_writes_nothing(
    run_cli: Callable[..., tuple[int, str, str]], tmp_path: Path, command: str, word: str,
    message: str,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    words = ["model=yolov8n", f"data={tmp_path}", f"out={out}", word]
    code, _, errors = run_cli(*command.split(), *words)
    assert code == 2
    assert message in errors
    assert not out.exists()


def test_other_models_and_recipes_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"yolo\.bgr=0\.1: model=unet has no such key"):
        resolve_recipe(settings(model="unet", **{"yolo.bgr": 0.1}))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"yolo.bgrr": 0.1}))
    with pytest.raises(ConfigError, match=r"hyp=.*mine\.yaml: yolo\.bgrr: .* did you mean 'bgr'"):
        resolve_recipe(settings(hyp=str(tmp_path / "mine.yaml")))


def test_they_are_looked_up_without_importing_the_package() -> None:
    code = (
        "import sys; from spineline.detect.yolo.hyperparameters import check_hyperparameters as c;"
        "c(['yolo.bgr'], where='x'); assert not {'torch', 'ultralytics'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    check_hyperparameters([], where="x")
