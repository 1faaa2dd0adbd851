"""A video to poses, frame by frame: read, predict, draw, write, and only then the next."""

import json
import time

import cv2

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
