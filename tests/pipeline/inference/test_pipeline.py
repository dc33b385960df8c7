"""Which networks a pipeline runs, how, and what it refuses before it looks at an image."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference import pipeline
from spineline.pipeline.inference.pipeline import Pipeline, bundle_of, precision
from spineline.pipeline.inference.settings import ModelSettings
from spineline.weights import resolve_bundle
from spineline.weights.registry import BUNDLED


@pytest.mark.parametrize("name", ["lumbar-yolov8n", "lumbar-grades", "lumbar-namer"])
@pytest.mark.parametrize("as_path", [False, True], ids=["name", "path"])
def test_one_network_takes_its_place_in_the_default(name: str, as_path: bool) -> None:
    weights = str(BUNDLED / f"{name}.safetensors") if as_path else name
    found = bundle_of(ModelSettings(weights=weights))
    assert found.sha256 == resolve_bundle().sha256
    assert Path(weights).name in found.name.split(",")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weights": "lumbar-yolov8n,none"}, "classifier=none: the pipeline needs one"),
        ({"detector": "none"}, "detector=none: the pipeline needs one; only namer=none can"),
        ({"weights": "lumbar-yolo8n"}, "no such bundle, network or file; did you mean 'lumbar-yol"),
        ({"weights": "zzz"}, "no such bundle, network or file; allowed: default, lumbar-yolov8n"),
        ({"weights": "a,b,c,d"}, r"weights=a,b,c,d: wanted a bundle, or DETECTOR,CLASSIFIER\["),
    ],
    ids=["no classifier", "no detector", "misspelt", "unknown", "four"],
)
def test_a_bundle_that_is_none(keys: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bundle_of(ModelSettings(**keys))


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_full_precision_on_the_cpu_and_half_where_it_is_asked_for() -> None:
    assert isinstance(precision(ModelSettings()), nullcontext)
    for device, kind in (("mps", "mps"), ("0", "cuda")):
        context = precision(ModelSettings(device=device, half=True))
        assert isinstance(context, torch.autocast)
        assert (context.device, context.fast_dtype) == (kind, torch.float16)


def test_from_python_one_study_at_a_time(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "c" / "a")
    make_study(tmp_path / "c" / "b")
    with pytest.raises(SpinelineError, match="holds 2 studies"):
        fake_pipeline.predict(tmp_path / "c")


@pytest.mark.parametrize("source", [np.zeros((9, 9), np.uint8), ["a", "b"], None, 3])
def test_what_is_no_path_is_refused(fake_pipeline, source) -> None:
    message = f"wanted the path of one study or image, found {type(source).__name__}; save an arr"
    with pytest.raises(TypeError, match=message):
        fake_pipeline.predict(source)


def test_a_detector_without_a_level_reader_is_told_of(monkeypatch, caplog) -> None:
    """The default's level reader guards the names of its own detector alone."""
    networks = SimpleNamespace(
        detector=SimpleNamespace(names=LEVELS), classifier=None, namer=None, decoding=None
    )
    monkeypatch.setattr(pipeline, "_loaded_networks", lambda *_: networks)
    weights = str(BUNDLED / "lumbar-yolov8n.safetensors")
    for namer, told in (("bundle", 1), ("none", 0)):
        caplog.clear()
        Pipeline.from_settings(ModelSettings(weights=f"{weights},lumbar-grades", namer=namer))
        assert caplog.text.count("no level reader is used") == told


def test_detector_of_something_else_is_refused(fake_pipeline) -> None:
    fake_pipeline.detector.names = ("cat", "dog")
    with pytest.raises(WeightsError, match="are not levels"):
        Pipeline(fake_pipeline.detector, None)
