"""SWAHR: HigherHRNet that also predicts scale maps in training.

Luo, Wang, Huang, Wang, Tan, Zhou: Rethinking the Heatmap Regression for Bottom-up Human Pose
Estimation, CVPR 2021, section 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from hrpose.models.blocks import INIT_STD
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.structures import HeadOutput


class SWAHR(nn.Module):
    """A HigherHRNet with a scale branch beside the head of every resolution.

    (B, 3, H, W) -> [HeadOutput], coarse to fine, with `scales` only in training mode: neither the
    deconvolutions nor the decoder use them, so they cost nothing at test.
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

    def forward(self, images: Tensor) -> list[HeadOutput]:
        return self.with_scales(images) if self.training else self.network(images)

    def with_scales(self, images: Tensor) -> list[HeadOutput]:
        """The outputs with scale maps, in training and evaluation mode alike."""
        levels = zip(self.scale_branches, self.network.levels(images))
        return [output._replace(scales=branch(feature)) for branch, (feature, output) in levels]


def scale_branch(width: int, joints: int) -> nn.Sequential:
    """Predicts alpha = 1 / s - 1 per cell, s the factor of the Gaussian's variance there.

    (B, width, H, W) -> (B, joints, H, W)
    Initially alpha = 0, as without the branch. The 9 x 9 convolution is depthwise, per joint.
    """
    read = nn.Conv2d(width, joints, kernel_size=1)
    nn.init.normal_(read.weight, std=INIT_STD)
    nn.init.zeros_(read.bias)  # type: ignore[arg-type]
    smooth = nn.Conv2d(joints, joints, kernel_size=9, padding=4, groups=joints)
    nn.init.zeros_(smooth.weight)
    nn.init.zeros_(smooth.bias)  # type: ignore[arg-type]
    return nn.Sequential(read, nn.BatchNorm2d(joints), nn.ReLU(inplace=True), smooth)
