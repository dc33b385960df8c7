"""What an error says in a message."""

from __future__ import annotations

import pytest

from spineline.datasets.common.errors import first_line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(), "ValueError"),
        (OSError("a\nb"), "a"),
        (RuntimeError("\n \n  a b \n c"), "a b"),
        (FileNotFoundError(2, "No such file or directory", "/home/some one/x"),
         "No such file or directory"),
        (ValueError("x" * 70_000), "x" * 200),
    ],
    ids=["none", "first", "blank", "system", "long"],
)  # fmt: skip
def test_first_line(error: Exception, text: str) -> None:
    assert first_line(error) == text
