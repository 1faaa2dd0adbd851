"""The training loop on a toy: it learns, and resumes exactly wherever it is interrupted."""

import errno
import json
import math
import os
import signal
from itertools import count

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hrpose.data.loaders import ResumableBatchSampler
from hrpose.engine.checkpoint import load_checkpoint, load_latest
from hrpose.engine.distributed import DistInfo
from hrpose.engine.evaluate import evaluate, predict_sequentially
from hrpose.engine.logger import Logger
from hrpose.engine.optim import multistep
from hrpose.engine.run_dir import open_run_dir
from hrpose.engine.state import TrainState
from hrpose.engine.step import OptimizerStep, StepConfig, TrainStep
from hrpose.engine.trainer import Callbacks, TrainConfig, Trainer
from hrpose.structures import LossOutput

IMAGES, BATCH, EPOCHS = 14, 4, 3
STEPS = IMAGES // BATCH  # of an epoch; two images are left out
APS = (0.2, 0.6, 0.4)


class Strike:
    """Strikes at the n-th time that something of one kind happens, once."""

    def __init__(self, kind="", number=0, blow=lambda: None):
        self.kind, self.number, self.blow = kind, number, blow
        self.seen = count(1)

    def __call__(self, kind):
        if kind == self.kind and next(self.seen) == self.number:
            self.blow()


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


NEVER = Strike()


class Noise(Dataset):
    """Images that follow from (epoch, index), as ours do."""

    def __init__(self, happens):
        self.happens = happens

    def __len__(self):
        return IMAGES

    def __getitem__(self, key):
        self.happens("item")
        generator = torch.Generator().manual_seed(1000 * key[0] + key[1])
        return key[1], torch.rand(3, 6, 6, generator=generator)


def collate(items):
    indices, images = zip(*items)
    return {"image": torch.stack(images), "index": torch.tensor(indices)}


class Toy(nn.Module):
    """With a norm, whose running mean must survive an interruption too."""

    def __init__(self, happens):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)
        )
        self.happens = happens
        self.modes = []

    def forward(self, images):
        self.modes.append((self.training, len(images), torch.is_inference_mode_enabled()))
        if self.training:
            self.happens("step")
        return self.layers(images)


def toy_loss(outputs, batch):
    away = (outputs - batch["image"].mean(1, keepdim=True)[..., 1:-1, 1:-1]) ** 2
    terms = {"near": away.flatten(1).mean(1), "far": outputs.flatten(1).abs().mean(1)}
    return LossOutput(
        terms, {"near": 1.0, "far": 0.25}, {"size": outputs.detach().flatten(1).sum(1)}
    )


CPU = [torch.device("cpu")]


