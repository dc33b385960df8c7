"""Conventions of the project: layout, imports, packaging, and what the pages say."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import functools
import importlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

from spineline.datasets.common.settings import describe
from spineline.pipeline.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("converters", "datasets", "detect", "classify", "pipeline", "weights")
MAY_IMPORT = {
    "datasets": {"datasets"},
    "converters": {"converters", "datasets"},
    "weights": {"weights", "datasets.common.errors"},
    "detect": {"detect", "datasets", "weights"},
    "classify": {"classify", "datasets", "weights"},
    # `pipeline val` scores against an annotation source, which converters read.
    "pipeline": {"pipeline", "detect", "classify", "datasets", "weights", "converters"},
}
PARTS = (
    ("cli",), ("kfold", "review"), ("training", "export", "evaluation", "pacs"), ("run",),
    ("outputs",), ("inference",),
)  # fmt: skip
"""Parts of ``pipeline``: each imports only what stands to its right."""

LATE = {
    ("converters.convert", "converters.export_sources"): "pydicom, which plain frames do without",
    ("converters.convert", "converters.sources.result.read"): "the same",
    ("converters.convert", "converters.sources.tianchi"): "the same",
    ("converters.patients", "datasets.dicom.header"): "the same",
    ("detect.backend", "detect.checkpoints"): "torch: a detector may be of another backend",
    ("detect.engine.loop", "datasets.common.plots"): "matplotlib, drawn once a run",
    ("detect.fasterrcnn.model", "detect.fasterrcnn.heads"): "torchvision, once a network is built",
    ("detect.train", "detect.engine.loop"): "torch, once the keys are found right",
    ("detect.train", "detect.yolo.train"): "torch and ultralytics, once the keys are found right",
    ("classify.train", "classify.plots"): "matplotlib, drawn once a run",
    ("pipeline.inference.bundles", "classify.exported"): "runs without torch or not at all",
    ("pipeline.inference.bundles", "detect.level_reader.exported"): "the same",
    ("pipeline.inference.bundles", "detect.yolo.exported"): "the same",
    ("pipeline.inference.pipeline", "classify"): "torch, which exported bundles do without",
    ("pipeline.inference.pipeline", "detect"): "the same",
    ("pipeline.inference.pipeline", "detect.level_reader.model"): "the same",
    ("pipeline.inference.runtimes.graphs", "classify.export"): "torch and onnx",
    ("pipeline.inference.runtimes.graphs", "detect.level_reader.export"): "the same",
    ("pipeline.inference.runtimes.graphs", "detect.yolo.export"): "the same",
    ("pipeline.cli.weights", "pipeline.inference.runtimes.graphs"): "numpy, which lists do without",
    ("pipeline.outputs.comparison", "pipeline.inference.ground_truth"): "all converters",
    ("pipeline.pacs.listen", "pipeline.pacs.receiver"): "pynetdicom, which an extra brings",
    ("pipeline.inference.spine_warnings", "datasets.dicom.burned_text"): "OpenCV, slow to import",
}
"""Late imports of our own modules, (who, whom), and the heavy library that is their reason."""

NETWORKS = {"torch", "torchvision", "ultralytics", "timm"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def tracked_files() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_at_start(tree: ast.Module) -> Iterator[str]:
    """The same for what runs when the module is imported (not for type checkers alone)."""
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(node)
        elif isinstance(node, (ast.Try, ast.With)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)
        ):
            yield from imported_at_start(ast.Module(node.body, []))


def module_name(path: Path) -> str:
    """``spineline.ROOM.PART.MODULE`` of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("spineline", *(part for part in parts if part != "__init__")))


