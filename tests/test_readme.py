"""The README tells the truth, and no two files hold a copied block."""

import re
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CODE = sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "tools").glob("*.py")])


def tree_of_readme() -> dict[str, str]:
    """Names under lib/hrpose/ in the README's tree, with what stands behind them."""
    block = README.split("lib/hrpose/\n")[1].split("```")[0]
    whole = re.sub(r"\n {20,}", " ", block)  # a line that goes on in the next
    inside = [line for line in whole.splitlines() if line.startswith("  ")]
    return dict(re.match(r"\s+(\S+)\s+(.*)", line).groups() for line in inside)


def test_the_tree_is_the_real_tree():
    package = ROOT / "lib" / "hrpose"
    real = {
        path.name + "/" * path.is_dir()
        for path in package.iterdir()
        if path.name not in ("__init__.py", "__pycache__")
    }
    assert set(tree_of_readme()) == real


@pytest.mark.parametrize(
    "folder", ["ops", "codecs", "data", "models", "losses", "inference", "engine"]
)
def test_every_file_of_a_part_is_named_in_the_tree(folder):
    said = tree_of_readme()[f"{folder}/"]
    for path in (ROOT / "lib" / "hrpose" / folder).glob("[!_]*.py"):
        assert re.search(rf"\b{path.stem}\b", said), f"{folder}/{path.name} is not in the README"


def test_every_command_is_named():
    (said,) = re.findall(r"^tools/\s+.*?:(.*)$", README, re.MULTILINE)
    assert set(said.split()) == {path.stem for path in (ROOT / "tools").glob("*.py")}


def test_every_path_and_option_in_the_documents_exists():
    from hrpose.config.loading import BY_KEY

    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = document.read_text()
        for name in re.findall(r"(?:configs|docs|tools|lib)/[\w/]+\.(?:yaml|py|md|png|jpg)", text):
            mine = name == "configs/mine.yaml"  # the reader's own
            assert mine or (ROOT / name).exists(), f"{document.name} names {name}"
        for key in re.findall(r"\b(?:DATASET|MODEL|LOSS|TRAIN|TEST)\.[A-Z0-9_]+\b", text):
            assert key in BY_KEY, f"{document.name} names {key}"


def code_lines(path: Path) -> list[str]:
    """Lines that say something, without imports, comments and lone brackets."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [
        line
        for line in lines
        if len(line) > 3 and not line.startswith(("#", "import ", "from ", '"""'))
    ]


def test_no_two_files_share_a_copied_block():
    """Six lines in a row that stand in two files should stand in one (tools/ are five lines)."""
    blocks = {}
    for path in CODE:
        lines = code_lines(path)
        blocks[path] = {tuple(lines[i : i + 6]) for i in range(len(lines) - 5)}
    for one, other in combinations(CODE, 2):
        assert not blocks[one] & blocks[other], (one, other, blocks[one] & blocks[other])
