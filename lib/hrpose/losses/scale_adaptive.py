"""SWAHR: Gaussians as wide as the network finds them (SAHR), easy cells weighing less (WAHR).

Luo, Wang, Huang, Wang, Tan, Zhou: Rethinking the Heatmap Regression for Bottom-up Human Pose
Estimation, CVPR 2021, section 3. Where the paper contradicts itself or its code: docs/methods.md.

H: the drawn heatmaps, (B, K, H, W), of one deviation for everybody
alpha: 1 / s - 1, (B, K, H, W), what the network says of the scale s of a Gaussian; 0 means s = 1
Everything is computed in float32 or better, whatever the network's precision.
"""

from __future__ import annotations

from torch import Tensor

from hrpose.losses.heatmap import in_full, masked_mean


def scaled_target(H: Tensor, scales: Tensor) -> Tensor:
    """What the heatmaps should be if Gaussians had the scales that the network says.

    H^(1/s) to the second order in alpha: H/2 (1 + (1 + alpha ln H)^2). It is 0 where H is 0, 1
    where H is 1, and H itself where alpha is 0. The gradient reaches the scales.

    scales: alpha
    Source: equation 8.
    """
    H, alpha = in_full(H), _on_support(H, scales)
    log = H.where(H > 0, 1).log()
    return 0.5 * H * (1 + (1 + alpha * log) ** 2)


def scale_penalty(H: Tensor, scales: Tensor, mask: Tensor) -> Tensor:
    """What keeps scales near 1: mean of alpha^2 where H > 0, over all cells as the code has it.

    Returns (B,).
    Source: equation 7.
    """
    return masked_mean(_on_support(H, scales) ** 2, mask)


def adaptive_weight(P: Tensor, H: Tensor, gamma: float) -> Tensor:
    """How much a cell counts: the farther from right, the more.

    |1 - P| where a joint is, |P| where none is, and H^gamma tells softly which. The gradient
    reaches P through it, as in the released code.

    P: predicted heatmaps
    Source: equation 13.
    """
    P, foreground = in_full(P), in_full(H) ** gamma
    return foreground * (1 - P).abs() + P.abs() * (1 - foreground)


def constant_weight(P: Tensor, H: Tensor, gamma: float) -> Tensor:
    """`adaptive_weight`, through which no gradient goes."""
    return adaptive_weight(P.detach(), H, gamma)


def weighted_mse(predicted: Tensor, target: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Weighted mean squared error over all cells and joints of an image; masked cells count as 0.

    predicted, target, weight: (B, K, H, W)   mask: (B, H, W)
    Returns (B,).
    """
    return masked_mean(weight * (in_full(predicted) - target) ** 2, mask)


def swahr_loss(
    predicted: Tensor, target: Tensor, scales: Tensor, mask: Tensor, gamma: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Both adaptations together: the loss of the heatmaps, and what keeps the scales near 1.

    predicted, target, scales: (B, K, H, W), target being H   mask: (B, H, W)
    Returns (heatmap, scale), each (B,).
    Source: equations 9 and 13.
    """
    weight = adaptive_weight(predicted, target, gamma)
    heatmap = weighted_mse(predicted, scaled_target(target, scales), weight, mask)
    return heatmap, scale_penalty(target, scales, mask)


def _on_support(H: Tensor, scales: Tensor) -> Tensor:
    """Where nothing is drawn there is nothing to scale."""
    return in_full(scales).where(H > 0, 0)
