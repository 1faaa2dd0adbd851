r"""HigherHRNet: heatmaps and tags at stride 4, and heatmaps at finer strides by deconvolution.

Cheng, Xiao, Wang, Shi, Huang, Zhang: HigherHRNet: Scale-Aware Representation Learning for
Bottom-Up Human Pose Estimation, CVPR 2020, section 3 and figure 2:

    stride 4   backbone -- feature -- head -->  heatmaps and tags
                              \--------+ cat
    stride 2                         deconv -- feature -- head -->  heatmaps
                                                  \--------+ cat
    stride 1                                             deconv -- feature -- head -->  heatmaps
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hrpose.models.blocks import CheckpointedSequential, Head, basic_block
from hrpose.models.hrnet import FINEST_STRIDE, HRNet
from hrpose.structures import HeadOutput


def deconv(inputs: int, width: int, dilations: Sequence[int]) -> nn.Sequential:
    """Deconvolution to twice the resolution, then residual blocks (section 3, figure 2).

    (B, inputs, H, W) -> (B, width, 2H, 2W)   dilations: one per block
    """
    up = nn.Sequential(
        nn.ConvTranspose2d(inputs, width, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
    refine = CheckpointedSequential(*(basic_block(width, dilation) for dilation in dilations))
    return nn.Sequential(OrderedDict(up=up, blocks=refine))


class HigherHRNet(nn.Module):
    """Normalised images to heatmaps and tags at stride 4, and heatmaps at each finer stride.

    (B, 3, H, W), H and W multiples of 32 -> [HeadOutput], coarse to fine

    joints:      K, heatmaps at each resolution; as many tags, at the coarsest only
    num_deconvs: resolutions beyond the first; 0 is bottom-up HRNet
    dilations:   of the residual blocks after each deconvolution, one per block
    cat_output:  concatenate the previous head's prediction to the deconvolution's input
    """

    def __init__(
        self,
        backbone: HRNet,
        joints: int,
        num_deconvs: int = 1,
        dilations: Sequence[int] = (1, 1, 1, 1),
        cat_output: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.joints = joints
        self.width = width = backbone.width
        self.cat_output = cat_output
        channels = [2 * joints] + [joints] * num_deconvs  # of each resolution's head
        self.heads = nn.ModuleList(Head(width, count) for count in channels)
        self.deconvs = nn.ModuleList(
            deconv(width + (count if cat_output else 0), width, dilations)
            for count in channels[:-1]
        )

    def forward(self, images: Tensor) -> list[HeadOutput]:
        return [output for _, output in self.levels(images)]

    def levels(self, images: Tensor) -> list[tuple[Tensor, HeadOutput]]:
        """Feature map (B, C, h, w) and prediction of every resolution, coarse to fine.

        Further heads (SWAHR's scale branches) read the same feature maps.
        """
        (feature,) = self.backbone(images)
        levels = [(feature, self._predict(0, feature))]
        for level, up in enumerate(self.deconvs, start=1):
            if self.cat_output:  # the papers concatenate the heatmaps, their code also the tags
                coarser = levels[-1][1]
                parts = (feature, coarser.heatmaps, coarser.tags)
                known = [part.to(feature.dtype) for part in parts if part is not None]
                feature = torch.cat(known, dim=1)
            feature = up(feature)
            levels.append((feature, self._predict(level, feature)))
        return levels

    def _predict(self, level: int, feature: Tensor) -> HeadOutput:
        prediction = self.heads[level](feature)  # (B, 2K or K, h, w): heatmaps, then tags
        heatmaps, tags = prediction[:, : self.joints], prediction[:, self.joints :]
        stride = FINEST_STRIDE // 2**level
        return HeadOutput(f"1_{stride}", stride, heatmaps, tags if tags.shape[1] else None)
