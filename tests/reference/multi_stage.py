"""Multi-Stage HRNet by names of tensors: one network, stage, module and branch at a time.

Huang, Zhu, Huang, arXiv 1910.05901. Residual blocks, branches and fusions are written out anew.
"""

import torch
from torch.nn import functional as F

from reference.ram_gpr import looped_norm


def positive(x):
    """ReLU, with a slope of 0 at 0."""
    return x * (x > 0)


class Layers:
    """Layers by the names of their tensors in `state`."""

    def __init__(self, state, training):
        self.state, self.training = state, training

    def conv(self, name, x, stride=1, relu=True):
        """Convolution `name`.0 and norm `name`.1."""
        weight = self.state[f"{name}.0.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        x = looped_norm(x, self.state, f"{name}.1", self.training)
        return positive(x) if relu else x

    def block(self, name, x):
        """Residual block of as many convolutions as there are; the last has no ReLU."""
        depth = sum(f"{name}.body.{i}.0.weight" in self.state for i in range(3))
        y = x
        for i in range(depth):
            y = self.conv(f"{name}.body.{i}", y, relu=i < depth - 1)
        if f"{name}.shortcut.0.weight" in self.state:
            x = self.conv(f"{name}.shortcut", x, relu=False)
        return positive(x + y)

    def blocks(self, name, x):
        i = 0
        while f"{name}.{i}.body.0.0.weight" in self.state:
            x = self.block(f"{name}.{i}", x)
            i += 1
        return x

    def fusion(self, name, xs):
        """Every branch by itself, then every target that has tensors: the sum of all branches."""
        xs = [self.blocks(f"{name}.branches.{i}", x) for i, x in enumerate(xs)]
        fused, target = [], 0
        while any(each.startswith(f"{name}.routes.{target}.") for each in self.state):
            total = xs[target]
            for source, x in enumerate(xs):
                route = f"{name}.routes.{target}.{source}"
                if source > target:
                    x = self.conv(route, x, relu=False)
                    for axis in (2, 3):
                        x = x.repeat_interleave(2 ** (source - target), axis)
                    total = total + x
                for step in range(target - source):
                    x = self.conv(f"{route}.{step}", x, 2, relu=step < target - source - 1)
                if source < target:
                    total = total + x
            fused.append(positive(total))
            target += 1
        return fused

    def matched(self, name, x):
        """A 1x1 convolution where there is one."""
        return self.conv(name, x, relu=False) if f"{name}.0.weight" in self.state else x


def looped_cascade(images, state, counts, transitions, links=True, training=True):
    """The maps of every head.

    state: tensors by name   counts: of every network, its modules in stages 2, 3 and 4
    transitions: those that later networks have of their own
    """
    layers = Layers(state, training)
    x = layers.conv("backbone.stem.1", layers.conv("backbone.stem.0", images, 2), 2)
    feature = layers.blocks("backbone.stage1", x)
    outputs, before = [], {}
    for n, modules in enumerate(counts):
        place, own = (f"later.{n - 1}", transitions) if n else ("backbone", (1, 2, 3))
        latest = {i: x for key in sorted(before) for i, x in enumerate(before[key])}
        latest = {i: layers.matched(f"{place}.boundary.{i}", x) for i, x in latest.items()}
        xs, units = [], {}
        for stage in (2, 3, 4):
            entry = f"{place}.stage{stage}.entry"
            if stage == 2:
                xs = [latest.get(0), latest.get(1)]
                if 1 in own:
                    xs = [layers.conv(f"{entry}.{i}", feature, stride=1 + i) for i in range(2)]
            elif stage - 1 in own:
                xs = [*xs, layers.conv(f"{entry}.{stage - 1}", xs[-1], stride=2)]
            else:
                xs = [*xs, latest[stage - 1]]
            for m in range(modules[stage - 2]):
                for i, x in enumerate(before.get((stage, m), []) if links else []):
                    xs[i] = xs[i] + layers.matched(f"{place}.links.{stage - 2}.{m}.{i}", x)
                xs = layers.fusion(f"{place}.stage{stage}.exchanges.{m}", xs)
                units[stage, m] = list(xs)
        outputs.append(
            torch.einsum("bchw,kc->bkhw", xs[0], state[f"heads.{n}.weight"][..., 0, 0])
            + state[f"heads.{n}.bias"][:, None, None]
        )
        before = units
    return outputs
