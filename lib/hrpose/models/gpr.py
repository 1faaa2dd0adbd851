"""GPR: gradual pyramid refinement, from HRNet's coarsest branch to its finest.

Zhang, He, Yao et al.: Learning Enhanced Resolution-wise Features for Human Pose Estimation, arXiv
1909.05090, equations 4 to 6. X_k are the branches, 1 the finest, k = 4, 3, 2:

    X'_{k-1} = Int(X_k) + Deconv(X_k)                      (4)
    X_{k-1}  = Concat(X'_{k-1}, X_{k-1})                   (5)
    H        = Conv(X_1)                                   (6)

The text gives neither widths nor kernels. `reducing_step` is the layout that has the published
numbers of parameters and operations; `equation_step` has no layer that the equations lack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hrpose.models.blocks import Upsample, conv_bn


class PyramidStep(nn.Module):
    """One step to the next finer branch, equations 4 and 5.

    coarse (B, C, h, w), fine (B, D, 2h, 2w) -> (B, width, 2h, 2w)

    interpolate, deconv:  (B, C, h, w) -> (B, E, 2h, 2w)
    merge:                (B, E + D, 2h, 2w) -> (B, width, 2h, 2w)
    """

    def __init__(
        self, interpolate: nn.Module, deconv: nn.Module, merge: nn.Module, width: int
    ) -> None:
        super().__init__()
        self.interpolate = interpolate
        self.deconv = deconv
        self.merge = merge
        self.width = width

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        raised = self.interpolate(coarse) + self.deconv(coarse)
        return self.merge(torch.cat([raised, fine], 1))


def _bilinear() -> Upsample:
    return Upsample(scale_factor=2, mode="bilinear", align_corners=False)


def reducing_step(coarse: int, fine: int) -> PyramidStep:
    """A step that returns the width of the fine branch.

    The convolution of Int stands before the interpolation, which commutes with it and is cheaper
    there. Its BatchNorm stands behind, where it has the same statistics in either order.
    """
    conv, norm = conv_bn(coarse, fine, kernel=1, relu=False)
    interpolate = nn.Sequential(conv, _bilinear(), norm)
    deconv = nn.Sequential(
        nn.ConvTranspose2d(coarse, fine, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(fine),
        nn.ReLU(inplace=True),
    )
    return PyramidStep(interpolate, deconv, conv_bn(2 * fine, fine), fine)


def equation_step(coarse: int, fine: int) -> PyramidStep:
    """Equations 4 and 5 only: nothing follows the concatenation, and widths grow.

    X'_{k-1} has as many channels as branch k, twice those of the fine one; Int has a convolution
    only where X_k has others.
    """
    raised = 2 * fine
    widen = nn.Identity() if coarse == raised else nn.Conv2d(coarse, raised, kernel_size=1)
    deconv = nn.ConvTranspose2d(coarse, raised, kernel_size=4, stride=2, padding=1)
    interpolate = nn.Sequential(widen, _bilinear())
    return PyramidStep(interpolate, deconv, nn.Identity(), raised + fine)


class GPR(nn.Module):
    """All branches to one feature at the finest resolution; equation 6 is the network's head.

    [(B, widths[i], h / 2^i, w / 2^i) per branch] -> (B, self.width, h, w)

    step: (channels of the coarse map, of the fine one) -> PyramidStep
    """

    def __init__(
        self, widths: Sequence[int], step: Callable[[int, int], PyramidStep] = reducing_step
    ) -> None:
        super().__init__()
        *finer, self.width = widths
        steps = []
        for fine in reversed(finer):
            steps.append(step(self.width, fine))
            self.width = steps[-1].width
        self.steps = nn.ModuleList(steps)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        *finer, feature = xs
        for step, fine in zip(self.steps, reversed(finer)):
            feature = step(feature, fine)
        return feature
