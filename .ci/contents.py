"""Check the contents of the built distributions: python .ci/contents.py FOLDER."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("converters", "datasets", "detect", "classify", "pipeline", "weights")
PAGES = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "SECURITY.md", "pyproject.toml")


def tracked(*places: str) -> set[str]:
    """Files below some folders of the checkout that git tracks."""
    words = ["git", "ls-files", "-z", *places]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


def lacks(dist: Path) -> list[str]:
    """Files that the wheel and the source distribution lack, and files that should not be there."""
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    packages = tracked(*PACKAGES)
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    ours = {name for name in in_wheel if ".dist-info/" not in name}
    wanted = {f"spineline/{name}" for name in packages}
    found = [f"{wheel.name} lacks {name}" for name in sorted(wanted - ours)]
    found += [f"{wheel.name} holds {name}, which git does not" for name in sorted(ours - wanted)]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel):
        found.append(f"{wheel.name} lacks the LICENSE")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    wanted = packages | tracked("tests", "docs", "benchmarks") | set(PAGES)
    return found + [f"{sdist.name} lacks {name}" for name in sorted(wanted - in_sdist)]


if __name__ == "__main__":
    missing = lacks(Path(sys.argv[1]))
    print("\n".join(missing) or "the wheel and the source distribution hold all that they should")
    sys.exit(bool(missing))
