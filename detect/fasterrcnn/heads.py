"""Heads of a Faster R-CNN with another class loss; importing this imports ``torchvision``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from spineline.detect.fasterrcnn.losses import class_loss


class ClassWeightedHeads(RoIHeads):
    """torchvision's heads with another class loss; their weights keep the same names.

    Args:
        heads: the heads of a network, whose layers and settings are reused.
        weights: weight of each class without the background, which has 1; empty: 1 each.
        gamma: exponent of the focal term.
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
        """See torchvision's method, which evaluation uses unchanged."""
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
