"""Every option has a meaning and a reader; every YAML in configs/ makes a network."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from commands import shipped_configs
from hrpose.builders import build_loss
from hrpose.builders.common import build_model
from hrpose.builders.training import build_optimizer, build_schedule
from hrpose.config import load_config
from hrpose.config.loading import BY_KEY, read_entries
from hrpose.config.options import OPTIONS

ROOT = Path(__file__).parents[1]
CONFIGS = shipped_configs()
SMALL = [
    *("MODEL.WIDTH", "8", "MODEL.BACKBONE.STEM", "8", "MODEL.BACKBONE.BLOCKS", "1"),
    *("MODEL.BACKBONE.MODULES", "[1,1,1]", "MODEL.BACKBONE.BOTTLENECKS", "1"),
]


@cache
def readers() -> str:
    builders = (ROOT / "lib/hrpose/builders").glob("*.py")
    presets = ROOT / "lib/hrpose/config/loading.py"  # they stand before everything else
    files = [
        *builders,
        presets,
        *(ROOT / "lib/hrpose/programs").glob("*.py"),
    ]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_every_option_has_a_meaning_and_a_reader(option):
    *groups, last = option.key.split(".")
    text = readers()
    group = groups[0] if groups else "config"
    # A reader may give a group a short name first: `data = config.DATASET`.
    short = re.findall(rf"(\w+) = config\.{group}\b", text) if groups else []
    names = [
        rf"config\.{option.key}",
        rf"given.get..{option.key}",
        *(rf"{name}\.{option.key.partition('.')[2]}" for name in short),
        *([f'"{last}"'] * bool(groups)),  # named to `keywords` of builders/common.py
    ]
    assert option.meaning.endswith(".")
    read = re.search("|".join(rf"(?<!\w){name}(?!\w)" for name in names), text)
    assert read, f"{option.key} has no reader"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_yaml_builds_and_takes_a_step(path):
    config = load_config(path, [*SMALL, "DATASET.SKELETON", load_config(path).DATASET.SKELETON])
    if config.DATASET.SKELETON == "file":
        pytest.skip("its joints are in annotations that are not here")
    model, loss = build_model(config), build_loss(config)
    joints = torch.rand(2, 3, model.joints, 3) * 64
    outputs = model(torch.randn(2, 3, 64, 64))
    finest = 64 // outputs[-1].stride
    batch = {
        "joints": joints,
        "boxes": 16 + 400 * torch.rand(2, 3, 4),
        "mask": torch.ones(2, finest, finest, dtype=torch.uint8),
        "flipped": torch.tensor([False, True]),
    }
    terms = loss(outputs, batch)
    total = sum(terms.weights[name] * value.mean() for name, value in terms.losses.items())
    total.backward()
    build_optimizer(config, model).step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert 0 <= build_schedule(config)(0.0) <= 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_yaml_holds_only_what_differs(path):
    """A line that repeats its BASE, or the default, misleads a reader about what is special."""
    inherited = {key: option.default for key, option in BY_KEY.items()}
    entries = read_entries(path)
    own = [entry for entry in entries if Path(entry.where.rsplit(":", 1)[0]) == path]
    for entry in entries:
        if entry not in own:
            inherited[entry.key] = entry.value
    written_base = [line for line in path.read_text().splitlines() if line.startswith("BASE:")]
    for entry in own if written_base else ():
        assert entry.value != inherited[entry.key], f"{entry.where} repeats {entry.key}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_yaml_begins_with_what_it_is_and_how_to_run_it(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("python tools/" in line or "make " in line for line in header)


def test_there_are_few_options_and_each_is_used_by_a_config_or_a_document():
    names = {".".join(option.key.split(".")[:2]) for option in OPTIONS}
    assert len(names) <= 120  # with both families; 85 of them are older
    written = {entry.key for path in CONFIGS for entry in read_entries(path)}
    documents = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    text = "\n".join(path.read_text() for path in documents if path.name != "options.md")
    used = {key for key in BY_KEY if key in written or re.search(rf"\b{key}\b", text)}
    used |= {name for name in names if re.search(rf"\b{name}\b", text)}
    assert names == {".".join(key.split(".")[:2]) for key in used}
