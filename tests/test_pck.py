"""MPII: its conversion to COCO JSON, and PCKh against published figures, a plain loop and laws."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from commands import run
from hrpose.config import load_config
from hrpose.builders.datasets import build_evaluator, build_skeleton, read_split
from hrpose.data.coco import load_annotations
from hrpose.data.convert import MPII_NAMES, mpii_annotations, read_mpii_truth
from hrpose.engine.distributed import SINGLE_PROCESS
from hrpose.engine.evaluate import evaluate
from hrpose.evaluation.coco import format_table
from hrpose.evaluation.pck import PCKhEvaluator
from hrpose.skeletons import COCO, MPII, from_category
from hrpose.structures import Poses, to_results
from reference.pck import pckh

SAMPLE = Path(__file__).parents[1].parent / "shared" / "data" / "samples" / "mpii"
K = len(MPII.joints)
PUBLISHED = {
    "PCKh@.5": 82.33672, "Head": 95.600, "Shoulder": 92.714, "Elbow": 83.365, "Wrist": 76.736,
    "Hip": 81.928, "Knee": 73.363, "Ankle": 65.446, "PCKh@.5-16": 71.524,
    "PCKh@.5-plain-14": 81.458, "PCKh@.1": 28.975, "PCKh@.11": 33.138,
}  # fmt: skip

real_data = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no MPII sample in ../shared/data")
