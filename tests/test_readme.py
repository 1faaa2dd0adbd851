"""README and docs: what they name exists, and they keep their form."""

import ast
import re
from itertools import combinations
from pathlib import Path

import pytest

from hrpose.config.loading import BY_KEY
from hrpose.config.options import as_markdown
from hrpose.config.renamed import RENAMED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lib" / "hrpose"
README = (ROOT / "README.md").read_text()
FOLDERS = [ROOT / "data" / "README.md", ROOT / "output" / "README.md"]
DOCUMENTS = [ROOT / "README.md", *FOLDERS, *sorted((ROOT / "docs").glob("*.md"))]
CODE = sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "tools").glob("*.py")])

named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)


def test_every_folder_of_the_package_is_in_the_layout():
    rows = " ".join(re.findall(r"^\| (`lib/hrpose/.*?) \|", README, re.MULTILINE))
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert set(re.findall(r"(\w+)/`", rows)) == folders


def test_every_command_and_document_is_named():
    commands = " ".join(re.findall(r"^\| `tools/` \|.*?:(.*?)\|", README, re.MULTILINE))
    assert set(commands.split()) == {path.stem for path in (ROOT / "tools").glob("*.py")}
    for path in DOCUMENTS[3:]:
        assert f"(docs/{path.name})" in README


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


@named
def test_lines_are_at_most_120_columns(document):
    """Rows of tables aside, which Markdown cannot break, and output of programs."""
    prose = re.sub(r"```\n.*?```", "", document.read_text(), flags=re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > 120 and line[:1] != "|"]
    assert not long


@named
def test_every_path_and_option_exists(document):
    text = document.read_text()
    pattern = r"(?:configs|docs|tools|lib|tests)/[\w/]+\.(?:yaml|py|md|png|jpg)"
    for name in re.findall(pattern, text):
        own = name == "configs/mine.yaml"  # the reader's own
        assert own or (ROOT / name).exists(), name
    for key in re.findall(r"\b(?:DATASET|MODEL|LOSS|TRAIN|TEST)\.[A-Z0-9_]+\b", text):
        has_fields = any(each.startswith(f"{key}.") for each in BY_KEY)
        assert key in BY_KEY or has_fields, key
        assert has_fields or key not in RENAMED  # one name of then is a structured option now


@named
def test_every_link_leads_somewhere(document):
    for target in re.findall(
        r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
    ):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in anchors, target


@named
def test_every_function_named_with_its_module_exists(document):
    """As in `losses/swahr.py`: `swahr_loss`, `scaled_target`."""
    for module, names in re.findall(r"`([a-z_/]+\.py)`: ((?:`\w+`(?:, )?)+)", document.read_text()):
        path = PACKAGE / module
        assert path.is_file(), module
        tree = ast.parse(path.read_text())
        known = {
            each.name
            for each in ast.walk(tree)
            if isinstance(each, (ast.FunctionDef, ast.ClassDef))
        }
        for name in re.findall(r"`(\w+)`", names):
            assert name in known or name.isupper() or "." in name, f"{module}: {name}"


def test_the_list_of_options_is_generated():
    assert (ROOT / "docs" / "options.md").read_text() == as_markdown(), "run `make docs`"


def code_lines(path: Path) -> list[str]:
    """Lines of code, without imports, comments and single brackets."""
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