class Start:
    """One start of a run in `folder`; the next start resumes it."""

    def __init__(self, folder, strike=NEVER, loss=toy_loss, aps=APS, **options):
        self.drawn, self.evaluated, self.aps, self.warnings = [], [], aps, []
        self.strike = strike
        torch.manual_seed(0)
        model = Toy(strike)
        batches = ResumableBatchSampler(IMAGES, BATCH, seed=1)
        loader = DataLoader(Noise(strike), batch_sampler=batches, collate_fn=collate)
        run_dir = open_run_dir(folder, "config", "auto")
        checkpoint = None
        if run_dir.resumed:
            _, checkpoint = load_latest(run_dir.checkpoints, "last", self.warnings.append)
        train_step = TrainStep(lambda images: images * 2, model, loss)
        optimizer = torch.optim.Adam(model.parameters(), lr=1.0, fused=True)
        self.state = TrainState(
            optimizer_step=OptimizerStep(train_step, optimizer, StepConfig(BATCH), DistInfo(), CPU),
            loader=loader,
            logger=Logger(run_dir.folder, *(checkpoint["journal"] if checkpoint else ())),
            run_dir=run_dir,
            metadata={"config": "config", "joints": ["nose"]},
        )
        if checkpoint:
            self.state.load_state_dict(checkpoint)
        usual = {"log_every": 2, "validate_every": 1, "visualize_every": 2}
        schedule = lambda epoch: multistep(epoch, (1.5,), 0.5)  # noqa: E731
        self.config = TrainConfig(EPOCHS, 0.01, schedule, **{**usual, **options})

    primary = "AP"

    def validate(self, model, name):
        self.strike("validate")
        model.eval()
        epoch = self.state.progress.epoch
        self.evaluated.append(epoch)
        return {"AP": self.aps[epoch], "AR": 0.5}

    def visualize(self, batch, outputs):
        self.strike("draw")
        self.drawn.append((self.state.progress.epoch, batch["index"].tolist(), outputs.shape))

    def run(self):
        try:
            image_name = lambda index: f"{index}.jpg"  # noqa: E731
            callbacks = Callbacks(self.validate, self.primary, self.visualize, image_name)
            return Trainer(self.state, self.config, callbacks).train()
        finally:
            self.state.run_dir.lock.close()
            self.state.logger.close()

    @property
    def last(self):
        """All but the size of the log, in which there are times."""
        checkpoint = load_checkpoint(self.state.run_dir.last)
        return {key: value for key, value in checkpoint.items() if key != "journal"}

    @property
    def best(self):
        return load_checkpoint(self.state.run_dir.best)

    @property
    def lines(self):
        text = (self.state.run_dir.folder / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def losses(start):
    """The logged metrics, without those that depend on the clock."""
    timed = ("images/s", "data_wait", "memory", "eta")
    return [{k: v for k, v in line.items() if k not in timed} for line in start.lines]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from its beginning to its end."""
    start = Start(tmp_path_factory.mktemp("whole"))
    start.metrics = start.run()
    return start


# The loop ---------------------------------------------------------------------------------------


def test_it_trains_all_epochs(whole):
    assert whole.last["progress"] == {
        "epoch": EPOCHS, "batch": 0, "step": EPOCHS * STEPS, "lost": 0, "best": 0.6,
        "figures": {"val": {"AP": 0.4, "AR": 0.5}},
    }  # fmt: skip
    assert whole.evaluated == [0, 1, 2]
    assert whole.metrics == {"val": {"AP": 0.4, "AR": 0.5}}
    assert whole.last["config"] == whole.best["config"] == "config"
    assert whole.last["joints"] == ["nose"]


def test_the_names_in_a_checkpoint_are_those_of_older_ones(whole):
    checkpoint = load_checkpoint(whole.state.run_dir.last)
    assert checkpoint.keys() == {
        "model", "optimizer", "scaler", "progress", "meter", "journal", "config", "joints",
    }  # fmt: skip
    assert checkpoint["meter"].keys() == {"sums", "counts", "steps", "lost", "culprits"}
    assert whole.best.keys() == {"model", "network", "figures", "config", "joints"}


def test_it_trains_in_training_mode_and_visualizes_in_evaluation_mode(whole):
    modes = whole.state.model.modes
    trained = [mode for mode in modes if mode[0]]
    assert trained == [(True, BATCH, False)] * (EPOCHS * STEPS)
    assert [mode for mode in modes if not mode[0]] == [(False, BATCH, True)] * 2


def test_it_visualizes_the_first_batch_of_every_second_epoch(whole):
    assert [epoch for epoch, *_ in whole.drawn] == [0, 2]
    for epoch, indices, shape in whole.drawn:
        batches = ResumableBatchSampler(IMAGES, BATCH, seed=1)
        batches.enter(epoch)
        assert [(epoch, index) for index in indices] == next(iter(batches))
        assert shape == (BATCH, 1, 4, 4)


def test_the_loss_falls(whole):
    losses = [line["loss"] for line in whole.lines if "loss" in line]
    assert losses[-1] < 0.85 * losses[0]


def test_the_log_has_every_second_step_and_the_end_of_every_epoch(whole):
    trained = [line for line in whole.lines if "loss" in line]
    assert [line["step"] for line in trained] == [2, 3, 4, 6, 8, 9]
    assert [line["epoch"] for line in trained] == pytest.approx([2 / 3, 1, 4 / 3, 2, 8 / 3, 3])
    # Step 5, in the middle of the second epoch, is the first after 1.5 epochs.
    assert [line["lr"] for line in trained] == [0.01, 0.01, 0.01, 0.005, 0.005, 0.005]
    for line in trained:
        assert {"near", "far", "size", "images/s", "data_wait"} < line.keys()
        assert line["loss"] == pytest.approx(line["near"] + 0.25 * line["far"], rel=1e-5)
    figures = [(line["step"], line["val/AP"]) for line in whole.lines if "val/AP" in line]
    assert figures == list(zip((3, 6, 9), APS))


def test_the_rate_warms_up_by_the_steps_of_the_run_whatever_interrupts_it(tmp_path):
    """From a tenth in four steps, on the schedule, which halves it after one and a half epochs."""
    options = {"log_every": 1, "warmup_steps": 4, "warmup_factor": 0.1}
    undisturbed = Start(tmp_path / "undisturbed", **options)
    undisturbed.run()
    with pytest.raises(KeyboardInterrupt):
        Start(tmp_path / "resumed", Strike("step", 3, press_ctrl_c), **options).run()
    resumed = Start(tmp_path / "resumed", **options)
    resumed.run()
    rates = [line["lr"] for line in resumed.lines if "loss" in line]
    assert rates == pytest.approx([0.001, 0.00325, 0.0055, 0.00775, 0.01, *[0.005] * 4])
    assert losses(resumed) == losses(undisturbed) and same(resumed.last, undisturbed.last)


def test_a_run_equals_the_same_steps_by_hand(whole):
    """Adam on the mean of the weighted sum, the rate set before every step."""
    torch.manual_seed(0)
    model = Toy(Strike())
    optimizer = torch.optim.Adam(model.parameters())
    batches, dataset = ResumableBatchSampler(IMAGES, BATCH, seed=1), Noise(Strike())
    for epoch in range(EPOCHS):
        batches.enter(epoch)
        for i, keys in enumerate(batches):
            batch = collate([dataset[key] for key in keys])
            terms = toy_loss(model(batch["image"] * 2), batch).losses
            optimizer.param_groups[0]["lr"] = 0.01 if epoch + i / STEPS < 1.5 else 0.005
            optimizer.zero_grad()
            (terms["near"] + 0.25 * terms["far"]).mean().backward()
            optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(value.float(), whole.last["model"][name].float(), atol=1e-4), name


def test_a_step_gives_every_term_of_every_image():
    step = TrainStep(lambda images: images * 2, Toy(Strike()), toy_loss)
    batch = collate([Noise(Strike())[0, i] for i in range(3)])
    terms = step(batch)
    assert set(terms) == {"loss", "near", "far", "size"}
    assert all(value.shape == (3,) for value in terms.values())
    assert torch.allclose(terms["loss"], terms["near"] + 0.25 * terms["far"])


@pytest.mark.parametrize(
    "every, expected", [(1, [0, 1, 2]), (2, [1, 2]), (3, [2]), (10, [2]), (0, [2])]
)
def test_the_last_epoch_is_always_evaluated(tmp_path, every, expected):
    start = Start(tmp_path, validate_every=every, visualize_every=0)
    assert start.run()["val"]["AP"] == APS[2]
    assert start.evaluated == expected
    assert start.drawn == []


# The best ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "aps, best", [((0.2, 0.6, 0.4), 1), ((0.6, 0.6, 0.4), 0), ((0, 0.1, 0.3), 2)]
)
def test_the_best_is_the_best_by_ap_and_the_first_of_equals(tmp_path, aps, best):
    start = Start(tmp_path, aps=aps)
    models = []
    validate = start.validate

    def remember(network, name):
        models.append({k: v.clone() for k, v in start.state.model.state_dict().items()})
        return validate(network, name)

    start.validate = remember
    start.run()
    assert start.best["figures"]["AP"] == aps[best]
    assert same(start.best["model"], models[best])
    assert not same(models[0], models[1])
    assert start.last["progress"]["best"] == max(aps)


def test_the_best_is_by_the_primary_metric_whatever_its_name(tmp_path):
    class Pck(Start):
        primary = "PCK"

        def validate(self, model, name):
            return {"AP": 1 - super().validate(model, name)["AP"], "PCK": APS[self.evaluated[-1]]}

    start = Pck(tmp_path)
    start.run()
    assert start.best["figures"] == {"AP": 0.4, "PCK": 0.6}
    assert start.last["progress"]["best"] == 0.6


# Interruptions ----------------------------------------------------------------------------------


def interrupt():
    raise KeyboardInterrupt


ANY_STEP = [("step", n, press_ctrl_c) for n in range(1, EPOCHS * STEPS + 1)]
ELSEWHERE = [
    *(("item", n, interrupt) for n in (1, 2, 5, 13, 30, 44)),  # pictures read items too
    *(("validate", n, interrupt) for n in (1, 2, 3)),
    *(("draw", n, interrupt) for n in (1, 2)),
]


@pytest.mark.parametrize("kind, number, blow", ANY_STEP + ELSEWHERE)
def test_interrupted_anywhere_and_continued_it_is_as_if_nothing_had_been(
    tmp_path, whole, kind, number, blow
):
    interrupted = Start(tmp_path, Strike(kind, number, blow))
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    folder = interrupted.state.run_dir.folder
    assert "stopped" in (folder / "log.txt").read_text()
    continued = Start(tmp_path)
    assert continued.state.run_dir.resumed
    assert continued.state.run_dir.folder == folder
    if kind == "step":
        assert continued.state.progress.step == number  # the step was finished, and no more
    continued.run()
    assert same(continued.last, whole.last)
    assert same(continued.best, whole.best)
    assert losses(continued) == losses(whole)


def test_interrupted_many_times(tmp_path, whole):
    for _ in range(EPOCHS * STEPS):
        with pytest.raises(KeyboardInterrupt):
            Start(tmp_path, Strike("step", 1, press_ctrl_c)).run()
    final = Start(tmp_path)
    final.run()
    assert same(final.last, whole.last)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", range(1, 9))
def test_interrupted_while_saving(tmp_path, whole, monkeypatch, number):
    """The n-th file is begun and not finished; the one that saves the interruption is."""
    save, times = torch.save, count(1)

    def interrupted_save(state, file):
        if next(times) == number:
            file.write(b"half")
            raise KeyboardInterrupt
        save(state, file)

    start = Start(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted_save)
        with pytest.raises(KeyboardInterrupt):
            start.run()
    Start(tmp_path).run()
    assert same(start.last, whole.last)
    assert start.state.run_dir.best.is_file()
    assert same(start.best, whole.best)


def test_killed_without_warning_it_goes_on_from_the_last_epoch(tmp_path, whole, monkeypatch):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    start = Start(tmp_path, Strike("step", 5, kill))
    with monkeypatch.context() as dead, pytest.raises(Killed):
        dead.setattr(Trainer, "_save_interrupted", lambda self, error: None)
        start.run()
    continued = Start(tmp_path)
    assert continued.state.progress.step == STEPS
    continued.run()
    assert same(continued.last, whole.last)
    assert same(continued.best, whole.best)


# What goes wrong --------------------------------------------------------------------------------


def nan_in(*steps):
    """toy_loss, but in these steps the loss of the second image is not a number."""
    times = count(1)

    def loss(outputs, batch):
        terms = toy_loss(outputs, batch)
        factor = torch.ones(BATCH)
        factor[1] = math.nan if next(times) in steps else 1.0
        return terms._replace(losses={**terms.losses, "near": factor * terms.losses["near"]})

    return loss


def all_finite(state):
    return all(value.isfinite().all() for value in state["model"].values())


def indices_of(step):
    """Images of a step of the run, the first being 1."""
    batches = ResumableBatchSampler(IMAGES, BATCH, seed=1)
    batches.enter((step - 1) // STEPS)
    return [index for _, index in list(batches)[(step - 1) % STEPS]]


def test_a_non_finite_loss_skips_its_step_and_names_its_image(tmp_path):
    """Weights, statistics and Adam's memory are as if the fifth step had not been."""
    start = Start(tmp_path, loss=nan_in(5), visualize_every=0, keep_checkpoints=9)
    start.run()
    before, after = (
        load_checkpoint(start.state.run_dir.checkpoints / f"last_{step:09d}.pth") for step in (3, 9)
    )
    assert all_finite(after)
    assert after["optimizer"]["state"][0]["step"] == 8
    name = f"{indices_of(5)[1]}.jpg"
    log = (start.state.run_dir.folder / "log.txt").read_text()
    assert "1 steps up to step 6 were skipped, 1 in this epoch" in log
    assert f"Images: {name}\n" in log
    assert before["progress"]["lost"] == after["progress"]["lost"] == 0  # counted by the epoch


def test_a_skipped_step_leaves_everything_bit_for_bit(tmp_path):
    start = Start(tmp_path, loss=nan_in(2), save_steps=1, log_every=100, keep_checkpoints=9)
    start.run()
    first, second = (
        load_checkpoint(start.state.run_dir.checkpoints / f"last_{step:09d}.pth") for step in (1, 2)
    )
    assert same(first["model"], second["model"])
    states = [state["optimizer"]["state"] for state in (first, second)]
    assert same(*states)


def test_non_finite_losses_do_not_enter_the_logged_means(tmp_path):
    start = Start(tmp_path, loss=nan_in(2), log_every=2, visualize_every=0)
    start.run()
    line = start.lines[0]
    assert line["step"] == 2
    assert math.isfinite(line["loss"]) and math.isfinite(line["near"])


@pytest.mark.parametrize("log_every", [1, 2, 100])
def test_too_many_non_finite_losses_end_the_run(tmp_path, log_every):
    start = Start(
        tmp_path,
        loss=nan_in(*range(5, 99)),
        log_every=log_every,
        visualize_every=0,
        max_nonfinite_steps=1,
    )
    with pytest.raises(FloatingPointError, match=r"step [56].*More than 1.*TRAIN\.LR"):
        start.run()
    assert start.last["progress"]["step"] in (5, 6)
    assert all_finite(start.last)


def test_skipped_steps_and_their_images_survive_an_interruption(tmp_path):
    """The fifth step is skipped and not logged yet, and Ctrl-C comes in the same step."""
    strike = Strike("step", 5, press_ctrl_c)
    start = Start(tmp_path, strike, nan_in(5), log_every=100, visualize_every=0)
    with pytest.raises(KeyboardInterrupt):
        start.run()
    continued = Start(tmp_path, log_every=100, visualize_every=0)
    continued.run()
    log = (start.state.run_dir.folder / "log.txt").read_text()
    assert "1 steps up to step 6 were skipped, 1 in this epoch" in log
    assert f"Images: {indices_of(5)[1]}.jpg" in log


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("blow", "cure"),
    [
        (press_ctrl_c, ". Start again to continue.\n"),
        (lambda: fail(ValueError("x")), ". Start again to continue once the error is mended.\n"),
        (lambda: fail(FloatingPointError("x")), ".\n"),
    ],
)
def test_starting_again_is_advised_where_it_can_help(tmp_path, blow, cure):
    start = Start(tmp_path, Strike("step", 5, blow), visualize_every=0)
    with pytest.raises((ValueError, FloatingPointError, KeyboardInterrupt)):
        start.run()
    run_dir = start.state.run_dir
    assert f"saved in {run_dir.last}{cure}" in (run_dir.folder / "log.txt").read_text()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    start = Start(tmp_path, Strike("step", 5, lambda: spoil(start)), visualize_every=0)
    with pytest.raises(FloatingPointError, match="not finite"):
        start.run()
    assert start.last["progress"]["step"] == STEPS
    assert all_finite(start.last)


