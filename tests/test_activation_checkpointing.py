"""Activations that are forgotten and computed again: the same learning in less memory."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hrpose.models.blocks import (
    CheckpointedSequential,
    basic_block,
    enable_activation_checkpointing,
    kaiming_init,
)
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet


def small():
    torch.manual_seed(0)
    backbone = HRNet(width=8, modules=(1, 2, 1), blocks=1, stem=8, bottlenecks=2)
    model = HigherHRNet(backbone, 5, num_deconvs=2, dilations=(1, 2))
    kaiming_init(model)
    return model


def forgetful(model):
    model = copy.deepcopy(model)
    enable_activation_checkpointing(model)
    return model


def learn(model, precision=torch.float32, call=None):
    """Two steps; the network's last outputs, and the gradients of the second step."""
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        model.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            outputs = (call or model.forward)(images)
        maps = [
            part
            for output in outputs
            for part in (output.heatmaps, output.tags)
            if part is not None
        ]
        sum(part.float().square().mean() for part in maps).backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.1 * weight.grad
    return maps, [weight.grad for weight in model.parameters()]


def assert_same_learning(plain, other, **options):
    outputs, gradients = learn(plain, **options)
    for results, wanted in zip(learn(other, **options), (outputs, gradients)):
        assert all(torch.equal(a, b) for a, b in zip(results, wanted))
    state, wanted = other.state_dict(), plain.state_dict()
    assert list(state) == list(wanted)
    assert [name for name in wanted if not torch.equal(state[name], wanted[name])] == []
    assert wanted["backbone.stage1.0.body.0.1.num_batches_tracked"] == 2
    assert max(gradient.abs().max() for gradient in gradients) > 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("convert", [
    lambda model: model, nn.SyncBatchNorm.convert_sync_batchnorm,
], ids=["BatchNorm2d", "SyncBatchNorm"])  # fmt: skip
def test_slopes_and_running_statistics_are_the_same_bit_for_bit(convert, precision):
    plain = convert(small())
    assert_same_learning(plain, forgetful(plain), precision=precision)


def test_a_copy_forgets_too_and_shares_nothing():
    """As the average of weights is one, and the replica of a device."""
    plain, model = small(), forgetful(small())
    learn(model)
    other = forgetful(plain)
    twin = copy.deepcopy(other)
    before = copy.deepcopy(twin.state_dict())
    assert_same_learning(plain, other)
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())
    assert_same_learning(small(), twin)
    steps = [layer for layer in twin.modules() if isinstance(layer, CheckpointedSequential)]
    assert all(layer._replicate_for_data_parallel().recompute for layer in steps)
    assert len(steps) == 1 + 3 + 2  # stage 1; the exchanges of stages 2 to 4; two deconvolutions


def blocks(count=2):
    return CheckpointedSequential(*(basic_block(4) for _ in range(count)))


class Live(TorchDispatchMode):
    """The most bytes that are in use at a time."""

    def __init__(self):
        super().__init__()
        self.sizes, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in tree_leaves(out):
            if isinstance(part, torch.Tensor):
                storage = part.untyped_storage()
                self.sizes[StorageWeakRef(storage)] = storage.nbytes()
        self.sizes = {ref: size for ref, size in self.sizes.items() if not ref.expired()}
        self.most = max(self.most, sum(self.sizes.values()))
        return out


def most_in_use(steps):
    with Live() as live:
        steps(torch.randn(2, 4, 64, 64)).sum().backward()
    return live.most


def test_it_takes_less_memory():
    """What eight blocks were given and the inside of one, instead of the inside of eight."""
    plain = blocks(8)
    assert most_in_use(forgetful(plain)) < 0.5 * most_in_use(plain)


def calls(steps, context=nullcontext):
    """How often each step runs, forwards and backwards."""
    counts = [0] * len(steps)

    def count(i):
        counts[i] += 1

    for i, step in enumerate(steps):
        step.register_forward_pre_hook(lambda module, args, i=i: count(i))
    with context():
        out = steps(torch.randn(1, 4, 8, 8, requires_grad=True)).sum()
    if out.requires_grad:
        out.backward()
    return counts


def test_only_learning_forgets():
    assert calls(blocks()) == [1, 1]
    assert calls(forgetful(blocks())) == [2, 2]
    assert calls(forgetful(blocks()).eval()) == [1, 1]
    assert calls(forgetful(blocks()), torch.no_grad) == [1, 1]


def test_a_pass_that_fails_leaves_the_running_statistics_in_their_place():
    steps = forgetful(blocks())
    kept = dict(steps.named_buffers())
    out = steps(torch.randn(1, 4, 8, 8)).sum()

    def fail(module, args):
        raise RuntimeError("no memory")

    steps[0].body[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        out.backward()
    assert all(buffer is kept[name] for name, buffer in steps.named_buffers())


@pytest.mark.slow
def test_a_compiled_network_forgets_too():
    plain = blocks()
    kaiming_init(plain)
    model = forgetful(plain)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    plain(x).square().sum().backward()
    torch.compile(model, backend="aot_eager")(x).square().sum().backward()
    for weight, wanted in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(weight.grad, wanted.grad)
    for buffer, wanted in zip(model.buffers(), plain.buffers()):
        torch.testing.assert_close(buffer, wanted)
