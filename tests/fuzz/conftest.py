"""Sound data that the fuzzer's tests spoil copies of."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import make_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of sound phantom data of every kind."""
    folder = tmp_path_factory.mktemp("sound") / "base"
    make_base(folder)
    return folder
