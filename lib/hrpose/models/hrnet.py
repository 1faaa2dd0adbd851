r"""HRNet: a backbone that keeps a high-resolution branch throughout.

Sun, Xiao, Liu, Wang: Deep High-Resolution Representation Learning for Human Pose Estimation,
CVPR 2019, section 3 and figure 1. Each stage adds a branch of half the resolution and twice the
width, and the branches are fused repeatedly:

    stride  4   stem -- stage1 --- stage2 --- stage3 --- stage4 -->  (B, C, H/4, W/4)
    stride  8                 \--- stage2 --- stage3 --- stage4 /
    stride 16                            \--- stage3 --- stage4 /
    stride 32                                       \--- stage4 /
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hrpose.models.blocks import (
    CheckpointedSequential,
    Upsample,
    basic_block,
    bottleneck,
    conv_bn,
)

FINEST_STRIDE = 4
"""Network pixels per cell of the finest branch."""

COARSEST_STRIDE = 32
"""Input pixels per cell of the coarsest branch; both sides of the input are multiples of it."""


def fuse_layer(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """Resample branch `source` to the resolution and width of branch `target` (figure 3).

    (B, widths[source], h, w) -> (B, widths[target], h * z, w * z), z = 2^(source - target)
    """
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            *conv_bn(widths[source], widths[target], kernel=1, relu=False),
            Upsample(scale_factor=2 ** (source - target), mode="nearest"),
        )
    steps = target - source
    chain = [widths[source]] * steps + [widths[target]]
    return nn.Sequential(
        *(
            conv_bn(before, after, stride=2, relu=step < steps)
            for step, (before, after) in enumerate(zip(chain, chain[1:]), start=1)
        )
    )


class SumFusion(nn.Module):
    """Sum of the resampled branches (figure 3); other fusions have the same interface.

    width: channels of the target branch   inputs: number of source branches
    """

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()

    def forward(self, xs: Iterable[Tensor]) -> Tensor:
        """xs: (B, width, h, w) per source branch   Returns (B, width, h, w), before the ReLU."""
        return reduce(torch.add, xs)  # xs may be a generator: one tensor in memory at a time


FuseFactory = Callable[[int, int], nn.Module]
"""(width, inputs) -> a module like `SumFusion`"""
Exchange = tuple[Sequence[int], FuseFactory]
"""Indices of the branches that a fusion module computes, and its fusion"""


class FusionModule(nn.Module):
    """Residual blocks on every branch, then multi-scale fusion (figures 1 and 3).

    [(B, widths[i], h / 2^i, w / 2^i) per branch] -> the same shapes, of the `targets` only

    targets: indices of the branches to compute, 0 the finest
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        targets: Sequence[int],
        fuse: FuseFactory = SumFusion,
    ) -> None:
        super().__init__()
        sources = range(len(widths))
        self.branches = nn.ModuleList(
            nn.Sequential(*(basic_block(width) for _ in range(blocks))) for width in widths
        )
        self.routes = nn.ModuleDict(
            {
                str(target): nn.ModuleList(fuse_layer(widths, source, target) for source in sources)
                for target in targets
            }
        )
        self.fusions = nn.ModuleList(fuse(widths[target], len(widths)) for target in targets)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs)]
        return [
            F.relu(fuse(layer(x) for layer, x in zip(layers.children(), xs)), inplace=True)
            for layers, fuse in zip(self.routes.values(), self.fusions)
        ]


class Stage(nn.Module):
    """Transition to one more branch, then one fusion module after the other.

    inputs:     channels of the incoming branches; where there are as many as `widths`, none begins
    widths:     channels of the branches in the stage
    blocks:     residual blocks per branch and module
    exchanges:  of every module
    """

    def __init__(
        self,
        inputs: Sequence[int],
        widths: Sequence[int],
        blocks: int,
        exchanges: Iterable[Exchange],
    ) -> None:
        super().__init__()
        self.inputs = len(inputs)
        # The attributes entry, exchanges and routes are part of the names in weight files.
        self.entry = nn.ModuleList(transition(*each) for each in zip(inputs, widths))
        if len(inputs) < len(widths):
            self.entry.append(conv_bn(inputs[-1], widths[len(inputs)], stride=2))
        self.exchanges = CheckpointedSequential(
            *(FusionModule(widths, blocks, targets, fuse) for targets, fuse in exchanges)
        )

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return self.exchanges(self.enter(xs))

    def enter(self, xs: list[Tensor]) -> list[Tensor]:
        """The input of the first fusion module."""
        # The new branch starts from the coarsest one.
        return [layer(x) for layer, x in zip(self.entry, [*xs, xs[-1]])]


