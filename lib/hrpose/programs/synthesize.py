"""Write the synthetic set: an ordinary COCO-layout folder of drawn scenes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hrpose.programs.cli import command
from hrpose.skeletons import COCO
from hrpose.synthetic.dataset import write_synthetic


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--train", type=int, default=2400, help="training scenes")
    parser.add_argument("--val", type=int, default=100, help="held-out scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--joints", default=",".join(COCO.joints), help="which of COCO's to annotate"
    )
    known = parser.parse_args(arguments)
    joints = known.joints.split(",")
    unknown = sorted(set(joints) - set(COCO.joints))
    if unknown:
        raise ValueError(f"--joints: no {', '.join(unknown)}; choose from {','.join(COCO.joints)}")
    for split, count in (("train2017", known.train), ("val2017", known.val)):
        write_synthetic(known.output, split, count, known.seed, joints)
    print(f"{known.train} training and {known.val} held-out scenes in {known.output}")
