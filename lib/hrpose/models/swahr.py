"""SWAHR: HigherHRNet that, while it trains, also says how wide each joint's Gaussian should be.

Luo, Wang, Huang, Wang, Tan, Zhou: Rethinking the Heatmap Regression for Bottom-up Human Pose
Estimation, CVPR 2021, section 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from hrpose.models.blocks import PUBLISHED_DEVIATION
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.structures import ScaleOutput


class SWAHR(nn.Module):
    """A HigherHRNet with a scale branch beside the head of every resolution.

    (B, 3, H, W) -> [ScaleOutput], coarse to fine, with `scales` in training mode alone: no
    deconvolution sees them and no decoder needs them, so at test they cost nothing.
    """

    def __init__(self, network: HigherHRNet) -> None:
        super().__init__()
        self.network = network
        self.scale_branches = nn.ModuleList(
            scale_branch(network.width, network.joints) for _ in network.heads
        )

    @property
    def joints(self) -> int:
        return self.network.joints

    def forward(self, images: Tensor) -> list[ScaleOutput]:
        return self.with_scales(images) if self.training else self.network(images)

    def with_scales(self, images: Tensor) -> list[ScaleOutput]:
        """Every resolution's output with its scale maps, in whatever mode the network is."""
        levels = zip(self.scale_branches, self.network.levels(images))
        return [output._replace(scales=branch(feature)) for branch, (feature, output) in levels]


def scale_branch(width: int, joints: int) -> nn.Sequential:
    """alpha = 1 / s - 1 of every cell, where s is the scale of the joint's Gaussian there.

    (B, width, H, W) -> (B, joints, H, W)
    It begins with alpha = 0, as if it were not there. The 9 x 9 convolution looks at each joint's
    map alone.
    """
    read = nn.Conv2d(width, joints, kernel_size=1)
    nn.init.normal_(read.weight, std=PUBLISHED_DEVIATION)
    nn.init.zeros_(read.bias)  # type: ignore[arg-type]
    smooth = nn.Conv2d(joints, joints, kernel_size=9, padding=4, groups=joints)
    nn.init.zeros_(smooth.weight)
    nn.init.zeros_(smooth.bias)  # type: ignore[arg-type]
    return nn.Sequential(read, nn.BatchNorm2d(joints), nn.ReLU(inplace=True), smooth)
