from __future__ import annotations

import pytest

from spineline.datasets.common.errors import ConfigError
from spineline.detect.architectures import ARCHITECTURES, YOLOV3, canonical_name, package_yaml
from spineline.detect.checkpoints import check_description, plain_description


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("yolov5nu", "yolov5nu"),
        ("yolov5x", "yolov5xu"),
        ("yolov8m", "yolov8m"),
        ("YOLOv8L.yaml", "yolov8l"),
        ("yolov3", "yolov3u"),
        ("YOLOv3-tiny.yaml", "yolov3-tinyu"),
        ("yolov3-sppu", "yolov3-sppu"),
    ],
)
def test_canonical_name(given: str, wanted: str) -> None:
    assert canonical_name(given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("yolov8q", r"model=yolov8q: no such architecture; did you mean 'yolov8\w'\?.*allowed"),
        ("yolo-v8n", "did you mean 'yolov8n'"),
        ("yolov3-tini", "did you mean 'yolov3-tinyu'"),
        ("best.pt", "give weights=best.pt"),
    ],
)
def test_unknown_name(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        canonical_name(given)


def test_thirteen_architectures_are_known_to_the_package() -> None:
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    assert len(ARCHITECTURES) == 13
    for name in ARCHITECTURES:
        description = yaml_model_load(package_yaml(name))
        scale = "" if name in YOLOV3 else name.removesuffix("u")[-1]
        assert description["scale"] == scale
        check_description(plain_description(description), name)  # can be read back
        assert f"yolov{name[5]}" in description["yaml_file"]
