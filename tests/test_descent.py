"""A step: the same however it is shared, none where a loss is no number, and an average behind."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradients import CPU, Replicas, gradients
from hrpose.engine.average import Average
from hrpose.engine.descent import Descent, Manner, Statistics
from hrpose.engine.distributed import World, replicated
from hrpose.engine.meter import Meter
from hrpose.engine.optim import OPTIMIZERS, grouped_parameters
from hrpose.engine.step import Numerics, TrainStep
from hrpose.structures import Terms

HERE = Path(__file__).parent

# The same gradient -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(scenes):
    return gradients(scenes)


def by_two_processes(scenes, path, mode):
    """mode: eval or train, and into how many passes a process divides its share"""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    asked = [sys.executable, *launch, str(HERE / "gradients.py"), str(scenes), str(path), mode]
    subprocess.run(asked, check=True, capture_output=True, cwd=HERE.parent, timeout=300)
    return torch.load(path)


def furthest(one, other):
    """The largest difference of two gradients, in lengths of the first."""
    assert one.keys() == other.keys()
    length = math.sqrt(sum(float((g**2).sum()) for g in one.values()))
    assert length > 1e-6
    return max(float((one[name] - other[name]).abs().max()) for name in one) / length


@pytest.mark.parametrize("passes, replicas", [(2, 1), (3, 1), (6, 1), (1, 2), (1, 3), (2, 3)])
def test_however_a_process_takes_its_batch_the_gradient_is_the_same(
    scenes, whole, passes, replicas, record_difference
):
    difference = furthest(whole, gradients(scenes, passes=passes, replicas=replicas))
    record_difference("gradient: passes, DataParallel (relative)", difference)
    assert difference < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval1", "eval2"])
def test_however_many_processes_share_a_batch_the_gradient_is_the_same(
    scenes, whole, mode, tmp_path, record_difference
):
    difference = furthest(whole, by_two_processes(scenes, tmp_path / "g.pth", mode))
    record_difference("gradient: DDP of two processes (relative)", difference)
    assert difference < 1e-10


@pytest.mark.slow
def test_two_processes_normalise_each_by_its_own_images(scenes, tmp_path):
    """Batch statistics are shared by nobody; the gradient is the mean of those of the shares."""
    shared = by_two_processes(scenes, tmp_path / "g.pth", "train1")
    parts = [gradients(scenes, training=True, part=World(rank, 2)) for rank in range(2)]
    expected = {name: (parts[0][name] + parts[1][name]) / 2 for name in shared}
    assert furthest(expected, shared) < 1e-10
    assert furthest(gradients(scenes, training=True), shared) > 1e-3


@pytest.mark.slow
def test_all_processes_evaluate_with_the_leader_s_running_statistics(scenes, tmp_path):
    seen = by_two_processes(scenes, tmp_path / "g.pth", "buffers")
    assert seen["before"] == [0.0, 1.0] and seen["after"] == [0.0, 0.0]


def test_a_gradient_is_shortened_to_the_length_asked_for(scenes, whole):
    length = math.sqrt(sum(float((g**2).sum()) for g in whole.values()))
    clipped = gradients(scenes, clip=length / 2)
    for name, gradient in clipped.items():
        torch.testing.assert_close(gradient, whole[name] / 2, rtol=1e-5, atol=1e-12)
    untouched = gradients(scenes, clip=2 * length)
    assert all(torch.equal(untouched[name], whole[name]) for name in whole)


# Steps that are not taken -------------------------------------------------------------------------


class Toy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))


def descent_of(manner, kind="adam", precision=torch.float32, spoil=None):
    """Steps of a toy; `spoil` multiplies the loss of every image."""
    torch.manual_seed(0)
    model = Toy()

    def loss(outputs, batch):
        near = (outputs.float() ** 2).flatten(1).mean(1)
        return Terms({"near": near * batch["spoil"]}, {"near": 1.0}, {})

    step = TrainStep(lambda images: images, model, loss, Numerics(precision)).train()
    optimizer = OPTIMIZERS[kind](grouped_parameters(model, 0.0), lr=0.1, momentum=0.9)
    return Descent(step, optimizer, manner, World(), CPU)


def batch_of(number, spoil=(1.0, 1.0, 1.0, 1.0)):
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(4, 3, 6, 6, generator=generator)
    return {"image": images, "index": torch.arange(10, 14), "spoil": torch.tensor(spoil)}


def snapshot(descent):
    model = {name: value.clone() for name, value in descent.step.model.state_dict().items()}
    states = [
        {name: torch.as_tensor(value).clone() for name, value in state.items()}
        for state in descent.optimizer.state.values()
    ]
    return model, states


def equal(one, other):
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other) for name in a)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("passes, clip", [(1, 0.0), (2, 1.0)])
def test_a_step_without_a_finite_loss_changes_nothing(kind, value, passes, clip):
    descent = descent_of(Manner(4, passes, clip), kind)
    descent.take(batch_of(0), 0.1, 0)
    (model, states) = snapshot(descent)
    _, verdict = descent.take(batch_of(1, (1.0, value, 1.0, value)), 0.1, 1)
    assert verdict.lost
    assert verdict.culprits.tolist() == [-1, 11, -1, 13]
    (after, states_after) = snapshot(descent)
    assert equal([model], [after]) and equal(states, states_after)
    _, verdict = descent.take(batch_of(2), 0.1, 2)
    assert not verdict.lost and verdict.culprits.tolist() == [-1] * 4
    assert not equal([model], [snapshot(descent)[0]])


def test_all_images_are_to_blame_for_a_gradient_that_overflows():
    """Every loss is finite, its derivative is not."""
    descent = descent_of(Manner(4))
    _, verdict = descent.take(batch_of(0, (1.0, 3e38, 1.0, 1.0)), 0.1, 0)
    assert verdict.lost
    assert 11 in verdict.culprits.tolist()


def test_half_precision_scales_less_after_an_overflow_and_blames_nobody():
    descent = descent_of(Manner(4), precision=torch.float16)
    for number in range(30):
        before = snapshot(descent)[0]
        scale = descent.scaler.get_scale()
        terms, verdict = descent.take(batch_of(number, [2e3] * 4), 0.1, number)
        if descent.scaler.get_scale() < scale:
            assert equal([before], [snapshot(descent)[0]])
        assert not verdict.lost and verdict.culprits.tolist() == [-1] * 4
        assert terms["loss"].isfinite().all()
    assert descent.scaler.get_scale() < 2**16
    assert not equal([before], [snapshot(descent)[0]])
    resumed = descent_of(Manner(4), precision=torch.float16)
    resumed.resume(descent.state())
    assert resumed.scaler.get_scale() == descent.scaler.get_scale()
    _, verdict = descent.take(batch_of(0, (math.nan, 1.0, 1.0, 1.0)), 0.1, 31)
    assert verdict.lost and verdict.culprits.tolist() == [10, -1, -1, -1]


def test_what_broke_off_is_undone_in_the_running_statistics():
    descent = descent_of(Manner(4))
    descent.take(batch_of(0), 0.1, 0)
    before = snapshot(descent)[0]

    def fail(terms):
        raise RuntimeError("out of memory")

    descent.step.loss, kept = (lambda *_: fail(None)), descent.step.loss
    with pytest.raises(RuntimeError):
        descent.take(batch_of(1), 0.1, 1)
    assert not equal([before], [snapshot(descent)[0]])
    descent.undo()
    assert equal([before], [snapshot(descent)[0]])
    descent.step.loss = kept
    descent.take(batch_of(1), 0.1, 1)
    descent.undo()  # nothing: the step was whole
    assert not equal([before], [snapshot(descent)[0]])


def test_what_broke_off_while_weights_changed_is_not_fit_to_be_kept():
    descent = descent_of(Manner(4))

    def fail():
        raise RuntimeError("out of memory")

    descent.optimizer.step = fail
    with pytest.raises(RuntimeError, match="memory"):
        descent.take(batch_of(0), 0.1, 0)
    with pytest.raises(RuntimeError, match="while weights were changing"):
        descent.undo()


def test_statistics_of_any_kind_come_back():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(5))
    statistics = Statistics(model)
    before = {name: value.clone() for name, value in model.named_buffers()}
    statistics.remember()
    model[0](torch.rand(2, 3, 4, 4)), model[1](torch.rand(2, 5, 4, 4))
    changed = {name: value.clone() for name, value in model.named_buffers()}
    statistics.return_where(torch.tensor(False))
    assert all(torch.equal(value, changed[name]) for name, value in model.named_buffers())
    statistics.return_where(torch.tensor(True))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_a_compiled_step_is_not_copied_to_several_gpus():
    step = TrainStep(lambda images: images, Toy(), None, Numerics(compiled=True))
    devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(ValueError, match="TRAIN.COMPILE.*torchrun"):
        replicated(step, World(), devices)


# Dice ---------------------------------------------------------------------------------------------


def test_dropout_of_a_step_follows_from_seed_and_step_alone():
    def after(*numbers, seed=0):
        descent = descent_of(Manner(4, seed=seed))
        descent.step.model.append(nn.Dropout(0.5))
        torch.manual_seed(len(numbers))
        for number in numbers:
            terms, _ = descent.take(batch_of(0), 0.0, number)
        return terms["loss"]

    assert torch.equal(after(0, 1, 2), after(2))
    assert not torch.equal(after(2), after(3))
    assert not torch.equal(after(2), after(2, seed=1))


# The device is asked for nothing ------------------------------------------------------------------


class NoQuestions(TorchDispatchMode):
    """Fails where a value would be brought from the device to the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a value was asked for"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_nothing_of_a_step_is_read_on_the_host(precision):
    descent = descent_of(Manner(4, passes=2, clip=1.0, ema=0.9), precision=precision)
    meter = Meter(World(), CPU[0])
    for number in range(3):
        with NoQuestions():
            meter.add(*descent.take(batch_of(number), 0.1, number))
    with pytest.raises(AssertionError, match="asked for"), NoQuestions():
        meter.read()


