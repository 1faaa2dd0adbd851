"""SWAHR: scale-adaptive (SAHR) and weight-adaptive heatmap regression (WAHR).

Luo, Wang, Huang, Wang, Tan, Zhou: Rethinking the Heatmap Regression for Bottom-up Human Pose
Estimation, CVPR 2021, section 3. Where the paper contradicts itself or its code: docs/methods.md.

H: target heatmaps (B, K, H, W), drawn with the same sigma for everybody
alpha: predicted 1 / s - 1, (B, K, H, W), where s scales a Gaussian's variance; 0 means s = 1
Everything is computed in float32 or better, whatever the network's precision.
"""

from __future__ import annotations

from torch import Tensor

from hrpose.losses.heatmap import masked_mean, to_float32


def scaled_target(H: Tensor, scales: Tensor) -> Tensor:
    """Target heatmaps whose Gaussians have the predicted scales.

    H^(1/s) = H^(1 + alpha) to second order in alpha: H/2 (1 + (1 + alpha ln H)^2). It is 0 where
    H is 0, 1 where H is 1, and H where alpha is 0. The gradient flows into the scales.

    scales: alpha
    Source: equation 8.
    """
    H, alpha = to_float32(H), _on_support(H, scales)
    log = H.where(H > 0, 1).log()
    return 0.5 * H * (1 + (1 + alpha * log) ** 2)


def scale_regularisation(H: Tensor, scales: Tensor, mask: Tensor) -> Tensor:
    """Regularisation of the scales towards 1: alpha^2 where H > 0, averaged over all cells.

    Returns (B,).
    Source: equation 7.
    """
    return masked_mean(_on_support(H, scales) ** 2, mask)


def adaptive_weight(P: Tensor, H: Tensor, gamma: float) -> Tensor:
    """WAHR's weight of a cell, which grows with its error.

    H^gamma |1 - P| + (1 - H^gamma) |P|: H^gamma is a soft indicator of foreground. The gradient
    flows through the weight into P, as in the released code.

    P: predicted heatmaps
    Source: equation 13.
    """
    P, foreground = to_float32(P), to_float32(H) ** gamma
    return foreground * (1 - P).abs() + P.abs() * (1 - foreground)


def constant_weight(P: Tensor, H: Tensor, gamma: float) -> Tensor:
    """`adaptive_weight` without a gradient."""
    return adaptive_weight(P.detach(), H, gamma)


def weighted_mse(predicted: Tensor, target: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Weighted mean squared error over all cells and joints of an image; masked cells contribute 0.

    predicted, target, weight: (B, K, H, W)   mask: (B, H, W)
    Returns (B,).
    """
    return masked_mean(weight * (to_float32(predicted) - target) ** 2, mask)


def swahr_loss(
    predicted: Tensor, target: Tensor, scales: Tensor, mask: Tensor, gamma: float = 0.01
) -> tuple[Tensor, Tensor]:
    """SAHR and WAHR together: the heatmap loss, and the regularisation of the scales.

    predicted, target, scales: (B, K, H, W), target being H   mask: (B, H, W)
    Returns (heatmap, scale), each (B,).
    Source: equations 9 and 13.
    """
    weight = adaptive_weight(predicted, target, gamma)
    heatmap = weighted_mse(predicted, scaled_target(target, scales), weight, mask)
    return heatmap, scale_regularisation(target, scales, mask)


def _on_support(H: Tensor, scales: Tensor) -> Tensor:
    """alpha, set to 0 where H is 0: there is no Gaussian to scale."""
    return to_float32(scales).where(H > 0, 0)
