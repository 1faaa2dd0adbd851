"""RAM: resolution-wise attention, a weight for every branch that HRNet fuses.

Zhang, He, Yao et al.: Learning Enhanced Resolution-wise Features for Human Pose Estimation, arXiv
1909.05090, equations 1 to 3. Of the input h of n, resampled to branch i as HRNet does it, T_h:

    E_h = Conv1x1(GlobalPool(T_h))                         (1)
    W_h = softmax(E)_h * omega_h + beta_h                  (2)
    Y_i = sum over h of W_h T_h                            (3)

Equation 2 prints a denominator without exponentials, against the text's softmax, and equation 3
another index. Not in the text, but implied by its numbers of parameters: a hidden layer in E.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn


def _zero_linear(inputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class HiddenScores(nn.Module):
    """Equation 1 with a hidden layer, and separate layers for every input.

    (B, n, width) -> (B, n, 1), at first 0. A 1 x 1 convolution of pooled maps is a linear layer.
    """

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), _zero_linear(width))
            for _ in range(inputs)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        scores = [layer(x) for layer, x in zip(self.layers, pooled.unbind(1))]
        return torch.stack(scores, 1)


def linear_scores(width: int, inputs: int) -> nn.Module:
    """Equation 1 as printed, one layer for all inputs: (B, n, width) -> (B, n, 1), at first 0."""
    return _zero_linear(width)


class RAM(nn.Module):
    """Weighted sum of the resampled branches, with the interface of `hrnet.SumFusion`.

    width:   channels of the target branch   inputs: number n of source branches
    scores:  (width, inputs) -> a module (B, n, width) -> (B, n, 1)

    All weights are at first 1: omega is n, beta 0 and E 0, so that it is HRNet's sum bit for bit in
    float32, and HRNet's weights are a start. The layers of E have PyTorch's own initial weights,
    whatever the network is initialised with.
    """

    def __init__(
        self, width: int, inputs: int, scores: Callable[[int, int], nn.Module] = HiddenScores
    ) -> None:
        super().__init__()
        self.scores = scores(width, inputs)
        self.omega = nn.Parameter(torch.full((inputs,), float(inputs)))
        self.beta = nn.Parameter(torch.zeros(inputs))

    def forward(self, xs: Iterable[Tensor]) -> Tensor:
        """xs: (B, width, h, w) per source branch   Returns (B, width, h, w), before the ReLU."""
        xs = list(xs)
        weights = self.weigh(xs)[..., None, None, None].unbind(1)  # n of (B, 1, 1, 1)
        return reduce(torch.add, (weight * x for weight, x in zip(weights, xs)))

    def weigh(self, xs: Sequence[Tensor]) -> Tensor:
        """W (B, n), equation 2, in the precision of the maps xs (B, width, h, w).

        The softmax is in float32 at least. Its result is rounded, since under autocast a float32
        weight would promote all maps.
        """
        pooled = torch.stack([x.mean((2, 3)) for x in xs], 1)  # (B, n, width)
        scores = self.scores(pooled)[..., 0]
        attention = scores.softmax(1, dtype=torch.promote_types(scores.dtype, torch.float32))
        return (attention * self.omega + self.beta).to(xs[0].dtype)
