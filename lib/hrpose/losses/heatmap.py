"""How far predicted heatmaps are from the drawn ones."""

from __future__ import annotations

from torch import Tensor


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over all cells and joints of an image, masked cells counting as 0.

    The mean is over all cells, masked or not, as in the authors' code.

    predicted, target: (B, K, H, W)   mask: (B, H, W), 1 where supervised
    Returns (B,) in float32 or better, whatever the network's precision.
    Source: Cheng et al. 2020 (HigherHRNet), section 3.4.
    """
    error = (predicted.float() if predicted.itemsize < 4 else predicted) - target
    return (error**2 * mask[:, None].to(error.dtype)).flatten(1).mean(1)
