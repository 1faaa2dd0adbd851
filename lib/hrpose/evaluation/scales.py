"""What SWAHR's scale maps say of people, and whether it has to do with their sizes.

Luo, Wang, Huang, Wang, Tan, Zhou: Rethinking the Heatmap Regression for Bottom-up Human Pose
Estimation, CVPR 2021, section 3.

1 / s = 1 + alpha is what the network says. Where it is high Gaussians are narrow, so that it
should fall as people grow. Training has a say in it only where a Gaussian is drawn, hence people
are read at their own joints.

s itself is not measured beside it: wherever 1 / s is above 0 it has the same ranks backwards, so
that its rank correlation is the same with the other sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from hrpose.ops.coordinates import coordinates
from hrpose.ops.gaussian import DRAWINGS
from hrpose.structures import ScaleOutput

MOVED = 0.1
"""|alpha| above which the network has noticeably changed a joint's Gaussian."""

SHARE_MOVED = f"|alpha| > {MOVED}"


class Readings(NamedTuple):
    """1 / s at the joints of people."""

    image_ids: np.ndarray  # (N,)
    sizes: np.ndarray  # (N,) longer side of each person's box, in network pixels
    joints: dict[int, np.ndarray]  # stride -> (N, K), NaN where a joint is not labelled

    def people(self) -> dict[int, np.ndarray]:
        """stride -> the mean over each person's labelled joints, (N,)"""
        return {stride: np.nanmean(values, 1) for stride, values in self.joints.items()}

    def evened(self) -> Readings:
        """The same, less the mean of each kind of joint over all people.

        Kinds differ in 1 / s, and which of them are labelled goes with a person's size.
        """
        return self._replace(joints={stride: _evened(v) for stride, v in self.joints.items()})


def _evened(values: np.ndarray) -> np.ndarray:
    labelled = np.isfinite(values).sum(0).clip(min=1)
    return values - np.nansum(values, 0) / labelled


def read_people(
    outputs: Sequence[ScaleOutput],
    joints: np.ndarray,
    sizes: np.ndarray,
    image_id: int,
    convention: str,
) -> Readings:
    """1 / s at the cells of the joints that are labelled in an image.

    A person of whom no joint lies within the maps is left out.

    outputs: of this one image   joints: (N, K, 3) x, y, visibility and sizes: (N,), both in
    network pixels
    """
    there = torch.from_numpy(joints).float()[None]
    values = {output.stride: _read(output, there, convention).numpy() for output in outputs}
    read = np.all([np.isfinite(each).any(1) for each in values.values()], axis=0)  # (N,)
    found = {stride: each[read] for stride, each in values.items()}
    return Readings(np.full(read.sum(), image_id), sizes[read], found)


def _read(output: ScaleOutput, joints: Tensor, convention: str) -> Tensor:
    """1 / s (N, K) where the joints (1, N, K, 3) lie; NaN for those that lie nowhere."""
    alpha = output.scales
    assert alpha is not None, "only a network that says scales is read"
    unmirrored = torch.zeros(1, dtype=torch.bool)
    cells = coordinates(convention).to_heatmap_coords(joints, output.stride, unmirrored)
    place = DRAWINGS[convention].cells(cells, (alpha.shape[-2], alpha.shape[-1]))[0]
    return (1 + alpha.flatten()[place.clamp(min=0)]).where(place >= 0, torch.nan)


def joined(parts: Sequence[Readings]) -> Readings:
    """The people of several images."""
    return Readings(
        np.concatenate([part.image_ids for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        {
            stride: np.concatenate([part.joints[stride] for part in parts])
            for stride in parts[0].joints
        },
    )


def summarize(readings: Readings) -> dict[str, dict[str, Any]]:
    """Of every resolution `1/stride`: people, rho, p, evened rho, mean, quartiles, SHARE_MOVED.

    Mean and quartiles are of 1 / s over people; SHARE_MOVED is of joints; rho and p, of 1 / s
    against size, are None where they are not defined. For evened rho see `Readings.evened`.
    """
    figures, evened = {}, readings.evened().people()
    for stride, people in readings.people().items():
        rho, p = rank_correlation(readings.sizes, people)
        joints = readings.joints[stride]
        figures[f"1/{stride}"] = {
            "people": len(people),
            "rho": rho,
            "p": p,
            "evened rho": rank_correlation(readings.sizes, evened[stride])[0],
            "mean": people.mean().item(),
            "quartiles": np.quantile(people, (0.25, 0.5, 0.75)).tolist(),
            SHARE_MOVED: (np.abs(joints[np.isfinite(joints)] - 1) > MOVED).mean().item(),
        }
    return figures


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    """Spearman's rho and its p; None of too few, or where all are equal (an untrained branch)."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None
    rho, p = spearmanr(x, y)
    return float(rho), float(p)


def format_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """What `summarize` found, as plain text."""
    lines = [
        f"{'1/s':6}{'people':>7}{'rho':>8}{'p':>9}{'evened rho':>12}{'mean':>8}"
        f"{'quartiles':>22}{SHARE_MOVED:>15}"
    ]
    for name, row in figures.items():
        known = (row["rho"], row["p"], row["evened rho"])
        rho, p, even = ("-" if value is None else f"{value:.2g}" for value in known)
        quartiles = " ".join(f"{value:6.3f}" for value in row["quartiles"])
        start = f"{name:6}{row['people']:7}{rho:>8}{p:>9}{even:>12}{row['mean']:8.3f}"
        lines.append(f"{start}{quartiles:>22}{row[SHARE_MOVED]:15.1%}")
    return "\n".join(lines)


def to_csv(readings: Readings) -> str:
    """A line for each person: image_id, size, and 1 / s at every resolution."""
    people = readings.people()
    lines = [",".join(["image_id", "size", *(f"inverse_scale/{stride}" for stride in people)])]
    for image_id, size, *values in zip(readings.image_ids, readings.sizes, *people.values()):
        lines.append(",".join([f"{image_id},{size:.1f}", *(f"{value:.4f}" for value in values)]))
    return "\n".join(lines) + "\n"