@functools.cache
def edges(path: Path) -> tuple[tuple[str, str], ...]:
    """What a module imports of ours, late or not, and for types: ("late" | "start", module)."""
    found: list[tuple[str, str]] = []

    def visit(node: ast.AST, when: str) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported(node):
                while name and name not in OURS:
                    name = name.rpartition(".")[0]
                if name:
                    found.append((when, name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            when = "late"
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr):
                visit(child, when)

    visit(ast.parse(path.read_text(encoding="utf-8")), "start")
    return tuple(found)


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


OURS = {module_name(path): path for package in PACKAGES for path in modules(package)}


def test_no_two_modules_import_each_other() -> None:
    """Neither when they are loaded, nor later, nor for types alone, nor by way of others."""
    graph = {name: {other for _, other in edges(path)} - {name} for name, path in OURS.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_parts_of_the_pipeline_import_to_the_right() -> None:
    rank = {part: n for n, parts in enumerate(PARTS) for part in parts}
    folders = {path.name for path in (ROOT / "pipeline").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(rank)
    wrong = []
    for name, path in OURS.items():
        for _, other in edges(path):
            here, there = (n.split(".")[2:] for n in (name, other))
            if name.startswith("spineline.pipeline.") and other.startswith("spineline.pipeline."):
                inside = here[0] == there[0]
                if not inside and rank[there[0]] <= rank[here[0]]:
                    wrong.append(f"{name} -> {other}")
    assert not wrong


def test_late_imports_of_ours_have_a_reason() -> None:
    found = {
        (name.removeprefix("spineline."), other.removeprefix("spineline."))
        for name, path in OURS.items()
        for when, other in edges(path)
        if when == "late"
    }
    assert found == set(LATE)


def test_public_names_stand_for_one_thing() -> None:
    """But for the functions that commands and interfaces have in common."""
    common = {"train", "val", "predict", "calibrate", "export", "load", "run", "main"}
    where: dict[str, list[str]] = {}
    for name, path in OURS.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            for public in names:
                if not public.startswith("_") and public not in common:
                    where.setdefault(public, []).append(name)
    assert not {public: found for public, found in where.items() if len(found) > 1}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    wrong = []
    for path in modules(package):
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if name.startswith("spineline.") and not any(
                f"{name}.".startswith(f"spineline.{allowed}.") for allowed in MAY_IMPORT[package]
            ):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_datasets_and_weights_import_no_network_library_at_start() -> None:
    for path in [*modules("datasets"), *modules("weights")]:
        names = imported_at_start(ast.parse(path.read_text(encoding="utf-8")))
        assert not {name.split(".")[0] for name in names} & NETWORKS, path


def test_converters_never_import_a_network_library() -> None:
    for path in modules("converters"):
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        assert not {name.split(".")[0] for name in names} & NETWORKS, path


@pytest.mark.parametrize("package", ["converters", "datasets", "weights"])
def test_a_package_can_be_imported_whole_without_torch(package: str, tmp_path: Path) -> None:
    names = [module_name(path) for path in modules(package)]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"sys.exit(' '.join(set({NETWORKS!r}) & set(sys.modules)) or 0)\n"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_our_folders_are_no_packages_of_their_own(tmp_path: Path) -> None:
    """``datasets`` is Hugging Face's, ``pipeline`` and ``weights`` nobody's: none may be ours."""
    code = (
        "import importlib.util, sys\n"
        "import spineline.pipeline.cli.main, spineline.datasets.labels\n"
        f"for name in {(*PACKAGES, 'tests')!r}:\n"
        "    found = importlib.util.find_spec(name)\n"
        "    places = [found.origin, *(found.submodule_search_locations or [])] if found else []\n"
        f"    ours = [p for p in places if p and str(p).startswith({str(ROOT)!r})]\n"
        "    assert not ours, (name, ours)\n"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_this_suite_sees_the_installed_rooms_alone() -> None:
    assert str(ROOT) not in sys.path
    assert importlib.import_module("spineline.datasets").__name__ == "spineline.datasets"


def test_version_is_the_same_everywhere() -> None:
    from spineline.datasets.common.run_record import package_version, versions

    stated = setup_cfg()["metadata"]["version"]
    assert stated == version("spineline") == package_version() == versions()["spineline"]


def test_licence_is_the_affero_one() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split("\n")[0].strip() == "GNU AFFERO GENERAL PUBLIC LICENSE"
    assert len(text) > 30_000
    assert setup_cfg()["metadata"]["license"] == "AGPL-3.0-or-later"
    assert "AGPL-3.0" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_folder_is_a_package_with_types() -> None:
    options = setup_cfg()["options"]
    folders = {path.parent for package in PACKAGES for path in modules(package)}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]
    assert sorted(options["packages"].split()) == sorted(map(module_name, folders))
    mapping = dict(line.split(" = ") for line in options["package_dir"].strip().split("\n"))
    assert mapping == {f"spineline.{package}": package for package in PACKAGES}
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()


def test_every_file_of_a_room_is_packaged() -> None:
    data = setup_cfg()["options.package_data"]
    for path in tracked_files():
        package, *rest = path.relative_to(ROOT).parts
        if package in PACKAGES and path.suffix != ".py":
            name = "/".join(rest)
            patterns = [p.strip() for p in data[f"spineline.{package}"].split(",")]
            assert any(fnmatch.fnmatchcase(name, p) for p in patterns), f"{package}/{name}"


def test_no_folder_is_crowded() -> None:
    """A folder's name says what its files have in common; of more than fifteen it says little."""
    folders = Counter(path.parent for package in PACKAGES for path in modules(package))
    assert not {f"{p.relative_to(ROOT)}: {n}" for p, n in folders.items() if n - 1 > 15}


def test_no_file_names_a_place_on_a_machine() -> None:
    home = str(Path.home()) if len(str(Path.home())) > 3 else "\0"
    wrong = [
        path.relative_to(ROOT)
        for path in tracked_files()
        if any(place.encode() in path.read_bytes() for place in (str(ROOT), f"{home}/"))
    ]
    assert not wrong


def test_no_file_is_too_large_for_a_clone() -> None:
    assert not [path for path in tracked_files() if path.stat().st_size > 32 * 2**20]


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_the_two_lines() -> None:
    lines = readme().splitlines()
    install = "python3 -m venv .venv && . .venv/bin/activate && pip install -e "
    assert sum(f"{install}. && spineline demo" in line for line in lines) == 1
    assert sum(f"{install}'.[test]' && python -m pytest" in line for line in lines) == 1


def test_ci_runs_the_readmes_test_line() -> None:
    ci = {
        name: (ROOT / ".ci" / name).read_text(encoding="utf-8") for name in ("run", "test", "lint")
    }
    assert "\npip install -e '.[test]' && python -m pytest " in ci["test"]
    for wanted in ("ruff check .", "ruff format --check .", ".ci/typecheck"):
        assert f"\n{wanted}\n" in ci["lint"]
    for step in (".ci/test 2>&1 | tee ", "checks=(lint wheel docs) ", '  ".ci/$check" >'):
        assert f"\n{step}" in ci["run"]


def test_places_in_the_table_of_contributing_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in text.splitlines() if line.startswith("| "))
    places = [p for p in re.findall(r"`([^`\s]+)`", table) if "/" in p or p.endswith(".cfg")]
    assert len(places) > 20
    assert not [place for place in places if not (ROOT / place).exists()]


def quoted_errors(tree: ast.Module) -> Iterator[int]:
    """Lines that quote an error of the system whole: ``[Errno 2] No such file or directory: …``."""
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or handler.type is None:
            continue
        if "OSError" not in ast.unparse(handler.type):
            continue
        for node in ast.walk(handler):
            if isinstance(node, ast.FormattedValue) and ast.unparse(node.value) == handler.name:
                yield node.lineno


def test_errors_of_the_system_are_given_by_their_reason() -> None:
    """By ``first_line(error)`` or ``error.strerror``: the message names the path itself."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in quoted_errors(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_every_command_that_writes_can_be_told_to_overwrite() -> None:
    for modes in COMMANDS.values():
        for command in modes.values():
            module, _, name = command.settings.partition(":")
            keys = {key.name for key in describe(getattr(importlib.import_module(module), name))}
            assert "out" not in keys or "overwrite" in keys, command.settings
