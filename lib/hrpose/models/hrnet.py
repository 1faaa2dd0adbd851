r"""HRNet: a network that never gives up its high resolution.

Sun, Xiao, Liu, Wang: Deep High-Resolution Representation Learning for Human Pose Estimation,
CVPR 2019, section 3 and figure 1. Each stage adds a branch of half the resolution and twice the
width, and the branches keep exchanging what they know:

    stride  4   stem -- stage1 --- stage2 --- stage3 --- stage4 -->  (B, C, H/4, W/4)
    stride  8                 \--- stage2 --- stage3 --- stage4 /
    stride 16                            \--- stage3 --- stage4 /
    stride 32                                       \--- stage4 /
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hrpose.models.blocks import Steps, basic_block, bottleneck, conv_bn


def route(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """Bring branch `source` to the resolution and width of branch `target` (figure 3).

    (B, widths[source], h, w) -> (B, widths[target], h * z, w * z), z = 2^(source - target)
    """
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            *conv_bn(widths[source], widths[target], kernel=1, relu=False),
            nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
        )
    steps = target - source
    chain = [widths[source]] * steps + [widths[target]]
    return nn.Sequential(
        *(
            conv_bn(before, after, stride=2, relu=step < steps)
            for step, (before, after) in enumerate(zip(chain, chain[1:]), start=1)
        )
    )


class Exchange(nn.Module):
    """Residual blocks on every branch, then all branches add to each other (figures 1 and 3).

    [(B, widths[i], h / 2^i, w / 2^i) per branch] -> the first `outputs` of the same shapes
    """

    def __init__(self, widths: Sequence[int], blocks: int, outputs: int) -> None:
        super().__init__()
        branches = range(len(widths))
        self.branches = nn.ModuleList(
            nn.Sequential(*(basic_block(width) for _ in range(blocks))) for width in widths
        )
        self.routes = nn.ModuleList(
            nn.ModuleList(route(widths, source, target) for source in branches)
            for target in branches[:outputs]
        )

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs)]
        return [_meet(routes, xs) for routes in self.routes]


def _meet(routes: nn.Module, xs: list[Tensor]) -> Tensor:
    """All branches, each by its route, added up at one of them."""
    arrivals = (go(x) for go, x in zip(routes.children(), xs))  # one in memory at a time
    return F.relu(reduce(torch.add, arrivals), inplace=True)


class Stage(nn.Module):
    """Open one more branch than came in, then exchange `exchanges` times.

    arriving:  channels of the branches that come in
    widths:    channels of the branches inside, of which the first `outputs` leave
    """

    def __init__(
        self,
        arriving: Sequence[int],
        widths: Sequence[int],
        exchanges: int,
        blocks: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.entry = nn.ModuleList(_enter(before, after) for before, after in zip(arriving, widths))
        self.entry.append(conv_bn(arriving[-1], widths[len(arriving)], stride=2))
        leaving = [len(widths)] * (exchanges - 1) + [outputs]
        self.exchanges = Steps(*(Exchange(widths, blocks, count) for count in leaving))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        # The new branch grows out of the coarsest one.
        return self.exchanges([go(x) for go, x in zip(self.entry, [*xs, xs[-1]])])


def _enter(before: int, after: int) -> nn.Module:
    return nn.Identity() if before == after else conv_bn(before, after)


class HRNet(nn.Module):
    """Normalised images to one feature map at a quarter of their resolution.

    (B, 3, H, W), H and W multiples of 32 -> (B, width, H/4, W/4)

    width:        channels of the finest branch, C in the papers: 32, 40 or 48
    modules:      exchanges in stages 2, 3 and 4
    blocks:       residual blocks on each branch before an exchange
    stem:         channels of the stem; stage 1 widens them fourfold
    bottlenecks:  residual blocks of stage 1

    The defaults are the published network (section 3, "network instantiation").
    """

    def __init__(
        self,
        width: int = 32,
        modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        stem: int = 64,
        bottlenecks: int = 4,
    ) -> None:
        super().__init__()
        if len(modules) != 3:
            raise ValueError(f"modules is {modules}; give the exchanges of stages 2, 3 and 4")
        self.width = width
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Sequential(conv_bn(3, stem, stride=2), conv_bn(stem, stem, stride=2))
        self.stage1 = Steps(
            bottleneck(stem, stem), *(bottleneck(4 * stem, stem) for _ in range(bottlenecks - 1))
        )
        self.stage2 = Stage([4 * stem], widths[:2], modules[0], blocks, outputs=2)
        self.stage3 = Stage(widths[:2], widths[:3], modules[1], blocks, outputs=3)
        # Only the finest branch is read, so the last exchange computes no other.
        self.stage4 = Stage(widths[:3], widths, modules[2], blocks, outputs=1)

    def forward(self, images: Tensor) -> Tensor:
        xs = [self.stage1(self.stem(images))]
        for stage in (self.stage2, self.stage3, self.stage4):
            xs = stage(xs)
        return xs[0]
