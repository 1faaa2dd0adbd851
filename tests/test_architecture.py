"""The layer rule: words know words above them, parts know words, assembly parts, programs all."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lib" / "hrpose"

WORDS = [
    "skeletons",
    "structures",
    "ops.atomic_io",
    "ops.processes",
    "ops.progress",
    "ops.coordinates",
    "ops.subpixel",
    "ops.image",
    "ops.normalize",
    "ops.targets",
    "ops.peaks",
    "ops.oks",
    "ops.boxes",
    "codecs.heatmap",
    "codecs.offset",
    "codecs.tags",
]
PARTS = ["data", "models", "losses", "inference", "evaluation", "engine", "visualize", "video"]
PARTS += ["report"]
ASSEMBLY = [
    "config",
    "builders.devices",
    "builders.datasets",
    "builders.sources",
    "builders.common",
    "builders.bottomup",
    "builders.detectors",
    "builders.tracking",
    "builders.topdown",
    "builders.families",
    "builders.training",
]
TORCHLESS = [
    "skeletons",
    "structures",
    "ops.coordinates",
    "ops.subpixel",
    "ops.image",
    "ops.oks",
    "ops.boxes",
    "codecs.heatmap",
    "codecs.offset",
    "inference.spec",
    "inference.topdown_spec",
    "inference.scoring",
    "inference.munkres",
    "inference.decode",
    "inference.onnx_bottomup",
    "inference.onnx_topdown",
    "inference.onnx_predictor",
    "inference.detectors",
    "inference.tracking",
    "video",
]
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def room(module: str) -> str:
    """The word, or the part, assembly or programs that a module belongs to."""
    return module if module in (*WORDS, *ASSEMBLY) else module.split(".")[0]


def imported(path: Path) -> set[str]:
    """Modules of hrpose that a file imports, without the leading `hrpose.`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    own = {name.removeprefix("hrpose.") for name in names if name.startswith("hrpose.")}
    return {name for name in own if name in MODULES or name == "config"}


def allowed(module: str) -> set[str]:
    """The rooms that a module may import from."""
    own = room(module)
    if own in WORDS:
        return set(WORDS[: WORDS.index(own)])
    if own in [*PARTS, "synthetic"]:
        return {*WORDS, own}
    if own == "config":
        return {"config"}
    if own == "web":
        return {*WORDS, "video", "visualize", own}
    if own in ASSEMBLY:
        return {*WORDS, *PARTS, *ASSEMBLY[: ASSEMBLY.index(own)]}
    return {*WORDS, *PARTS, *ASSEMBLY, "synthetic", "web", "programs"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_knows_only_the_rooms_before_its_own(module):
    rooms = {room(name) for name in imported(MODULES[module])}
    assert rooms <= allowed(module), f"{module} imports from {rooms - allowed(module)}"


def test_every_module_stands_in_a_known_room():
    rooms = {room(module) for module in MODULES}
    assert rooms <= {*WORDS, *PARTS, *ASSEMBLY, "synthetic", "web", "programs"}


def test_only_assembly_and_programs_see_a_config():
    for module, path in MODULES.items():
        if room(module) not in (*ASSEMBLY, "programs"):
            assert "yacs" not in path.read_text(), module


def test_a_shipped_model_needs_no_torch():
    blocked = "import importlib, sys; sys.modules['torch'] = None\n"
    blocked += "for name in sys.argv[1:]: importlib.import_module(f'hrpose.{name}')"
    subprocess.run([sys.executable, "-c", blocked, *TORCHLESS], check=True)


def test_importing_the_package_does_no_work():
    listed = "import sys, hrpose; print('torch' in sys.modules, 'cv2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listed], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False"]


PRIVATE_WORDS = {
    *("look", "looks", "looked", "told", "tells", "said"),
    *("says", "dice", "nobody", "whoever", "whom"),
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_is_written_in_the_words_of_the_field(module):
    words = re.findall(r"[A-Za-z]+", MODULES[module].read_text())
    assert not PRIVATE_WORDS & set(words)


TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_a_test_is_written_in_the_words_of_the_field(path):
    words = re.findall(r"[A-Za-z]+", path.read_text())
    assert not {"looks", "told", "tells", "judged"} & set(words)


def public_names(path: Path) -> set[str]:
    """Functions, classes and constants that a module defines, but those of every program."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        one = [getattr(node, "target", None)]  # of an annotated assignment
        targets = node.targets if isinstance(node, ast.Assign) else one
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")} - {"main", "parser"}


def test_a_public_name_belongs_to_one_module():
    owners: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for name in public_names(path):
            owners.setdefault(name, []).append(module)
    twins = [[f"{part}.bottomup", f"{part}.topdown"] for part in ("builders", "inference")]
    several = {name: sorted(modules) for name, modules in owners.items() if len(modules) > 1}
    assert {name: modules for name, modules in several.items() if modules not in twins} == {}


def test_the_families_are_built_by_the_same_functions():
    bottom_up, top_down = (MODULES[f"builders.{name}"] for name in ("bottomup", "topdown"))
    own = {"inference_side", "build_gt_predict_fn", "build_boxes"}
    assert public_names(bottom_up) ^ public_names(top_down) <= own
