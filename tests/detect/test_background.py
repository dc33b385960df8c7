from __future__ import annotations

import threading

import pytest

from spineline.detect.background import Background


def test_jobs_run_one_after_the_other() -> None:
    done: list[int] = []
    go = threading.Event()
    background = Background()
    assert not background.busy

    def first() -> None:
        assert go.wait(30)
        done.append(1)

    background.submit(first)
    assert background.busy
    go.set()
    background.submit(lambda: done.append(2))
    background.wait()
    assert done == [1, 2]
    assert not background.busy
    background.close()


def test_what_a_job_raises_comes_with_the_next_call() -> None:
    def fail() -> None:
        raise OSError("disk full")

    background = Background()
    background.submit(fail)
    with pytest.raises(OSError, match="disk full"):
        background.submit(lambda: None)
    background.wait()  # it is raised once
    background.submit(fail)
    with pytest.raises(OSError, match="disk full"):
        background.close()
