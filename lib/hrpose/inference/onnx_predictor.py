"""Poses by an exported model, with onnxruntime, NumPy, SciPy and OpenCV; torch is not needed.

    python -m hrpose.inference.onnx_predictor model.onnx photo.jpg --output poses.json

tools/export.py writes the model's file, and how to use it into its metadata (inference/spec.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hrpose.inference.decode import NOT_FINITE, decode
from hrpose.inference.spec import (
    BOXES_REFUSED,
    METADATA_KEY,
    VIEWS,
    ExportedModel,
    NetworkInput,
    from_json,
)
from hrpose.ops.atomic_io import check_writable, with_cure, write_json
from hrpose.ops.image import describe_error, read_image
from hrpose.ops.subpixel import unpack_keypoints
from hrpose.structures import PERSON, Candidates, Poses, to_results

NamedArrays = Mapping[str, np.ndarray]
Network = Callable[[np.ndarray], NamedArrays]
"""uint8 RGB (B, 3, H, W) -> the graph's outputs by name"""


class OnnxPredictor:
    """Poses in images by an exported model, equal to those of the predictor it was exported from.

    The steps are those of inference/bottomup.py.
    """

    def __init__(self, network: Network, model: ExportedModel):
        self.network = network
        self.model = model
        self.spec = spec = model.spec
        self.views = [VIEWS[name](spec.skeleton) for name in spec.views]
        self.preprocess = spec.preprocess
        self.decode = partial(decode, skeleton=spec.skeleton, config=spec.decoder)
        self.postprocess = spec.postprocess

    @classmethod
    def load(cls, path: str | Path, threads: int = 0) -> OnnxPredictor:
        """Open an ONNX file, on the GPU where onnxruntime has one.

        threads: of the CPU; 0: chosen by onnxruntime
        """
        session = open_session(Path(path), threads)
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ValueError(
                f"{path} has no metadata {METADATA_KEY!r}; write it with tools/export.py"
            )
        names = [output.name for output in session.get_outputs()]

        def network(images: np.ndarray) -> NamedArrays:
            try:
                return dict(zip(names, session.run(names, {"images": images})))
            except Exception as error:  # onnxruntime's own classes, out of memory among them
                raise ValueError(f"{path} cannot process {images.shape}: {error}") from error

        return cls(network, from_json(text))

    def __call__(self, image: np.ndarray, boxes: Any = None, box_scores: Any = None) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first.

        boxes, box_scores: not taken; top-down predictors have the same signature
        """
        if boxes is not None or box_scores is not None:
            raise ValueError(BOXES_REFUSED)
        inputs = self.preprocess(image)
        heatmaps, tags, candidates = self.forward(inputs)
        people, scores = self.decode(heatmaps, tags, candidates=candidates)
        return self.postprocess(people, scores, inputs)

    def forward(self, inputs: NetworkInput) -> tuple[np.ndarray, np.ndarray, Candidates | None]:
        """Heatmaps (K, H, W) and tags (K, H, W, T) over all scales and views.

        The candidates are None unless the graph finds the peaks.
        """
        if self.model.graph == "peaks":
            return self._run_peaks(inputs.pixels[0])
        maps = [self._run_views(pixels, inputs.size) for pixels in inputs.pixels]
        return np.mean([heatmaps for heatmaps, _ in maps], 0), maps[inputs.base][1], None

    def _run_peaks(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, Candidates]:
        """The outputs of a graph that also runs the views and finds the peaks."""
        outputs = self.network(to_planes(pixels)[None])
        packed, heatmaps, tags = (outputs[name][0] for name in ("peaks", "heatmaps", "tags"))
        peaks = unpack_keypoints(packed, heatmaps.shape[-1], self.spec.decoder.subpixel)
        # The graph finds no peak where heatmaps are not finite.
        if not np.isfinite(np.vdot(heatmaps, heatmaps) + np.vdot(peaks, peaks)):
            raise FloatingPointError(NOT_FINITE)
        return heatmaps, tags, Candidates(peaks)

    def _run_views(
        self, pixels: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One scale's heatmaps (K, *size), averaged over views, and tags (K, *size, T)."""
        image, strides = to_planes(pixels), self.model.strides
        outputs = self.network(np.stack([np.flip(image, view.axes) for view in self.views]))
        finest = outputs[f"heatmaps_{strides[-1]}"].shape[2:]
        maps = [outputs[f"heatmaps_{stride}"] for stride in self.spec.aggregate or strides]
        maps += [output for name, output in outputs.items() if name.startswith("tags_")]
        *averaged, tags = [
            [
                np.flip(resize_on_host(each, finest), view.axes)[view.order]
                for view, each in zip(self.views, of_output)
            ]
            for of_output in maps
        ]
        stacked = np.stack([resize_on_host(of_view, size) for of_view in tags], -1)
        return resize_on_host(np.mean(averaged, (0, 1)), size), stacked


