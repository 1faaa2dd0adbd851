"""Serve a page, and an HTTP API, that finds poses in uploaded photos and videos."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from yacs.config import CfgNode

from hrpose.builders.datasets import build_skeleton
from hrpose.builders.detectors import is_detector, load_detector
from hrpose.builders.families import is_top_down, load_predictor
from hrpose.programs.visual_reports import draw_confident
from hrpose.structures import Poses
from hrpose.web.server import PoseServer
from hrpose.web.service import PoseService


def main(known: argparse.Namespace, config: CfgNode) -> None:
    """Serve until a signal stops it, Ctrl-C for one."""
    service = build_service(config)
    try:
        server = PoseServer((known.host, known.port), service)
    except OSError as error:
        reason = f"cannot listen at {known.host}, port {known.port}: {error.strerror}"
        raise OSError(f"{reason}; give another --port, or --host") from error
    with server:
        host, port = server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        print(f"serving {config.TEST.MODEL_FILE} at http://{shown}:{port}/", flush=True)
        server.serve_forever()


def build_service(config: CfgNode) -> PoseService:
    """What tools/test.py would find in each upload.

    Errors: ValueError for a top-down network whose TEST.BOXES names no detector
    """
    if config.TEST.GT_HEATMAPS:
        raise ValueError("TEST.GT_HEATMAPS needs annotations, and uploads have none")
    boxes, skeleton = config.TEST.BOXES, build_skeleton(config)
    threshold = config.TEST.DETECTION_THRESHOLD
    if is_top_down(config) and not is_detector(boxes):
        raise ValueError(
            f"TEST.BOXES is {boxes!r}, but a top-down network needs the boxes of people in "
            "uploads; give TEST.BOXES detector or bottom_up:<config>,<weights>"
        )
    predictor = load_predictor(config)
    detect = load_detector(config) if is_top_down(config) else lambda image: ()

    def predict(image: np.ndarray) -> Poses:
        return predictor(image, *detect(image))

    draw = partial(draw_confident, skeleton=skeleton, threshold=threshold)
    return PoseService(predict, draw, skeleton, threshold)
