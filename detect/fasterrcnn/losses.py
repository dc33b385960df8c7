"""Class loss of a Faster R-CNN's head: cross-entropy, weighted by class, or focal.

For a region of class y (0 is the background) with predicted probability p, the loss is
``w_y (1 - p)^γ (-ln p)``. The loss of a batch is the mean over its regions. It is not divided by
the weights: a class of weight 2 counts twice, and the others count as before. With γ = 0 and all
weights 1, this is torchvision's loss. The source is Lin et al. 2017, "Focal loss for dense object
detection", with this head's softmax instead of sigmoids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from spineline.datasets.common.errors import ConfigError


def class_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Compute the loss described in the module.

    Args:
        logits: (N, 1 + classes), the background first.
        labels: int64 (N,), 0 for the background.
        weights: (1 + classes,), or None for 1 each.
        gamma: exponent of the focal term, 0 or more.

    Returns:
        A scalar.
    """
    if weights is None and not gamma:
        return F.cross_entropy(logits, labels)
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    if gamma:
        missed = (-torch.expm1(-losses)).clamp_min(0)  # 1 - p, exact where p is almost 1
        losses = losses * missed.clamp_min(torch.finfo(missed.dtype).tiny) ** gamma
    if weights is not None:
        losses = losses * weights[labels]
    return losses.mean()


def training_weights(
    values: Mapping[str, Any], names: Sequence[str], counts: Sequence[int]
) -> tuple[float, ...]:
    """Return the weight of each class: ``class_weights=`` times the weights of ``cls_pw=``.

    Args:
        values: the training values.
        names: class names.
        counts: number of training boxes of each class.

    Returns:
        One weight per class; empty if all are 1.

    Raises:
        ConfigError: the number of weights is not that of the classes, or a weight is not usable.
    """
    given = tuple(values["class_weights"] or ())
    words = ",".join(f"{w:g}" for w in given)
    if given and len(given) != len(names):
        each = ", ".join(names)
        msg = f"class_weights={words}: {len(given)} weights for {len(names)} classes; wanted one "
        raise ConfigError(f"{msg}each for {each}")
    if given and not (all(math.isfinite(w) and w >= 0 for w in given) and any(given)):
        raise ConfigError(f"class_weights={words}: wanted numbers of 0 or more, one above 0")
    frequency = inverse_frequency(counts, values["cls_pw"])
    weights = tuple(a * b for a, b in zip(given or (1.0,) * len(names), frequency, strict=True))
    return () if all(w == 1.0 for w in weights) else weights


def inverse_frequency(counts: Sequence[int], power: float) -> tuple[float, ...]:
    """Compute weights by inverse class frequency, as ``cls_pw`` of ``ultralytics`` does.

    A weight is ``count^-power`` divided by the mean of all weights. A class without a box gets the
    mean of the others.

    >>> inverse_frequency([1, 4], 0.5)
    (1.3333333333333333, 0.6666666666666666)
    """
    boxes = np.asarray(counts, dtype=np.float64)
    present = boxes > 0
    if not power or not present.any():
        return (1.0,) * len(boxes)
    weights = np.where(present, boxes, 1.0) ** -power
    weights = np.where(present, weights, weights[present].mean())
    return tuple((weights / weights.mean()).tolist())