def to_planes(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> contiguous (3, H, W)"""
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def resize_on_host(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (K, H, W) float32 resized bilinearly to `size` (H, W), as ops.peaks.resize does."""
    if maps.shape[1:] == tuple(size):
        return maps
    height, width = size
    resized = np.empty((len(maps), height, width), np.float32)
    for plane, target in zip(maps, resized):
        cv2.resize(plane, (width, height), dst=target)
    return resized


PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def open_session(path: Path, threads: int = 0, providers: Sequence[str] = PROVIDERS) -> Any:
    """An onnxruntime session, on the first of the providers that is there.

    Errors: FileNotFoundError, and ValueError if the file is no model, or onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("onnxruntime is missing; pip install onnxruntime") from None
    if not path.is_file():
        raise FileNotFoundError(f"no model at {path}; tools/export.py makes one")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    usable = onnxruntime.get_available_providers()
    wanted = [each for each in providers if each in usable]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # onnxruntime's own classes, one for each kind of failure
        raise ValueError(f"{path} is no ONNX model that onnxruntime can read: {error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Find the poses in photos, and write them as COCO results with the photos' names.

    Photos are numbered from 1. An unreadable one is named at the end and costs no other.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    path = lambda text: Path(os.path.expanduser(text))  # noqa: E731
    parser.add_argument("model", type=path, help="model.onnx, written by tools/export.py")
    parser.add_argument("images", type=path, nargs="+")
    parser.add_argument("--output", type=path, help="JSON to write; default: print it")
    parser.add_argument("--force", action="store_true", help="replace the file --output")
    known = parser.parse_args(arguments)
    try:
        if known.output:
            if known.output.suffix != ".json":  # a model, or a photo, for one
                raise ValueError(
                    f"--output is {known.output}; poses are written to a file named *.json"
                )
            if known.output.exists() and not known.force:
                raise FileExistsError(f"{known.output} exists; name another file, or add --force")
            check_writable(known.output)
        _predict_files(OnnxPredictor.load(known.model), known.images, known.output)
        sys.stdout.flush()  # a full disk is an error here, not at the exit
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {with_cure(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _predict_files(predictor: OnnxPredictor, paths: Sequence[Path], output: Path | None) -> None:
    results, broken, read = list[dict[str, Any]](), list[str](), 0
    try:
        for number, path in enumerate(paths, 1):
            try:
                poses = to_results(number, predictor(read_image(path)), PERSON)
                results += [{**pose, "file_name": str(path)} for pose in poses]
                read += 1
            except (ValueError, OSError, MemoryError, cv2.error) as error:
                broken.append(describe_error(path, error))
    finally:  # results before Ctrl-C are kept
        if output and read:
            write_json(output, results)
            print(f"{len(results)} people in {read} images; written to {output}")
        elif read:
            print(json.dumps(results))
    if broken:
        raise ValueError(f"{len(broken)} images could not be read: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
