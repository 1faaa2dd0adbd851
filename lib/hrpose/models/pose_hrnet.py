"""Top-down HRNet: one heatmap a joint at stride 4, of the person in the crop.

Sun, Xiao, Liu, Wang: Deep High-Resolution Representation Learning for Human Pose Estimation,
CVPR 2019, section 3: the backbone's finest branch, and a 1x1 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from hrpose.models.blocks import Head
from hrpose.models.hrnet import FINEST_STRIDE, HRNet
from hrpose.structures import HeadOutput


class PoseHRNet(nn.Module):
    """Normalised crops to heatmaps: (B, 3, H, W), multiples of 32 -> [HeadOutput at stride 4]."""

    def __init__(self, backbone: HRNet, joints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.joints = joints
        self.head = Head(backbone.width, joints)

    def forward(self, images: Tensor) -> list[HeadOutput]:
        (feature,) = self.backbone(images)
        return [HeadOutput(f"1_{FINEST_STRIDE}", FINEST_STRIDE, self.head(feature))]
