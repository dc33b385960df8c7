"""Class loss of a Faster R-CNN's head: cross-entropy, weighted by class, or focal.

The loss of a region of class y (0 is the background) to which the network gives the probability p
is ``w_y (1 - p)^γ (-ln p)``, and that of a batch is the mean over its regions. Weights are not
divided out: a class of weight 2 counts twice, and the others as before. With γ = 0 and every weight
1 this is torchvision's loss. Lin et al. 2017, "Focal loss for dense object detection", with the
softmax that this head has in place of sigmoids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from spineline.datasets.common.errors import ConfigError


def class_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
) -> torch.Tensor:
    """The loss of the module's text.

    Args:
        logits: (N, 1 + classes), the background first.
        labels: int64 (N,), 0 for the background.
        weights: (1 + classes,), or None for 1 each.
        gamma: of the focal term, 0 or more.

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


class ClassWeightedHeads(RoIHeads):
    """torchvision's heads with another class loss; their weights have the same names.

    Args:
        heads: the heads of a network, whose layers and settings are taken over.
        weights: of each class, without the background, which has 1; none for 1 each.
        gamma: of the focal term.
    """

    def __init__(self, heads: Any, *, weights: Sequence[float] = (), gamma: float = 0.0) -> None:
        super().__init__(
            heads.box_roi_pool,
            heads.box_head,
            heads.box_predictor,
            heads.proposal_matcher.high_threshold,
            heads.proposal_matcher.low_threshold,
            heads.fg_bg_sampler.batch_size_per_image,
            heads.fg_bg_sampler.positive_fraction,
            heads.box_coder.weights,
            heads.score_thresh,
            heads.nms_thresh,
            heads.detections_per_img,
        )
        self.gamma = gamma
        self.class_weights: torch.Tensor | None
        held = torch.tensor([1.0, *weights]) if weights else None
        self.register_buffer("class_weights", held, persistent=False)

    def forward(
        self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None
    ) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        """See torchvision's; in evaluation it is torchvision's."""
        if not self.training:
            found: tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
            found = super().forward(features, proposals, image_shapes, targets)
            return found
        proposals, _, labels, box_targets = self.select_training_samples(proposals, targets)
        regions = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, boxes = self.box_predictor(regions)
        _, box_loss = fastrcnn_loss(logits, boxes, labels, box_targets)
        loss = class_loss(
            logits, torch.cat(labels, dim=0), weights=self.class_weights, gamma=self.gamma
        )
        return [], {"loss_classifier": loss, "loss_box_reg": box_loss}


def set_class_loss(network: Any, *, weights: Sequence[float] = (), gamma: float = 0.0) -> nn.Module:
    """Give a Faster R-CNN another class loss, in place; with no weights and γ = 0 it keeps its own.

    Returns:
        The network.
    """
    if weights or gamma:
        network.roi_heads = ClassWeightedHeads(network.roi_heads, weights=weights, gamma=gamma)
    result: nn.Module = network
    return result


def training_weights(
    values: Mapping[str, Any], names: Sequence[str], counts: Sequence[int]
) -> tuple[float, ...]:
    """The weight of each class: ``class_weights=`` times those that ``cls_pw=`` makes of counts.

    Args:
        values: what a run trains with.
        names: of the classes.
        counts: boxes to train on, by class.

    Returns:
        One weight per class; none where all are 1.

    Raises:
        ConfigError: not one weight per class, or a weight that cannot be used.
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
    """Weights by the inverse frequency of classes, as ``cls_pw`` of ``ultralytics`` has them.

    ``count^-power``, the mean of the others for a class without a box, divided by the mean of all.

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
