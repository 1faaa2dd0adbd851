"""Top-down HRNet: one heatmap a joint at stride 4, of the person in the crop; offsets if wanted.

Sun, Xiao, Liu, Wang: Deep High-Resolution Representation Learning for Human Pose Estimation,
CVPR 2019, section 3: the backbone's finest branch, and a 1x1 convolution. Between them may stand a
neck that sees all branches: models/gpr.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hrpose.models.blocks import Head
from hrpose.models.gpr import GPR
from hrpose.models.hrnet import FINEST_STRIDE, HRNet
from hrpose.structures import HeadOutput


class FinestBranch(nn.Module):
    """The published neck, none: [(B, width, h, w), ...] -> the first.

    width: channels of the finest branch
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return xs[0]


def head_output(name: str, maps: Tensor, joints: int) -> HeadOutput:
    """What a head predicts: heatmaps (B, K, h, w); of 3K maps the others are the offsets."""
    if maps.shape[1] == joints:
        return HeadOutput(name, FINEST_STRIDE, maps)
    return HeadOutput(name, FINEST_STRIDE, maps[:, :joints], offsets=maps[:, joints:])


class PoseHRNet(nn.Module):
    """Normalised crops to heatmaps: (B, 3, H, W), multiples of 32 -> [HeadOutput at stride 4].

    neck: the branches that the backbone returns -> a feature (B, neck.width, H / 4, W / 4)
    offsets: predict (B, 2K, H / 4, W / 4) too, by the same layer, whose first K channels are heat
    """

    def __init__(
        self,
        backbone: HRNet,
        joints: int,
        neck: FinestBranch | GPR | None = None,
        offsets: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.joints = joints
        neck = neck or FinestBranch(backbone.width)
        self.neck = neck
        self.head = Head(neck.width, 3 * joints if offsets else joints)

    def forward(self, images: Tensor) -> list[HeadOutput]:
        feature = self.neck(self.backbone(images))
        return [head_output(f"1_{FINEST_STRIDE}", self.head(feature), self.joints)]
