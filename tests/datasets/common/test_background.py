from __future__ import annotations

import threading

import pytest

from spineline.datasets.common.background import Background


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


def test_jobs_wait_for_the_one_that_runs_in_their_order() -> None:
    done: list[int] = []
    go = threading.Event()
    background = Background(ahead=2)
    background.submit(lambda: done.append(0 if go.wait(30) else -1))
    background.submit(lambda: done.append(1))
    background.submit(lambda: done.append(2))  # none of these waits here
    assert done == []
    fourth = threading.Thread(target=background.submit, args=(lambda: done.append(3),))
    fourth.start()
    fourth.join(0.1)
    assert fourth.is_alive()  # three are under way: the fourth waits to be taken
    go.set()
    fourth.join(30)
    background.close()
    assert done == [0, 1, 2, 3]


def test_jobs_after_one_that_raised_are_dropped() -> None:
    done: list[int] = []
    go = threading.Event()

    def fail() -> None:
        assert go.wait(30)
        raise OSError("disk full")

    background = Background(ahead=9)
    background.submit(fail)
    for _ in range(5):
        background.submit(lambda: done.append(1))
    go.set()
    with pytest.raises(OSError, match="disk full"):
        background.wait()
    assert done == []
    background.submit(lambda: done.append(2))  # it was raised, and is over
    background.close()
    assert done == [2]
