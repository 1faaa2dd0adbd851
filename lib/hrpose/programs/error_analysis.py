"""The analysis of errors that tools/valid.py --errors prints and writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from hrpose.builders.datasets import build_skeleton
from hrpose.builders.sources import evaluated_sources
from hrpose.evaluation.analysis import AP_THRESHOLDS, analyze_errors
from hrpose.evaluation.coco import KeypointEvaluator, aligned_table
from hrpose.evaluation.errors import KINDS, MATCHED_OKS
from hrpose.evaluation.results import PoseEvaluator
from hrpose.ops.atomic_io import write_json

ANALYZED_FORMATS = ("coco", "crowdpose")

STAGE_LABELS = {
    "found": "(as found)",
    "miss": "misses",
    "swap": "swaps",
    "inversion": "inversions",
    "jitter": "jitter",
    "score": "wrong scores",
    "background": "background poses",
    "missed people": "missed people",
}


def require_analyzable(config: CfgNode) -> None:
    """ValueError for formats that are scored by other metrics than COCO's OKS and AP."""
    for source in evaluated_sources(config):
        name = source.own.DATASET.FORMAT
        if name not in ANALYZED_FORMATS:
            raise ValueError(
                f"--errors needs DATASET.FORMAT {' or '.join(ANALYZED_FORMATS)}, whose metric is "
                f"COCO's AP; {source.name or 'the config'} has {name}: score it without --errors"
            )


def write_errors(config: CfgNode, evaluator: PoseEvaluator, folder: Path) -> str:
    """Analyse the poses of an evaluator and write `folder`/errors.json; returns the tables."""
    assert isinstance(evaluator, KeypointEvaluator)
    analysis = analyze_errors(evaluator.comparison(), build_skeleton(config))
    write_json(folder / "errors.json", analysis)
    return format_errors(analysis)


def format_errors(analysis: Mapping[str, Any]) -> str:
    """The joints by kind of error, and AP without each kind, as Markdown tables with headings."""
    everyone, grouping = analysis["groups"]["all"], analysis["grouping"]
    title = (
        f"{everyone['matched']} of {everyone['people']} people of 32^2 square pixels and more are "
        f"matched at OKS {MATCHED_OKS}; their labelled joints:"
    )
    parts = [
        f"merged people: {len(grouping['merged'])} of {grouping['poses']} poses; "
        f"split people: {len(grouping['split'])} of {grouping['people']}; "
        f"joints from a pose's second person: {_percent(grouping['foreign'])}"
    ]
    best = analysis["best_f1"]
    if best:
        parts.append(
            f"best F1 at OKS .5: {best['f1']:.3f} for scores from {best['score']:.4g} "
            f"(precision {best['precision']:.3f}, recall {best['recall']:.3f})"
        )
    rows = {"all": everyone["kinds"], **analysis["joints"]}
    gone = "AP without these errors and those above them, and what that gains:"
    return "\n".join([title, _kinds_table(rows), gone, _ap_table(everyone["ap"]), *parts])


def _kinds_table(rows: Mapping[str, Mapping[str, int]]) -> str:
    cells = [["joint", *KINDS, "labelled"]]
    for joint, counts in rows.items():
        total = sum(counts.values())
        shares = [_percent(counts[kind] / total) if total else "" for kind in KINDS]
        cells.append([joint, *shares, f"{total}"])
    return "\n".join(aligned_table(cells))


def _ap_table(stages: Mapping[str, Mapping[str, float]]) -> str:
    names = [text for name in AP_THRESHOLDS for text in (name, "gain")]
    cells, before = [["without", *names]], None
    for stage, figures in stages.items():
        row = [STAGE_LABELS[stage]]
        for name, ap in figures.items():
            gain = f"{ap - before[name]:+.3f}" if before and ap >= 0 else ""
            row += [f"{ap:.3f}", gain]
        cells.append(row)
        before = figures
    return "\n".join(aligned_table(cells))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
