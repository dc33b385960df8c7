from __future__ import annotations

import sys

import cv2
import numpy as np

from spineline.datasets.common.plots import confusion_png, figure_png, new_figure


def pixels(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_a_figure_is_as_large_as_asked_and_always_the_same():
    first, second = (figure_png(new_figure(3, 2)) for _ in range(2))
    assert first == second
    assert pixels(first).shape == (200, 300, 3)
    assert b"matplotlib" not in first.lower()


def test_confusion_is_shaded_by_the_share_of_its_row():
    png = confusion_png([[1, 0], [10, 30]], ["a", "b"], row="label", column="answer")
    blue = pixels(png).astype(int)
    darkest = blue.sum(axis=2)[100:-100, 100:-60]  # inside the axes
    full, none = darkest[0, 0], darkest[0, -1]
    assert full < none
    assert confusion_png([[2, 0], [10, 30]], ["a", "b"], row="label", column="answer") != png


def test_an_empty_confusion_is_drawn():
    assert pixels(confusion_png(np.zeros((2, 2)), ["a", "b"], row="r", column="c")).size


def test_no_window_is_opened():
    new_figure(1, 1)
    pyplot = sys.modules.get("matplotlib.pyplot")  # ultralytics imports it
    assert pyplot is None or not pyplot.get_fignums()
