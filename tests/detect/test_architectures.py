from __future__ import annotations

import pytest

from spineline.datasets.errors import ConfigError
from spineline.detect.architectures import ARCHITECTURES, canonical_name, package_yaml


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("yolov5nu", "yolov5nu"),
        ("yolov5x", "yolov5xu"),
        ("yolov8m", "yolov8m"),
        ("YOLOv8L.yaml", "yolov8l"),
    ],
)
def test_canonical_name(given: str, wanted: str) -> None:
    assert canonical_name(given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("yolov8q", r"model=yolov8q: no such architecture; did you mean 'yolov8\w'\?.*allowed"),
        ("yolo-v8n", "did you mean 'yolov8n'"),
        ("best.pt", "give weights=best.pt"),
    ],
)
def test_unknown_name(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        canonical_name(given)


def test_ten_architectures_are_known_to_the_package() -> None:
    from spineline.detect.ultralytics_env import import_ultralytics

    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    assert len(ARCHITECTURES) == 10
    for name in ARCHITECTURES:
        description = yaml_model_load(package_yaml(name))
        assert description["scale"] == name.removesuffix("u")[-1]
        assert f"yolov{name[5]}" in description["yaml_file"]