# The average --------------------------------------------------------------------------------------


def test_an_average_is_the_one_of_the_formula():
    descent, decay = descent_of(Manner(4, ema=0.9)), 0.9
    expected = None
    for number in range(20):
        descent.take(batch_of(number), 0.1, number)
        now = {name: value.double() for name, value in descent.step.model.state_dict().items()}
        if expected is None:
            expected = now
        kept = min(decay, (1 + number) / (10 + number))
        for name, value in now.items():
            counter = name.endswith("num_batches_tracked")
            if not counter:  # nothing reads them
                expected[name] = kept * expected[name] + (1 - kept) * value
    average = descent.average.network.state_dict()
    for name, value in expected.items():
        if value.ndim:
            torch.testing.assert_close(average[name].double(), value, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in descent.average.network.parameters())


def test_an_average_is_continued_bit_for_bit():
    whole = descent_of(Manner(4, ema=0.9))
    for number in range(4):
        whole.take(batch_of(number), 0.1, number)
    first = descent_of(Manner(4, ema=0.9))
    for number in range(2):
        first.take(batch_of(number), 0.1, number)
    second = descent_of(Manner(4, ema=0.9))
    second.step.model.load_state_dict(first.step.model.state_dict())
    second.resume(first.state())
    for number in range(2, 4):
        second.take(batch_of(number), 0.1, number)
    assert equal([whole.average.network.state_dict()], [second.average.network.state_dict()])


def test_the_average_begins_as_the_network():
    model = Toy()
    average = Average(model, 0.999)
    with torch.no_grad():
        model[0].weight.add_(1)
    average.follow(model, torch.tensor(False))
    assert torch.equal(average.network[0].weight, model[0].weight)


def test_the_average_does_not_follow_a_step_that_was_skipped():
    descent = descent_of(Manner(4, ema=0.9))
    for number in range(2):
        descent.take(batch_of(number), 0.1, number)
    before = {name: v.clone() for name, v in descent.average.network.state_dict().items()}
    descent.take(batch_of(2, [math.nan] * 4), 0.1, 2)
    assert equal([before], [descent.average.network.state_dict()])


def test_parts_of_a_batch_are_all_of_it():
    class Seen(Replicas):
        def forward(self, batch):
            seen.append(batch["index"].tolist())
            return super().forward(batch)

    seen = []
    descent = descent_of(Manner(4, passes=3))
    descent.replicas = Seen(descent.step, 1)
    terms, _ = descent.take(batch_of(0), 0.1, 0)
    assert seen == [[10, 11], [12], [13]]
    assert len(terms["loss"]) == 4
