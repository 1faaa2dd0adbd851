"""The optimizer step: equal however a batch is split; skipped if not finite; moving average."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import warm_start
from commands import TORCHRUN
from gradients import CPU, Replicas, gradients
from hrpose.builders.training import build_optimizer_step
from hrpose.config import load_config
from hrpose.engine.distributed import DistInfo
from hrpose.engine.ema import EMA, BufferSnapshot
from hrpose.engine.logger import MetricLogger
from hrpose.engine.optim import OPTIMIZERS, parameter_groups
from hrpose.engine.step import OptimizerStep, PrecisionConfig, StepConfig, TrainStep
from hrpose.structures import LossOutput

HERE = Path(__file__).parent

# The same gradient ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(scenes):
    return gradients(scenes)


@pytest.fixture(scope="module")
def by_two_processes(scenes, tmp_path_factory):
    """mode -> gradient; mode: eval or train, and into how many passes a process divides its share.

    "buffers" -> the running means of both processes.
    """
    path = tmp_path_factory.mktemp("two") / "found.pth"
    command = [*TORCHRUN, HERE / "gradients.py", scenes, path, "eval1", "eval2", "train1"]
    process = warm_start.start(*command, cwd=HERE.parent)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
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
    whole, by_two_processes, mode, record_difference
):
    difference = furthest(whole, by_two_processes[mode])
    record_difference("gradient: DDP of two processes (relative)", difference)
    assert difference < 1e-10


@pytest.mark.slow
def test_each_of_two_processes_normalises_by_its_own_images(scenes, by_two_processes):
    """Batch statistics are not shared; the gradient is the mean of those of the shares."""
    shared = by_two_processes["train1"]
    parts = [gradients(scenes, training=True, part=DistInfo(rank, 2)) for rank in range(2)]
    expected = {name: (parts[0][name] + parts[1][name]) / 2 for name in shared}
    assert furthest(expected, shared) < 1e-10
    assert furthest(gradients(scenes, training=True), shared) > 1e-3


@pytest.mark.slow
def test_all_processes_evaluate_with_the_main_ones_running_statistics(by_two_processes):
    seen = by_two_processes["buffers"]
    assert seen["before"] == [0.0, 1.0] and seen["after"] == [0.0, 0.0]


def test_a_gradient_is_clipped_to_its_maximum_norm(scenes, whole):
    length = math.sqrt(sum(float((g**2).sum()) for g in whole.values()))
    clipped = gradients(scenes, clip=length / 2)
    for name, gradient in clipped.items():
        torch.testing.assert_close(gradient, whole[name] / 2, rtol=1e-5, atol=1e-12)
    untouched = gradients(scenes, clip=2 * length)
    assert all(torch.equal(untouched[name], whole[name]) for name in whole)


# Steps that are skipped -------------------------------------------------------------------------


class Toy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))


def make_stepper(config, kind="adam", precision=torch.float32, spoil=None):
    """Steps of a toy; `spoil` multiplies the loss of every image."""
    torch.manual_seed(0)
    model = Toy()

    def loss(outputs, batch):
        near = (outputs.float() ** 2).flatten(1).mean(1)
        return LossOutput({"near": near * batch["spoil"]}, {"near": 1.0}, {})

    step = TrainStep(lambda images: images, model, loss, PrecisionConfig(precision)).train()
    optimizer = OPTIMIZERS[kind](parameter_groups(model, 0.0), lr=0.1)
    return OptimizerStep(step, optimizer, config, DistInfo(), CPU)


def batch_of(number, spoil=(1.0, 1.0, 1.0, 1.0)):
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(4, 3, 6, 6, generator=generator)
    return {"image": images, "index": torch.arange(10, 14), "spoil": torch.tensor(spoil)}


def snapshot(stepper):
    model = {name: value.clone() for name, value in stepper.train_step.model.state_dict().items()}
    states = [
        {name: torch.as_tensor(value).clone() for name, value in state.items()}
        for state in stepper.optimizer.state.values()
    ]
    return model, states


def equal(one, other):
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other) for name in a)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("passes, clip", [(1, 0.0), (2, 1.0)])
def test_a_step_without_a_finite_loss_changes_nothing(kind, value, passes, clip):
    stepper = make_stepper(StepConfig(4, passes, clip), kind)
    stepper.step(batch_of(0), 0.1, 0)
    (model, states) = snapshot(stepper)
    _, status = stepper.step(batch_of(1, (1.0, value, 1.0, value)), 0.1, 1)
    assert status.skipped
    assert status.bad_images.tolist() == [-1, 11, -1, 13]
    (after, states_after) = snapshot(stepper)
    assert equal([model], [after]) and equal(states, states_after)
    _, status = stepper.step(batch_of(2), 0.1, 2)
    assert not status.skipped and status.bad_images.tolist() == [-1] * 4
    assert not equal([model], [snapshot(stepper)[0]])


def test_all_images_are_bad_where_only_the_gradient_overflows():
    """Every loss is finite, its derivative is not."""
    stepper = make_stepper(StepConfig(4))
    _, status = stepper.step(batch_of(0, (1.0, 3e38, 1.0, 1.0)), 0.1, 0)
    assert status.skipped
    assert 11 in status.bad_images.tolist()


def test_an_fp16_overflow_lowers_the_loss_scale_and_names_no_image():
    stepper = make_stepper(StepConfig(4), precision=torch.float16)
    for number in range(30):
        before = snapshot(stepper)[0]
        scale = stepper.scaler.get_scale()
        terms, status = stepper.step(batch_of(number, [2e3] * 4), 0.1, number)
        if stepper.scaler.get_scale() < scale:
            assert equal([before], [snapshot(stepper)[0]])
        assert not status.skipped and status.bad_images.tolist() == [-1] * 4
        assert terms["loss"].isfinite().all()
    assert stepper.scaler.get_scale() < 2**16
    assert not equal([before], [snapshot(stepper)[0]])
    resumed = make_stepper(StepConfig(4), precision=torch.float16)
    resumed.load_state_dict(stepper.state_dict())
    assert resumed.scaler.get_scale() == stepper.scaler.get_scale()
    _, status = stepper.step(batch_of(0, (math.nan, 1.0, 1.0, 1.0)), 0.1, 31)
    assert status.skipped and status.bad_images.tolist() == [10, -1, -1, -1]


def test_an_interrupted_step_is_rolled_back_in_the_running_statistics():
    stepper = make_stepper(StepConfig(4))
    stepper.step(batch_of(0), 0.1, 0)
    before = snapshot(stepper)[0]

    def fail(terms):
        raise RuntimeError("out of memory")

    stepper.train_step.loss, kept = (lambda *_: fail(None)), stepper.train_step.loss
    with pytest.raises(RuntimeError):
        stepper.step(batch_of(1), 0.1, 1)
    assert not equal([before], [snapshot(stepper)[0]])
    stepper.rollback()
    assert equal([before], [snapshot(stepper)[0]])
    stepper.train_step.loss = kept
    stepper.step(batch_of(1), 0.1, 1)
    stepper.rollback()  # nothing: the step was whole
    assert not equal([before], [snapshot(stepper)[0]])


def test_a_step_interrupted_while_weights_change_cannot_be_rolled_back():
    stepper = make_stepper(StepConfig(4))

    def fail():
        raise RuntimeError("out of memory")

    stepper.optimizer.step = fail
    with pytest.raises(RuntimeError, match="memory"):
        stepper.step(batch_of(0), 0.1, 0)
    with pytest.raises(RuntimeError, match="while weights were changing"):
        stepper.rollback()


def test_buffers_of_every_dtype_are_restored():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(5))
    buffers = BufferSnapshot(model)
    before = {name: value.clone() for name, value in model.named_buffers()}
    buffers.save()
    model[0](torch.rand(2, 3, 4, 4)), model[1](torch.rand(2, 5, 4, 4))
    changed = {name: value.clone() for name, value in model.named_buffers()}
    buffers.restore_where(torch.tensor(False))
    assert all(torch.equal(value, changed[name]) for name, value in model.named_buffers())
    buffers.restore_where(torch.tensor(True))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


GPUS = [torch.device("cuda", 0), torch.device("cuda", 1)]


@pytest.mark.parametrize(
    ("options", "devices", "processes", "cure"),
    [
        ("TRAIN.COMPILE true", GPUS, 1, "TRAIN.COMPILE.*torchrun"),
        ("TRAIN.COMPILE true TRAIN.SYNC_BN true", GPUS[:1], 2, "TRAIN.COMPILE.*TRAIN.SYNC_BN"),
        ("TRAIN.COMPILE true", CPU, 1, "TRAIN.COMPILE needs a compiler.*no_such.*COMPILE false"),
        ("TRAIN.COMPILE true", GPUS[:1], 1, "TRAIN.COMPILE needs .*COMPILE false"),
        ("LOSS.TERMS [tags]", CPU, 2, "LOSS.TERMS .'tags'.*add heatmap"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_cure(
    options, devices, processes, cure, monkeypatch
):
    monkeypatch.setenv("CXX", "no_such_compiler")
    monkeypatch.setenv("CC", "no_such_compiler")
    config = load_config("configs/w32_512.yaml", options.split())
    with pytest.raises(ValueError, match=cure):
        build_optimizer_step(config, Toy(), 4, devices, DistInfo(0, processes))


# Random numbers ---------------------------------------------------------------------------------


def test_dropout_of_a_step_follows_from_seed_and_step_alone():
    def after(*numbers, seed=0):
        stepper = make_stepper(StepConfig(4, seed=seed))
        stepper.train_step.model.append(nn.Dropout(0.5))
        torch.manual_seed(len(numbers))
        for number in numbers:
            terms, _ = stepper.step(batch_of(0), 0.0, number)
        return terms["loss"]

    assert torch.equal(after(0, 1, 2), after(2))
    assert not torch.equal(after(2), after(3))
    assert not torch.equal(after(2), after(2, seed=1))


# No host sync -----------------------------------------------------------------------------------


class NoHostSync(TorchDispatchMode):
    """Fails where a value would be brought from the device to the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "host sync"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_nothing_of_a_step_is_read_on_the_host(precision):
    stepper = make_stepper(
        StepConfig(4, accumulation=2, clip_norm=1.0, ema_decay=0.9), precision=precision
    )
    meter = MetricLogger(DistInfo(), CPU[0])
    for number in range(3):
        with NoHostSync():
            meter.update(*stepper.step(batch_of(number), 0.1, number))
    with pytest.raises(AssertionError, match="host sync"), NoHostSync():
        meter.flush()


