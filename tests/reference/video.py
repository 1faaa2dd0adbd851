"""A video to poses, frame by frame: read, predict, draw, write, and only then the next.

    PYTHONPATH=lib:tests python -m reference.video a.mp4 --cfg X TEST.MODEL_FILE best.pth

compares it with tools/test.py, which overlaps these steps, in turns.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np

from hrpose.builders import load_predictor
from hrpose.builders.datasets import build_skeleton
from hrpose.programs import cli
from hrpose.programs.arguments import parse
from hrpose.structures import Poses
from hrpose.visualize import draw_poses


def predict_video(path, predictor, skeleton, threshold, folder, suffix=".mp4"):
    """Write keypoints.jsonl and a drawn video into a folder; returns frames and frames/s.

    Only for files whose frames are all whole and at a constant rate.
    """
    codec = {".mp4": "mp4v", ".webm": "VP80"}[suffix]
    capture = cv2.VideoCapture(str(path))
    rate, writer, index = capture.get(cv2.CAP_PROP_FPS), None, 0
    begun = time.perf_counter()
    with open(folder / "keypoints.jsonl", "w") as results:
        while True:
            whole, image = capture.read()
            if not whole:
                break
            if writer is None:
                size = image.shape[1::-1]
                target = str(folder / f"drawn{suffix}")
                writer = cv2.VideoWriter(target, cv2.VideoWriter.fourcc(*codec), rate, size)
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            poses = predictor(image)
            people = poses.joints[poses.scores > threshold]
            drawn = draw_poses(image, people, skeleton, threshold)
            writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
            for joints, score in zip(poses.joints, poses.scores):
                keypoints = joints.astype(float).ravel().tolist()
                pose = {"frame": index, "keypoints": keypoints, "score": float(score)}
                results.write(json.dumps(pose) + "\n")
            results.flush()
            index += 1
    writer.release()
    return index, index / (time.perf_counter() - begun)


def waiting_predictor(seconds):
    """Five people in every image after a while: as on a GPU, the CPU is idle meanwhile."""
    joints = np.full((5, 17, 3), 0.9, np.float32)
    joints[..., :2] = np.random.default_rng(0).uniform(0, 500, (5, 17, 2))

    def predict(image):
        time.sleep(seconds)
        return Poses(joints, np.full(5, 0.9, np.float32))

    return predict


def compare(path, arguments, load, turns=3):
    """Print frames/s of both, in turns; load: config -> predictor"""
    with tempfile.TemporaryDirectory() as folder:
        place = ["--input", path, "--output", f"{folder}/found", "--format", "jsonl"]
        _, config = parse("test", [*place, *arguments])
        predictor, skeleton = load(config), build_skeleton(config)
        suffix = ".webm" if path.endswith(".webm") else ".mp4"
        for turn in range(turns):
            plain = Path(folder, f"plain{turn}")
            plain.mkdir()
            given = skeleton, config.TEST.DETECTION_THRESHOLD, plain, suffix
            count, rate = predict_video(path, predictor, *given)
            print(f"frame by frame: {count} frames, {rate:.3g} frames/s", flush=True)
            with patch("hrpose.programs.test.load_predictor", load):
                cli.main("test", [*place, *arguments])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--wait", type=float, help="ms; in place of a network, wait")
    known, rest = parser.parse_known_args()
    waits = known.wait is not None
    compare(
        known.path,
        rest,
        (lambda config: waiting_predictor(known.wait / 1000)) if waits else load_predictor,
    )
