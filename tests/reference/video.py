"""A video to poses, frame by frame: read, predict, draw, write, and only then the next.

    PYTHONPATH=lib:tests python -m reference.video a.mp4 --cfg X TEST.MODEL_FILE best.pth

compares it with tools/test.py, which overlaps these steps, in turns.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import cv2

from hrpose.builders import load_predictor
from hrpose.builders.datasets import build_skeleton
from hrpose.programs import cli
from hrpose.programs.arguments import parse
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


def main(path, arguments, turns=3):
    """Print frames/s of both, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        place = ["--input", path, "--output", f"{folder}/found", "--format", "jsonl"]
        _, config = parse("test", [*place, *arguments])
        predictor, skeleton = load_predictor(config), build_skeleton(config)
        for turn in range(turns):
            plain = Path(folder, f"plain{turn}")
            plain.mkdir()
            threshold = config.TEST.DETECTION_THRESHOLD
            count, rate = predict_video(path, predictor, skeleton, threshold, plain)
            print(f"frame by frame: {count} frames, {rate:.3g} frames/s", flush=True)
            cli.main("test", [*place, *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
