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
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hrpose.inference.onnx_bottomup import OnnxBottomUpPredictor
from hrpose.inference.onnx_topdown import OnnxTopDownPredictor
from hrpose.inference.spec import METADATA_KEY, ExportedModel, InferenceSpec, Network, from_json
from hrpose.inference.topdown_spec import BOXES_WANTED, TopDownSpec
from hrpose.ops.atomic_io import check_writable, with_cure, write_json
from hrpose.ops.image import describe_error, read_image
from hrpose.structures import PERSON, Poses, to_results

PREDICTORS: dict[type, Callable[[Network, ExportedModel], Any]] = {
    InferenceSpec: OnnxBottomUpPredictor,
    TopDownSpec: OnnxTopDownPredictor,
}


class OnnxPredictor:
    """Poses in images by an exported model, equal to those of the predictor it was exported from.

    The file decides the family: a top-down model also takes boxes.
    """

    def __init__(self, network: Network, model: ExportedModel):
        self.network = network
        self.model = model
        self.spec = model.spec
        self.steps = PREDICTORS[type(model.spec)](network, model)

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

        def network(images: np.ndarray) -> Mapping[str, np.ndarray]:
            try:
                return dict(zip(names, session.run(names, {"images": images})))
            except Exception as error:  # onnxruntime's own classes, out of memory among them
                raise ValueError(f"{path} cannot process {images.shape}: {error}") from error

        return cls(network, from_json(text))

    def __call__(self, image: np.ndarray, boxes: Any = None, box_scores: Any = None) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first.

        boxes: (N, 4) x, y, width, height in image pixels, of a top-down model only, which needs
               them   box_scores: (N,); None: 1
        Errors: ValueError for boxes that the family does not take, or lacks.
        """
        return self.steps(image, boxes, box_scores)


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
        predictor = OnnxPredictor.load(known.model)
        if isinstance(predictor.spec, TopDownSpec):
            raise ValueError(f"{known.model}: {BOXES_WANTED}")
        _predict_files(predictor, known.images, known.output)
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
