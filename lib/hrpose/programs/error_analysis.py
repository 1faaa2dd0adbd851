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
    """The joints by kind of error, AP without each kind, and groups of people, as text."""
    groups, grouping = dict(analysis["groups"]), analysis["grouping"]
    everyone = groups.pop("all")
    left = (
        f"at OKS {oks} {counts['background']} background poses and {counts['missed']} missed people"
        for oks, counts in analysis["left"].items()
    )
    lines = [
        f"{everyone['matched']} of {everyone['people']} people of 32^2 square pixels and more are "
        f"matched at OKS {MATCHED_OKS}; their labelled joints:",
        *_kinds_table({"all": everyone["kinds"], **analysis["joints"]}),
        "AP without these errors and those above them, and what that gains:",
        *_ap_table(everyone["ap"]),
        f"left by corrections of joints and scores: {', '.join(left)}",
        "groups of people, or of images with so many or so near people:",
        *_group_table(groups),
        f"merged people: {len(grouping['merged'])} of {grouping['poses']} poses; "
        f"split people: {len(grouping['split'])} of {grouping['people']}; "
        f"joints from a pose's second person: {100 * grouping['foreign']:.1f} %",
    ]
    if best := analysis["best_f1"]:
        figures = f"precision {best['precision']:.3f}, recall {best['recall']:.3f}"
        lines.append(
            f"best F1 at OKS .5: {best['f1']:.3f}, from score {best['score']:.4g} ({figures})"
        )
    return "\n".join(lines)


def _kinds_table(rows: Mapping[str, Mapping[str, int]]) -> list[str]:
    cells = [[name, *_shares(counts), f"{sum(counts.values())}"] for name, counts in rows.items()]
    return aligned_table([["joint", *KINDS, "labelled"], *cells])


def _ap_table(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    cells = [["without", *(text for name in AP_THRESHOLDS for text in (name, "gain"))]]
    before: Mapping[str, float] = {}
    for stage, figures in stages.items():
        row = [STAGE_LABELS[stage]]
        for name, ap in figures.items():
            gain = round(ap - before[name], 3) + 0.0 if before else None  # no -0.000
            row += [f"{ap:.3f}", "" if gain is None else f"{gain:+.3f}"]
        cells.append(row)
        before = figures
    return aligned_table(cells)


def _group_table(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cells = [["group", "people", "matched", *KINDS, *AP_THRESHOLDS]]
    for name, group in groups.items():
        found = [f"{ap:.3f}" for ap in group["ap"]["found"].values()]
        counts = [f"{group[key]}" for key in ("people", "matched")]
        if group["people"]:
            cells.append([name, *counts, *_shares(group["kinds"]), *found])
    return aligned_table(cells)


def _shares(kinds: Mapping[str, int]) -> list[str]:
    total = sum(kinds.values())
    return [f"{100 * kinds[kind] / total:.1f} %" if total else "" for kind in KINDS]