def spoil(start):
    with torch.no_grad():
        next(start.state.model.parameters()).fill_(math.nan)


def test_a_full_disk_stops_the_run_and_leaves_what_was_there(tmp_path, monkeypatch, capsys):
    def full(path, write):
        raise OSError(errno.ENOSPC, "No space left on device")

    start = Start(tmp_path, Strike("step", 5, lambda: fill()), save_steps=1, visualize_every=0)

    def fill():
        monkeypatch.setattr("hrpose.engine.checkpoint.atomic_write", full)

    with pytest.raises(OSError, match=r"No space left.*make room"):
        start.run()
    assert "are as before" in capsys.readouterr().out
    monkeypatch.undo()
    assert start.last["progress"]["step"] == 4
    Start(tmp_path, save_steps=1, visualize_every=0).run()
    assert start.last["progress"]["step"] == EPOCHS * STEPS


def test_an_error_is_not_swallowed_and_costs_no_step(tmp_path, whole):
    def fail():
        raise RuntimeError("out of memory")

    start = Start(tmp_path, Strike("step", 5, fail))
    with pytest.raises(RuntimeError, match="out of memory"):
        start.run()
    assert start.last["progress"]["step"] == 4
    continued = Start(tmp_path)
    continued.run()
    assert same(continued.last, whole.last)  # running statistics of the broken step included


# Small parts ------------------------------------------------------------------------------------


def test_evaluate_hands_every_pose_to_the_evaluator():
    class Evaluator:
        def __init__(self):
            self.added = []

        def add(self, image_id, poses):
            self.added.append((image_id, poses))

        def summarize(self):
            return {"AP": len(self.added)}

    evaluator = Evaluator()
    images = [(7, "an image"), (9, "another")]
    assert evaluate(predict_sequentially(str.upper), images, evaluator) == {"AP": 2}
    assert evaluator.added == [(7, "AN IMAGE"), (9, "ANOTHER")]