def transition(inputs: int, outputs: int) -> nn.Module:
    """Change the width of a branch between two stages: (B, inputs, h, w) -> (B, outputs, h, w)."""
    return nn.Identity() if inputs == outputs else conv_bn(inputs, outputs)


def parallel_stages(
    inputs: Sequence[Sequence[int]],
    widths: Sequence[int],
    modules: Sequence[int],
    blocks: int,
    fuse: FuseFactory,
    last: Exchange,
) -> Iterator[Stage]:
    """Stages 2, 3 and 4, of as many branches.

    inputs:   channels of the incoming branches of each stage
    widths:   channels of the branches
    modules:  fusion modules of each stage
    last:     the exchange of the very last module, instead of all branches and `fuse`
    """
    for branches, given, count in zip((2, 3, 4), inputs, modules, strict=True):
        exchanges: list[Exchange] = [(range(branches), fuse)] * count
        if branches == 4:
            exchanges[-1] = last
        yield Stage(given, widths[:branches], blocks, exchanges)


class HRNet(nn.Module):
    """Normalised images to feature maps at the resolutions asked for.

    (B, 3, H, W), H and W multiples of 32 -> [(B, width * 2^i, H / (4 * 2^i), W / (4 * 2^i))]

    width:        channels of the finest branch, C in the papers: 32, 40 or 48
    modules:      fusion modules of stages 2, 3 and 4
    blocks:       residual blocks per branch and module
    stem:         channels of the stem; stage 1 has four times as many
    bottlenecks:  residual blocks of stage 1
    branches:     indices i of the returned branches, 0 (stride 4) to 3 (stride 32)
    fuse:         factory of the fusion of branches; the published one sums them
    last_fuse:    that of the last module of stage 4; None: as the others

    The defaults are the published network (section 3, "network instantiation").
    """

    def __init__(  # noqa: PLR0913  the dimensions of the network, and how it is put together
        self,
        width: int = 32,
        modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        stem: int = 64,
        bottlenecks: int = 4,
        *,
        branches: Sequence[int] = (0,),
        fuse: FuseFactory = SumFusion,
        last_fuse: FuseFactory | None = None,
    ) -> None:
        super().__init__()
        if len(modules) != 3:
            raise ValueError(f"modules is {modules}; give the number of stages 2, 3 and 4")
        self.width = width
        self.widths = widths = [width, 2 * width, 4 * width, 8 * width]
        self.counts, self.blocks, self.stem_width, self.branches = modules, blocks, stem, branches
        self.fuse, self.last_fuse = fuse, last_fuse or fuse
        self.stem = nn.Sequential(conv_bn(3, stem, stride=2), conv_bn(stem, stem, stride=2))
        self.stage1 = CheckpointedSequential(
            bottleneck(stem, stem), *(bottleneck(4 * stem, stem) for _ in range(bottlenecks - 1))
        )
        inputs, last = ([4 * stem], widths[:2], widths[:3]), (branches, self.last_fuse)
        stages = parallel_stages(inputs, widths, modules, blocks, fuse, last)
        self.stage2, self.stage3, self.stage4 = stages

    def forward(self, images: Tensor) -> list[Tensor]:
        """ValueError if a side is not a multiple of 32."""
        xs = [self.begin(images)]
        for stage in (self.stage2, self.stage3, self.stage4):
            xs = stage(xs)
        return xs

    def begin(self, images: Tensor) -> Tensor:
        """The feature of stage 1, (B, 4 * stem, H / 4, W / 4); errors as `forward`."""
        height, width = images.shape[-2:]
        if height % COARSEST_STRIDE or width % COARSEST_STRIDE:
            raise ValueError(
                f"images are {height} x {width} pixels; HRNet halves them five times, "
                f"so pad or resize both sides to multiples of {COARSEST_STRIDE}"
            )
        return self.stage1(self.stem(images))
