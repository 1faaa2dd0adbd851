"""Poses by an exported model, with onnxruntime, NumPy, SciPy and OpenCV; torch is not needed.

    python -m hrpose.inference.onnx_predictor model.onnx photo.jpg --output poses.json

tools/export.py writes the model's file, and how to use it into its metadata (inference/spec.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hrpose.inference.decode import check_finite, decode, drop_duplicate_peaks
from hrpose.inference.spec import (
    METADATA_KEY,
    ExportedModel,
    InferenceSpec,
    NetworkInput,
    from_json,
    to_image_coords,
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
        self.spec: InferenceSpec = model.spec

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

    def __call__(self, image: np.ndarray) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first."""
        inputs = self.preprocess(image)
        spec = self.spec
        if self.model.graph == "peaks":
            people = decode(*self.forward_peaks(inputs))
        else:
            people = decode(*self.forward(inputs), spec.skeleton, spec.decoder)
        return to_image_coords(*people, inputs.to_maps)

    def preprocess(self, image: np.ndarray) -> NetworkInput:
        """The image (H, W, 3) uint8 RGB at every scale."""
        return self.spec.preprocess(image)

    def forward(self, inputs: NetworkInput) -> tuple[np.ndarray, np.ndarray]:
        """Heatmaps (K, H, W) and tags (K, H, W, T) over all scales and views.

        For a graph that is the network only.
        """
        maps = [self._run_views(pixels, inputs.size) for pixels in inputs.pixels]
        return np.mean([heatmaps for heatmaps, _ in maps], 0), maps[self.spec.base][1]

    def forward_peaks(self, inputs: NetworkInput) -> tuple[Any, ...]:
        """The arguments of `decode`, for a graph that also runs the views and finds the peaks."""
        spec = self.spec
        outputs = self.network(to_planes(inputs.pixels[0])[None])
        packed, heatmaps, tags = (outputs[name][0] for name in ("peaks", "heatmaps", "tags"))
        check_finite(heatmaps)  # the graph finds no peak where they are not
        peaks = unpack_keypoints(packed, heatmaps.shape[-1], spec.decoder.subpixel)
        check_finite(peaks)
        if spec.decoder.unique_peaks:
            peaks = drop_duplicate_peaks(peaks, spec.decoder.nms_kernel // 2)
        return heatmaps, tags, spec.skeleton, spec.decoder, Candidates(peaks)

    def _run_views(
        self, pixels: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One scale's heatmaps (K, *size), averaged over views, and tags (K, *size, T)."""
        spec, strides = self.spec, self.model.strides
        image = to_planes(pixels)
        outputs = self.network(np.stack([HOST_VIEWS[view][0](image) for view in spec.views]))
        finest = outputs[f"heatmaps_{strides[-1]}"].shape[2:]
        averaged = [outputs[f"heatmaps_{stride}"] for stride in spec.aggregate or strides]
        (tags,) = [maps for name, maps in outputs.items() if name.startswith("tags_")]

        def undone(maps: np.ndarray) -> list[np.ndarray]:
            """The maps (K, *finest) of each view, in the frame of the plain image."""
            flip_order = spec.skeleton.flip_order
            return [
                HOST_VIEWS[view][1](resize_on_host(each, finest), flip_order)
                for view, each in zip(spec.views, maps)
            ]

        heatmaps = np.mean([undone(maps) for maps in averaged], (0, 1))
        stacked = np.stack([resize_on_host(of_view, size) for of_view in undone(tags)])
        return resize_on_host(heatmaps, size), np.moveaxis(stacked, 0, -1)


Transform = Callable[..., np.ndarray]
HOST_VIEWS: dict[str, tuple[Transform, Transform]] = {
    "identity": (lambda image: image, lambda maps, flip_order: maps),
    "flip": (
        lambda image: image[..., ::-1],
        lambda maps, flip_order: maps[flip_order, :, ::-1],
    ),
}
"""The views of inference/tta.py: of an image (3, H, W), and back for maps (K, H, W)."""


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
    parser.add_argument("model", type=Path, help="model.onnx, written by tools/export.py")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, help="JSON to write; default: print it")
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
