"""Compare the outputs of two checkouts: the same commands in both, and every file that differs.

    python benchmarks/compare_outputs.py base=/path/to/old/bin/spineline \\
        new=/path/to/new/bin/spineline out=/tmp/compared

Each executable belongs to an environment with one of the checkouts installed. Both run the same
commands, each in its own folder and with the same relative paths, on phantoms that the base draws.
Files are compared byte for byte. Intended differences between versions are removed first, and such
files count as the same: versions and settings of ``run.yaml``, times and versions of
``manifest.jsonl``, the form of warnings in ``result.json``, the folder in ``args.yaml``, and markup
around the visible text of pages. Pickles are left out, since the weights beside them are compared.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from harness import parse_words
from lxml import html

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, key

PHANTOMS = "annotations=phantoms/annotations.json images=phantoms/studies"
FRAMES = "annotations=frames/report_labels.json images=frames/frames"
STEPS: dict[str, str] = {
    "tianchi": f"convert tianchi {PHANTOMS} out=tianchi split=0.5",
    "folds": f"convert tianchi {PHANTOMS} out=folds kfold=3",
    "seven": f"convert tianchi {PHANTOMS} out=seven split=0.5 labels=seven",
    "report": f"convert report {FRAMES} out=report split=0.5",
    "cervical": "convert cervical annotations=neck/descr images=neck/frames out=cervical split=0.5",
    "check": "data check data=tianchi out=check",
    "check-source": f"data check {FRAMES} out=check-source",
    "stats": "data stats data=tianchi out=stats",
    "show": "data show data=tianchi out=show limit=4",
    "crops": "data crops data=tianchi out=crops align=spine",
    "detect-val": "detect val model=lumbar-yolov8n data=tianchi out=detect-val",
    "detect-predict": "detect predict model=lumbar-yolov8n source=tianchi/images/val "
    "out=detect-predict",
    "classify-val": "classify val model=lumbar-gradients data=tianchi out=classify-val",
    "predict": "pipeline predict source=phantoms/studies out=predict "
    "to=report,page,tianchi,coco,sr,pr,sc,slicer",
    "compared": "pipeline predict source=phantoms/studies out=compared "
    "compare=phantoms/annotations.json",
    "hashed": "pipeline predict source=phantoms/studies out=hashed names=hash salt=12345678 "
    "to=page,report",
    "frames-predict": "pipeline predict source=frames/frames out=frames-predict",
    "val": "pipeline val source=phantoms/studies annotations=phantoms/annotations.json out=val",
    "val-data": "pipeline val data=tianchi out=val-data",
    "result": "convert result annotations=predict images=phantoms/studies out=result split=train",
    "kfold-detect": "kfold detect data=tianchi out=kfold-detect k=2 model=yolov8n epochs=1 "
    "imgsz=64 batch=4 variants=original seed=0",
    "kfold-classify": "kfold classify data=tianchi out=kfold-classify k=2 hyp=lumbar components=16 "
    "variants=original seed=0",
}
"""Commands by step name, in the order in which they run."""

_VERSIONS = re.compile(rb'"(version|seconds|settings)": *("[^"]*"|[0-9.e-]+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings(Settings):
    """Keys of this script."""

    base: Path = key("spineline executable of the older checkout")
    new: Path = key("spineline executable of the newer checkout")
    out: Path = key("folder for the outputs of both, which must not exist")
    n: int = key("phantom studies", default=12, minimum=2)
    steps: tuple[str, ...] = key("run these alone", default=(), choices=tuple(STEPS))


def main(words: list[str]) -> int:
    settings = parse_words(words, CompareSettings)
    if settings is None:
        return 0
    if settings.out.exists():
        raise ConfigError(f"out={settings.out}: exists; choose another folder")
    folders = (settings.out / "base", settings.out / "new")
    for folder in folders:
        folder.mkdir(parents=True)
    for words in (
        f"data phantom out=phantoms n={settings.n} region=lumbar format=dicom",
        f"data phantom out=frames n={settings.n} region=lumbar format=png seed=5",
        "data phantom out=neck n=6 region=cervical",
    ):
        run(settings.base, folders[0], words)
    for name in ("phantoms", "frames", "neck"):
        shutil.copytree(folders[0] / name, folders[1] / name)
    codes = {}
    for name, words in STEPS.items():
        if not settings.steps or name in settings.steps:
            codes[name] = [
                run(executable, folder, words, name)
                for executable, folder in zip((settings.base, settings.new), folders, strict=True)
            ]
    return report(folders, codes)


def run(executable: Path, folder: Path, words: str, name: str | None = None) -> int:
    """Run one command in a folder; its output goes to a file beside its results."""
    LOG.info("%s: %s", folder.name, words)
    # Absolute, but not resolved: an executable of an environment may be a link.
    command = [os.path.abspath(executable), *words.split()]  # noqa: PTH100
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if name is None and done.returncode:
        raise ConfigError(f"{words}: exit code {done.returncode}: {done.stderr[-500:]}")
    if name is not None:
        (folder / f"{name}.exit").write_text(f"{done.returncode}\n", encoding="utf-8")
        (folder / f"{name}.stderr").write_text(done.stderr, encoding="utf-8")
    return done.returncode


def report(folders: tuple[Path, Path], codes: dict[str, list[int]]) -> int:
    """Print what is the same and each difference; 1 if there is one."""
    count: Counter[str] = Counter()
    for name in sorted({*files_of(folders[0]), *files_of(folders[1])}):
        verdict = compare(folders[0] / name, folders[1] / name)
        count[verdict] += 1
        if verdict not in ("same", "same but for versions and form"):
            print(f"{verdict}: {name}")
    for name, pair in codes.items():
        if any(pair):
            print(f"exit codes of {name}: base {pair[0]}, new {pair[1]}")
    print("; ".join(f"{verdict}: {n}" for verdict, n in sorted(count.items())))
    return int(bool(set(count) - {"same", "same but for versions and form"}))


def files_of(folder: Path) -> Iterator[str]:
    """Relative names of all files, except the commands' output."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".stderr", ".cache", ".pt"):
            yield path.relative_to(folder).as_posix()


def compare(base: Path, new: Path) -> str:
    """The comparison of one file."""
    if not (base.is_file() and new.is_file()):
        return f"only in {'base' if base.is_file() else 'new'}"
    if base.read_bytes() == new.read_bytes():
        return "same"
    same = without_form(base) == without_form(new)
    return "same but for versions and form" if same else "different"


def without_form(path: Path) -> object:
    """The content of a file without intended differences between versions."""
    data = path.read_bytes()
    if path.name == "run.yaml":
        content = yaml.safe_load(data)
        return {k: v for k, v in content.items() if k not in ("versions", "settings", "keys")}
    if path.name == "args.yaml":
        return {k: v for k, v in yaml.safe_load(data).items() if k != "save_dir"}
    if path.name == "result.json":
        return _result(json.loads(data))
    if path.name == "manifest.jsonl":
        lines = [json.loads(line) for line in data.decode().splitlines()]
        kept = ("study", "status", "reason", "kind", "input")
        return sorted(json.dumps({k: line.get(k) for k in kept}) for line in lines)
    if path.suffix == ".html":
        return "".join(html.fromstring(data).text_content().split())
    if path.suffix in (".json", ".md"):
        return _VERSIONS.sub(rb"", data)
    return data


def _result(value: dict[str, Any]) -> dict[str, Any]:
    warnings = [w if isinstance(w, str) else f"{w['code']}: {w['text']}" for w in value["warnings"]]
    return {**value, "warnings": warnings, "schema": None, "version": None}


if __name__ == "__main__":
    run_script(main)
