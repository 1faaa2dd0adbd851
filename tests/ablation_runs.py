"""Ablations whose trainings and evaluations are scripts that cost nothing."""

import csv
import json
import re
from pathlib import Path
from typing import NamedTuple

from hrpose.programs import cli

ROOT = Path(__file__).parents[1]
TINY = (
    "MODEL: {WIDTH: 8, BACKBONE: {STEM: 8, BOTTLENECKS: 1, MODULES: [1, 1, 1], BLOCKS: 1}, "
    "NUM_BASIC_BLOCKS: 0}\n"
)

TRAIN = """
import json, pathlib, shutil, sys, yaml
config = yaml.safe_load(pathlib.Path(sys.argv[2]).read_text())
words = dict(zip(sys.argv[3::2], sys.argv[4::2]))
home = pathlib.Path(words["OUTPUT_DIR"]) / config["NAME"]
run = home / f"2020-{len(list(home.glob('2*')))}"
seed = config["TRAIN"]["SEED"]
figures = {"AP": 0.25}
(run / "checkpoints").mkdir(parents=True)
(run / "checkpoints" / "last.pth").write_text("")
shutil.copy(sys.argv[2], run / "config.yaml")
facts = dict.fromkeys(("git", "python", "torch", "numpy", "started", "finished"), "x")
facts |= {"device": words["DEVICE"], "figures": figures}
(run / "run.json").write_text(json.dumps(facts))
"""
VALID = """
import json, pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert pathlib.Path(words["TEST.MODEL_FILE"]).is_file()
pathlib.Path(words["--output"], "run.json").write_text(json.dumps({"figures": {"AP": 0.75}}))
"""


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


class Ablations:
    """A folder with rows, stand-ins for tools/, and the command over both."""

    def __init__(self, folder, capture):
        self.folder, self.capture = folder, capture
        self.plan, self.out, self.runs = folder / "plan", folder / "out", folder / "runs"
        for path in (self.plan, folder / "tools", folder / "annotations"):
            path.mkdir()
        for split in ("train2017", "val2017"):
            (folder / "images" / split).mkdir(parents=True)
            (folder / "annotations" / f"person_keypoints_{split}.json").write_text("{}")
        (self.plan / "base").write_text(f"{TINY}DATASET: {{ROOT: {folder}}}\n")
        self.tools()

    def tools(self, train=TRAIN, valid=VALID):
        (self.folder / "tools" / "train.py").write_text(train)
        (self.folder / "tools" / "valid.py").write_text(valid)

    def rows(self, **texts):
        """Write YAML files, name -> text, over a tiny network."""
        for name, text in texts.items():
            (self.plan / f"{name}.yaml").write_text(f"{text}\nBASE: base\n")

    def words(self, *words, plan=None):
        """The command's arguments."""
        paths = ["--cfg", str(plan or self.plan), "--output", str(self.out)]
        return [*paths, *words, "OUTPUT_DIR", str(self.runs), "DEVICE", "cpu"]

    def __call__(self, *words, plan=None, raw=False):
        status = 0
        try:
            cli.main("ablate", [*map(str, words)] if raw else self.words(*words, plan=plan))
        except SystemExit as end:
            status = end.code
        return Done(status, *self.capture.readouterr())

    def listed(self, *words, plan=None):
        """(state, key, name, seed, published) of every line of --list."""
        done = self("--list", *words, plan=plan)
        assert done.status == 0, done.err
        line = r"^(finished|to do) +(\w{12}) .* GMAC  (.*), seed (\d+)(?:  \(published: (.*)\))?$"
        found = re.findall(line, done.out, re.MULTILINE)
        assert len(found) == len(done.out.splitlines()) - 1
        return found

    def records(self):
        """name of the row -> its file, of one seed each."""
        rows = [json.loads(path.read_text()) for path in (self.out / "rows").glob("*.json")]
        return {row["row"]: row for row in rows}

    def table(self, suffix="md"):
        (path,) = self.out.glob(f"*.{suffix}")
        return path.read_text()

    def csv(self):
        return list(csv.DictReader(self.table("csv").splitlines()))

    def logs(self):
        return [path.read_text() for path in self.runs.glob("ablations/*/log.txt")]


def row_of(markdown, name):
    """Heading -> cell of the row of a Markdown table whose name holds `name`."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert len({len(row) for row in split}) == 1
    (found,) = [row for row in split[2:] if name in row[0]]
    return dict(zip(split[0], found))
