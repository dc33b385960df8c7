from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spineline.datasets.common.errors import ConfigError
from spineline.detect import load_detector
from spineline.detect.engine.distributed import ALONE, ProcessGroup, group_of_environment
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train

PLACE = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
TINY = {
    "model": "fasterrcnn", "backbone": "test_resnet", "imgsz": 64, "channels": 1, "rois": 16,
    "plots": "false",
}  # fmt: skip

DRIVER = """
import json, os, sys
from pathlib import Path

import torch

from spineline.detect.engine import loop
from spineline.pipeline.cli.main import main

folder, poison = Path(sys.argv[1]), int(sys.argv[2])
rank, seen = os.environ["RANK"], []
losses, result = loop.network_losses, loop.DetectorTrainer.result


def noted_losses(network, batch):
    seen.append(batch[2])
    found = losses(network, batch)
    if rank == "1" and len(seen) == poison:
        found["loss_objectness"] = found["loss_objectness"] * float("nan")
    return found


def noted_result(self):
    torch.save(self.network.state_dict(), folder / f"weights{rank}.pt")
    return result(self)


loop.network_losses = noted_losses
loop.DetectorTrainer.result = noted_result
code = main(sys.argv[3:])
(folder / f"seen{rank}.json").write_text(json.dumps(seen))
sys.exit(code)
"""


def torchrun(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=280
    )


def driven(tmp_path: Path, poison: int, *words: str) -> subprocess.CompletedProcess[str]:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    return torchrun(
        str(driver), str(tmp_path), str(poison), "detect", "train", *words, cwd=tmp_path
    )


def words_of(**given: Any) -> list[str]:
    return [f"{name}={value}" for name, value in {**TINY, **given}.items()]


def seen_by(folder: Path) -> list[Any]:
    """Names of images by batch, of each of the two processes."""
    return [json.loads((folder / f"seen{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_train_one_network(dataset: Path, tmp_path: Path) -> None:
    """A loss that is no number in one stops both; resumed, both train on."""
    out = tmp_path / "run"
    given = {"data": dataset, "out": out, "epochs": 3, "batch": 4}
    done = driven(tmp_path, 3, *words_of(**given))
    assert done.returncode != 0
    assert "epoch 2, batch 1: the loss is not a finite number (loss_objectness=nan)" in done.stderr
    content = torch.load(out / "weights" / "last.pt", weights_only=True)
    assert content["done"] == 1
    assert f"{out / 'weights' / 'last.pt'} holds epoch 1" in done.stderr
    stopped = seen_by(tmp_path)
    assert [len(batch) for batch in stopped[0]] == [2, 1, 2]
    assert len(stopped[1]) == 3
    said = done.stderr.partition("its images: ")[2].partition(";")[0]
    assert sorted(said.split(", ")) == sorted(stopped[1][2])
    assert not list(tmp_path.glob("weights*.pt"))

    resumed = driven(tmp_path, 0, f"out={out}", "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("epoch 3/3") == 1  # the first process speaks, alone
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    weights = ["last.pt", *(f"{name}.safetensors" for name in ("last", "best"))]
    figures = ("map50", "map50_95", "f1", "precision", "recall")
    weights += [f"best_{figure}.safetensors" for figure in figures]
    assert names == {"run.yaml", "results.csv", *(f"weights/{name}" for name in weights)}
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    first, second = (torch.load(tmp_path / f"weights{rank}.pt") for rank in (0, 1))
    assert len(first) > 100
    assert all(torch.equal(first[name], second[name]) for name in first)
    seen = seen_by(tmp_path)
    assert [len(batch) for batch in seen[0]] == [2, 1, 2, 1]  # of batches of 4 and 2
    for start in (0, 2):
        together = [name for rank in seen for part in rank[start : start + 2] for name in part]
        assert sorted(together) == [f"s0{n}.png" for n in range(6)]
    load_detector(out / "weights" / "last.safetensors")


@pytest.mark.parametrize(
    ("found", "group"),
    [
        ({}, ALONE),
        (PLACE, ProcessGroup(1, 2, 1)),
        ({**PLACE, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "2"}, ALONE),
    ],
    ids=["none", "torchrun", "torchrun with one process", "another launcher"],
)
def test_a_place_in_the_environment(found: dict[str, str], group: ProcessGroup) -> None:
    assert group_of_environment(found) == group


@pytest.mark.parametrize("changed", [{"RANK": "x"}, {"RANK": "2"}, {"LOCAL_RANK": "-1"}])
def test_places_that_make_no_sense(changed: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="RANK"):
        group_of_environment({**PLACE, **changed})


def test_each_process_has_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert ProcessGroup(1, 2, 1).device("cuda") == "cuda:1"
    assert ProcessGroup(1, 2, 1).device("cpu") == "cpu"
    assert ALONE.device("1") == "cuda:1"
    with pytest.raises(ConfigError, match="one device for 2 processes"):
        ProcessGroup(1, 2, 1).device("0")
    with pytest.raises(ConfigError, match="no such CUDA device"):
        ProcessGroup(2, 3, 2).device("cuda")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "yolov8n"}, "only fasterrcnn and unet train in several"),
        ({"model": "fasterrcnn", "batch": 3}, "batch=3: is the batch of all 2 processes.*batch=2"),
    ],
    ids=["yolo", "odd batch"],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_several_processes_cannot_train(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    message: str,
    rank: str,
) -> None:
    for name, value in {**PLACE, "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        train(DetectTrain(data=dataset, out=tmp_path / "run", imgsz=64, **given))
    assert not (tmp_path / "run").exists()


def test_alone_nothing_is_shared() -> None:
    tensor = torch.ones(2)
    assert ALONE.total(tensor) is tensor
    assert ALONE.gathered("x") == ["x"]
    assert ALONE.from_first("x") == "x"
    assert ALONE.share([3, 1, 2]) == [3, 1, 2]
