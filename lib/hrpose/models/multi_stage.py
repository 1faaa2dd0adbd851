r"""Multi-Stage HRNet: HRNets in cascade, each of which reads the maps of the one before it.

Huang, Zhu, Huang: Multi-Stage HRNet: Multiple Stage High-Resolution Network for Human Pose
Estimation, arXiv 1910.05901. The paper's stages are whole networks; here "stage" is kept for those
of HRNet (models/hrnet.py), and for the names of the outputs. X_n(l, m) are the branches that fusion
module m of stage l returns in network n, and M the module:

    X_n+1(l, m) = M_n+1(l, m)(X_n+1(l, m - 1) + X_n(l, m))

The paper has no equation: it is its text, that what a module yields is added at the same position
of the next network. No code of the authors is known, and how a later network begins is not in the
text: `CASCADES` has the readings that were counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hrpose.models.blocks import Head, conv_bn
from hrpose.models.hrnet import HRNet, parallel_stages
from hrpose.models.pose_hrnet import head_output
from hrpose.structures import HeadOutput

Units = list[list[list[Tensor]]]
"""The maps that fusion modules return: [stage 2, 3, 4][module][branch] (B, C, h, w)"""


class CascadeLayout(NamedTuple):
    """How a later network differs from HRNet, beside having no stem and no stage 1.

    A branch that no own transition begins is that of the network before: its latest map.
    """

    transitions: tuple[int, ...] = (2, 3)  # its own; 1 reads the feature of the first one's stage 1
    modules: tuple[float, float, float] = (1, 1, 1)  # share of HRNet's, in stages 2, 3 and 4
    branches: Sequence[int] = (0,)  # that the last module of the networks before returns
    convs: bool = False  # a 1x1 convolution for every branch that is taken over


CASCADES = {
    "ms_a": CascadeLayout(),
    "ms_a4": CascadeLayout(branches=range(4)),
    "ms_b": CascadeLayout((2,), (1, 0.5, 1)),
    "ms_b0": CascadeLayout((), (1, 0.5, 1)),
    "ms_b_conv": CascadeLayout((), (1, 0.5, 1), convs=True),
    "ms_c": CascadeLayout((1, 2, 3), (0, 1, 1)),
}
"""MODEL.STAGES.PRESET -> layout. ms_a is closest to the text; ms_b and ms_b_conv have the printed
118.2 M parameters, ms_c the printed 61.5 GFLOPs, but at another input (docs/methods.md)."""


def match_width(inputs: int, outputs: int) -> nn.Module:
    """(B, inputs, h, w) -> (B, outputs, h, w): as it is, or a 1x1 convolution and BatchNorm."""
    return nn.Identity() if inputs == outputs else conv_bn(inputs, outputs, kernel=1, relu=False)


class CascadedHRNet(nn.Module):
    """An HRNet without stem and stage 1, in the place of which it reads the network before.

    first:     the network that reads the images; blocks and fusions are as its are
    before:    the network before this one: `first`, or another of this class
    width:     channels of the finest branch; others than before are matched (`match_width`)
    branches:  indices of the branches that the last module returns: the first, or the first ones
    links:     whether the modules of the network before are added to its own
    """

    def __init__(
        self,
        first: HRNet,
        before: HRNet | CascadedHRNet,
        width: int,
        layout: CascadeLayout,
        branches: Sequence[int] = (0,),
        links: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.branches = width, branches
        self.widths = widths = [width << i for i in range(4)]
        self.counts = [ceil(share * n) for share, n in zip(layout.modules, first.counts)]
        self.reads_feature = 1 in layout.transitions
        inputs = [widths[: n - (n - 1 in layout.transitions)] for n in (2, 3, 4)]
        if self.reads_feature:
            inputs[0] = [4 * first.stem_width]
        last = (branches, first.last_fuse)
        stages = parallel_stages(inputs, widths, self.counts, first.blocks, first.fuse, last)
        self.stage2, self.stage3, self.stage4 = stages
        taken = [max(1, i) not in layout.transitions for i in range(4)]
        if taken[3] and before.counts[2] < 2 and len(before.branches) < 4:
            raise ValueError(
                "a later network takes over the coarsest branch, which the only module of stage 4 "
                "does not return; give stage 4 two modules (MODEL.BACKBONE.MODULES), or take a "
                "layout with a transition of its own (MODEL.STAGES.PRESET ms_a)"
            )
        self.boundary = nn.ModuleList(
            conv_bn(theirs, own, kernel=1, relu=False)
            if read and layout.convs
            else match_width(theirs, own if read else theirs)
            for theirs, own, read in zip(before.widths, widths, taken)
        )
        returned: list[list[Sequence[int]]]  # branches of the modules before, as in Units
        returned = [[range(n)] * count for n, count in zip((2, 3, 4), before.counts)]
        returned[2][-1] = before.branches
        self.links = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(match_width(before.widths[i], widths[i]) for i in module)
                for module in stage[: count if links else 0]
            )
            for stage, count in zip(returned, self.counts)
        )

    def forward(self, feature: Tensor, before: Units) -> Units:
        """What its modules return.

        feature: of the first network's stage 1, (B, C, h, w)   before: of the network before
        """
        boundary: list[Tensor] = []  # the latest map of every branch
        for maps in (maps for stage in before for maps in stage):
            boundary[: len(maps)] = maps
        boundary = [match(x) for match, x in zip(self.boundary, boundary)]
        links = [
            [
                [match(x) for match, x in zip(matches.children(), maps)]
                for matches, maps in zip(modules.children(), stage)
            ]
            for modules, stage in zip(self.links.children(), before)
        ]
        return run_modules(self, [feature] if self.reads_feature else [], boundary, links)


def run_modules(
    network: HRNet | CascadedHRNet,
    xs: list[Tensor],
    boundary: Sequence[Tensor] = (),
    links: Units | None = None,
) -> Units:
    """What all fusion modules of a network return.

    xs: the feature of stage 1, or none   boundary: a map for every branch that begins with it
    links: maps that are added to the input of the modules
    """
    units: Units = []
    stages = (network.stage2, network.stage3, network.stage4)
    for stage, added in zip(stages, links or [[], [], []]):
        xs = stage.enter([*xs, *boundary[len(xs) : stage.inputs]])
        units.append([])
        for i, module in enumerate(stage.exchanges):
            link = added[i] if i < len(added) else []
            xs = [*map(torch.add, xs, link), *xs[len(link) :]]
            xs = stage.exchanges.run(module, xs)
            units[-1].append(xs)
    return units


class MultiStageHRNet(nn.Module):
    """Normalised crops to the heatmaps of all networks, the last of which are decoded.

    (B, 3, H, W), multiples of 32 -> [HeadOutput stage1, stage2, ... at stride 4]

    backbone:  the first network; its `branches` are `layout.branches`
    widths:    channels of the finest branch of every later network
    links:     whether the modules of a network are added to those of the next
    offsets:   whether heads predict offsets (B, 2K, h, w) beside K heatmaps
    """

    def __init__(
        self,
        backbone: HRNet,
        joints: int,
        widths: Sequence[int],
        layout: CascadeLayout = CASCADES["ms_a"],
        links: bool = True,
        offsets: bool = False,
    ) -> None:
        super().__init__()
        # The attributes later, boundary, links and heads are part of the names in weight files.
        self.backbone = backbone
        self.joints = joints
        networks: list[HRNet | CascadedHRNet] = [backbone]
        for number, width in enumerate(widths, 1):
            branches = (0,) if number == len(widths) else backbone.branches
            before = networks[-1]
            networks.append(CascadedHRNet(backbone, before, width, layout, branches, links))
        self.later = nn.ModuleList(networks[1:])
        channels = 3 * joints if offsets else joints
        self.heads = nn.ModuleList(Head(network.width, channels) for network in networks)

    def forward(self, images: Tensor) -> list[HeadOutput]:
        """ValueError if a side is not a multiple of 32."""
        feature = self.backbone.begin(images)
        units = run_modules(self.backbone, [feature])
        finest = [units[-1][-1][0]]
        for network in self.later:
            units = network(feature, units)
            finest.append(units[-1][-1][0])
        maps = [head(x) for head, x in zip(self.heads, finest)]
        return [head_output(f"stage{n}", each, self.joints) for n, each in enumerate(maps, 1)]
