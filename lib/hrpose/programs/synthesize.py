"""Write the synthetic set: an ordinary COCO-layout folder of drawn scenes, or of clips."""

from __future__ import annotations

import argparse

from hrpose.skeletons import COCO
from hrpose.synthetic.dataset import write_clips, write_synthetic


def main(known: argparse.Namespace) -> None:
    joints = known.joints.split(",")
    unknown = sorted(set(joints) - set(COCO.joints))
    if unknown:
        raise ValueError(f"--joints: no {', '.join(unknown)}; choose from {','.join(COCO.joints)}")
    if known.clips:
        write_clips(known.output, known.clips, known.seed, joints)
        print(f"{known.clips} clips in {known.output / 'images/clips'}, with identities (track_id)")
        return
    for split, count in (("train2017", known.train), ("val2017", known.val)):
        write_synthetic(known.output, split, count, known.seed, joints)
    print(f"{known.train} training and {known.val} held-out scenes in {known.output}")
