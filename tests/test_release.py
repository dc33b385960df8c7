"""What a release says of itself, and that its scripts and CI are there and agree."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("test", "lint", "wheel", "typecheck", "coverage", "docs", "lowest", "run")


@pytest.fixture(scope="module")
def cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def workflow() -> dict[str, object]:
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))


def test_citation_is_of_this_version_and_licence(cfg) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == cfg["metadata"]["version"] == version("spineline")
    assert citation["license"] == cfg["metadata"]["license"]
    assert citation["authors"] == [{"name": cfg["metadata"]["author"]}]
    assert {"message", "title", "type", "abstract"} <= set(citation)


def test_the_version_is_written_in_one_place_of_the_code(cfg) -> None:
    number = cfg["metadata"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", number)
    packages = ("converters", "datasets", "detect", "classify", "pipeline", "weights")
    files = [path for room in packages for path in (ROOT / room).rglob("*.py")]
    stated = re.compile(rf"""["']{re.escape(number)}["']|__version__\s*=""")
    assert not [path for path in files if stated.search(path.read_text(encoding="utf-8"))]
    assert "project" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_changelog_has_a_place_for_what_comes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == len(set(headings))


def test_pythons_that_are_named_are_those_of_ci(cfg, workflow) -> None:
    """A version is claimed only where the tests run under it."""
    stated = metadata("spineline").get_all("Classifier") or []
    claimed = set(re.findall(r"Python :: (3\.\d+)", "\n".join(stated)))
    assert claimed == set(workflow["jobs"]["tests"]["strategy"]["matrix"]["python"])
    assert cfg["options"]["python_requires"] == ">=" + min(claimed)


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_scripts_that_bash_reads(name: str) -> None:
    path = ROOT / ".ci" / name
    assert os.access(path, os.X_OK)
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")


def test_ci_runs_the_same_scripts(workflow) -> None:
    run = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    for script in (
        ".ci/test",
        ".ci/lint",
        ".ci/wheel dist",
        ".ci/coverage",
        ".ci/docs",
    ):
        assert script in run
    assert all(line.startswith((".ci/", "pip install -e ")) for line in run)
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name
)
def test_files_of_the_forge_are_yaml(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        assert {"name", "description", "body"} <= set(content)
        ids = [field["id"] for field in content["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids)) >= 3
        assert "patient data" in str(content["body"]) or path.name == "feature.yml"


def test_lowest_dependencies_are_the_floors_of_setup_cfg(cfg) -> None:
    """Each has a floor, and the script pins to it."""
    done = subprocess.run(
        [ROOT / ".ci/lowest", "--constraints"], capture_output=True, text=True, check=True
    )
    pins = dict(line.split("==") for line in done.stdout.splitlines())
    wanted = cfg["options"]["install_requires"].split()
    for extra in ("dicom", "pacs", "review", "export", "test"):
        wanted += [w for w in cfg["options.extras_require"][extra].split() if "%" not in w]
    floors = {re.split("[<>=]", spec)[0]: spec.split(">=")[1].split(",")[0] for spec in wanted}
    assert floors.items() <= pins.items()


def test_the_source_distribution_has_the_pages() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").split()
    for page in ("CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md",
                 "SECURITY.md"):  # fmt: skip
        assert page in manifest
        assert (ROOT / page).is_file()


def test_coverage_has_floors() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = content["tool"]
    assert tools["coverage"]["run"]["branch"] is True
    assert "--cov" not in tools["pytest"]["ini_options"]["addopts"]
    floors = tools["spineline"]["branch-floors"]
    assert set(floors) == {"converters", "datasets", "pipeline/inference"}
    assert all(90 <= floor <= 100 for floor in floors.values())
    assert all((ROOT / "tests" / package).is_dir() for package in floors)


@pytest.mark.parametrize(("reached", "status"), [(190, 0), (179, 1)])
def test_a_package_below_its_floor_fails(tmp_path: Path, reached: int, status: int) -> None:
    """Lines do not make up for branches; a package without a floor is only told of."""
    lines = {"covered_lines": 1000, "num_statements": 1000}
    for name, branches in (("pipeline.inference", reached), ("weights", 0)):
        totals = {"covered_branches": branches, "num_branches": 200, **lines}
        (tmp_path / f"{name}.json").write_text(json.dumps({"totals": totals}))
    words = [sys.executable, ROOT / ".ci" / "branches.py", *sorted(tmp_path.iterdir())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == status
    share = f"{reached / 2:.2f} % of branches ({reached} of 200), 100.00 % of lines (1000 of 1000)"
    assert done.stdout.startswith(f"pipeline/inference: {share}; floor 9")
    assert "weights: 0.00 % of branches (0 of 200)" in done.stdout
