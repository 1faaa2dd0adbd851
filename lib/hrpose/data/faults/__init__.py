"""All that can be wrong with a split, and the cure of each: tables of checks."""

from hrpose.data.faults import images, joints, people
from hrpose.data.faults.finding import Finding, found, graver_first
from hrpose.data.survey import Marks

CHECKS = images.CHECKS + people.CHECKS + joints.CHECKS


def find_faults(marks: Marks) -> list[Finding]:
    """All that the tables find, errors first."""
    return graver_first(found(c.level, c.what, c.find(marks), c.cure) for c in CHECKS)
