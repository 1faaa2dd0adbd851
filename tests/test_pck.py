"""MPII: its conversion to COCO JSON, and PCKh against published figures, a plain loop and laws."""

from pathlib import Path

import pytest

from hrpose.skeletons import MPII

SAMPLE = Path(__file__).parents[1].parent / "shared" / "data" / "samples" / "mpii"
K = len(MPII.joints)
PUBLISHED = {
    "PCKh@.5": 82.33672, "Head": 95.600, "Shoulder": 92.714, "Elbow": 83.365, "Wrist": 76.736,
    "Hip": 81.928, "Knee": 73.363, "Ankle": 65.446, "PCKh@.5-16": 71.524,
    "PCKh@.5-plain-14": 81.458, "PCKh@.1": 28.975, "PCKh@.11": 33.138,
}  # fmt: skip

real_data = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no MPII sample in ../shared/data")