# The average ------------------------------------------------------------------------------------


def test_an_average_is_the_one_of_the_formula():
    stepper, decay = make_stepper(StepConfig(4, ema_decay=0.9)), 0.9
    expected = None
    for number in range(20):
        stepper.step(batch_of(number), 0.1, number)
        now = {
            name: value.double() for name, value in stepper.train_step.model.state_dict().items()
        }
        if expected is None:
            expected = now
        kept = min(decay, (1 + number) / (10 + number))
        for name, value in now.items():
            counter = name.endswith("num_batches_tracked")
            if not counter:  # nothing reads them
                expected[name] = kept * expected[name] + (1 - kept) * value
    average = stepper.ema.model.state_dict()
    for name, value in expected.items():
        if value.ndim:
            torch.testing.assert_close(average[name].double(), value, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in stepper.ema.model.parameters())


def test_an_average_is_continued_bit_for_bit():
    whole = make_stepper(StepConfig(4, ema_decay=0.9))
    for number in range(4):
        whole.step(batch_of(number), 0.1, number)
    first = make_stepper(StepConfig(4, ema_decay=0.9))
    for number in range(2):
        first.step(batch_of(number), 0.1, number)
    second = make_stepper(StepConfig(4, ema_decay=0.9))
    second.train_step.model.load_state_dict(first.train_step.model.state_dict())
    second.load_state_dict(first.state_dict())
    for number in range(2, 4):
        second.step(batch_of(number), 0.1, number)
    assert equal([whole.ema.model.state_dict()], [second.ema.model.state_dict()])


def test_the_average_begins_as_the_network():
    model = Toy()
    average = EMA(model, 0.999)
    with torch.no_grad():
        model[0].weight.add_(1)
    average.update(model, torch.tensor(False))
    assert torch.equal(average.model[0].weight, model[0].weight)


def test_the_average_ignores_a_skipped_step():
    stepper = make_stepper(StepConfig(4, ema_decay=0.9))
    for number in range(2):
        stepper.step(batch_of(number), 0.1, number)
    before = {name: v.clone() for name, v in stepper.ema.model.state_dict().items()}
    stepper.step(batch_of(2, [math.nan] * 4), 0.1, 2)
    assert equal([before], [stepper.ema.model.state_dict()])


def test_micro_batches_are_all_of_the_batch():
    class Seen(Replicas):
        def forward(self, batch):
            seen.append(batch["index"].tolist())
            return super().forward(batch)

    seen = []
    stepper = make_stepper(StepConfig(4, accumulation=3))
    stepper.parallel = Seen(stepper.train_step, 1)
    terms, _ = stepper.step(batch_of(0), 0.1, 0)
    assert seen == [[10, 11], [12], [13]]
    assert len(terms["loss"]) == 4
