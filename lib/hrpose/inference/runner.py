"""A shipped model finds poses with onnxruntime, NumPy, SciPy and OpenCV; torch is not needed.

    python -m hrpose.inference.runner model.onnx photo.jpg --output poses.json

tools/export.py makes the model's file; how it is to be used stands in it (inference/recipe.py).
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

from hrpose.inference.decoding import brought_back, decode_maps, place_of
from hrpose.inference.recipe import KEY, Recipe, from_text
from hrpose.ops.affine import Affine, decoded_frame, fit, size_of
from hrpose.ops.blocks import refuse_broken
from hrpose.ops.cells import unpack
from hrpose.ops.files import refuse_unwritable, with_cure, write_json
from hrpose.ops.image import read_photo, told
from hrpose.structures import PERSON, Poses, to_results

Said = Mapping[str, np.ndarray]
Network = Callable[[np.ndarray], Said]
"""uint8 RGB (B, 3, H, W) -> the graph's outputs by name"""


class Runner:
    """Turns images into poses with a shipped model, as the predictor it was exported from does."""

    def __init__(self, network: Network, recipe: Recipe):
        self.network = network
        self.recipe = recipe

    @classmethod
    def load(cls, path: str | Path, threads: int = 0) -> Runner:
        """A runner of an ONNX file, on the GPU where onnxruntime has one.

        threads: of the CPU; 0: as onnxruntime sees fit
        """
        session = open_session(Path(path), threads)
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise ValueError(f"{path} says nothing of {KEY!r}; make it with tools/export.py")
        names = [output.name for output in session.get_outputs()]

        def network(images: np.ndarray) -> Said:
            given = {"images": np.ascontiguousarray(images)}
            try:
                return dict(zip(names, session.run(names, given)))
            except Exception as error:  # onnxruntime's own classes, want of memory among them
                raise ValueError(f"{path} cannot look at {images.shape}: {error}") from error

        return cls(network, from_text(text))

    def __call__(self, image: np.ndarray) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first."""
        return brought_back(*FINDERS[self.recipe.graph](self, image), self.to_maps(image))

    def to_maps(self, image: np.ndarray) -> Affine:
        """From the image's pixels to the cells of the maps that are decoded."""
        _, to_network = self._fit(image, self._base)
        return decoded_frame(to_network, self.recipe.stride, self.recipe.convention)

    def maps(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heatmaps (K, H, W) and tags (K, H, W, T) over all scales and views."""
        recipe = self.recipe
        (width, height), _ = self._fit(image, self._base)
        size = (height // recipe.stride, width // recipe.stride)
        looks = [self._look(image, scale, size) for scale in recipe.scales]
        heatmaps = np.mean([heatmaps for heatmaps, _ in looks], 0)
        return heatmaps, looks[recipe.scales.index(self._base)][1]

    @property
    def _base(self) -> float:
        """The scale in whose frame all are averaged, and whose tags are taken."""
        return 1.0 if len(self.recipe.scales) > 1 else self.recipe.scales[0]

    def _look(
        self, image: np.ndarray, scale: float, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One scale's heatmaps (K, *size), averaged over views, and tags (K, *size, T)."""
        plain = self.pixels(image, scale)
        said = self.network(np.stack([LOOKS[view](plain) for view in self.recipe.views]))
        heatmaps, tags = self._taken_together(said)
        whole = np.stack([resize(of_view, size) for of_view in tags])
        return resize(heatmaps, size), np.moveaxis(whole, 0, -1)

    def pixels(self, image: np.ndarray, scale: float) -> np.ndarray:
        """The image (H, W, 3) as the network sees it at this scale: (3, H, W) uint8."""
        size, to_network = self._fit(image, scale)
        return to_network.image(image, size).transpose(2, 0, 1)

    def _taken_together(self, said: Said) -> tuple[np.ndarray, list[np.ndarray]]:
        """Heatmaps (K, H, W) of a batch of views, and the tags (K, H, W) of each; all as fine as
        the finest output and in the frame of the plain image.
        """
        recipe = self.recipe
        finest = said[f"heatmaps_{recipe.strides[-1]}"].shape[2:]
        averaged = [said[f"heatmaps_{stride}"] for stride in recipe.averaged or recipe.strides]
        (tags,) = [maps for name, maps in said.items() if name.startswith("tags_")]

        def brought_back(maps: np.ndarray) -> list[np.ndarray]:
            flips = recipe.skeleton.flip_order
            return [UNDOS[view](resize(m, finest), flips) for view, m in zip(recipe.views, maps)]

        heatmaps = np.mean([brought_back(maps) for maps in averaged], (0, 1))
        return heatmaps, brought_back(tags)

    def _fit(self, image: np.ndarray, scale: float) -> tuple[tuple[int, int], Affine]:
        recipe = self.recipe
        return fit(size_of(image), recipe.input_size, scale, min(recipe.scales), recipe.convention)


People = tuple[np.ndarray, np.ndarray]
"""(N, K, 3 + T) x, y in cells of the maps, score, tags; scores (N,), best first"""


def from_outputs(runner: Runner, image: np.ndarray) -> People:
    """The people in an image, where the graph is the network alone."""
    return decode_maps(*runner.maps(image), runner.recipe.skeleton, runner.recipe.settings)


def from_peaks(runner: Runner, image: np.ndarray) -> People:
    """The people in an image, where the graph also takes views together and finds the peaks."""
    skeleton, settings = runner.recipe.skeleton, runner.recipe.settings
    said = runner.network(runner.pixels(image, runner.recipe.scales[0])[None])
    peaks, heatmaps, tags = (said[name][0] for name in ("peaks", "heatmaps", "tags"))
    refuse_broken(peaks)
    _, candidates = unpack(peaks, heatmaps.shape[-1], place_of(settings))
    return decode_maps(heatmaps, tags, skeleton, settings, candidates)


FINDERS: dict[str, Callable[[Runner, np.ndarray], People]] = {
    "network": from_outputs,
    "peaks": from_peaks,
}


LOOKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda image: image,
    "mirrored": lambda image: image[..., ::-1],
}
UNDOS: dict[str, Callable[[np.ndarray, list[int]], np.ndarray]] = {
    "plain": lambda maps, flip_order: maps,
    "mirrored": lambda maps, flip_order: maps[flip_order, :, ::-1],
}
"""The views of inference/tta.py: of an image (3, H, W), and back for maps (K, H, W)."""


def resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (K, H, W) float32 brought to `size` (H, W) bilinearly, as ops.heatmaps.resize does."""
    if maps.shape[1:] == tuple(size):
        return maps
    height, width = size
    resized = np.empty((len(maps), height, width), np.float32)
    for plane, place in zip(maps, resized):
        cv2.resize(plane, (width, height), dst=place)
    return resized


PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def open_session(path: Path, threads: int = 0, providers: Sequence[str] = PROVIDERS) -> Any:
    """An onnxruntime session, on the first of the providers that is there.

    Errors: FileNotFoundError, and ValueError where the file is no model, or onnxruntime missing.
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
    """Find the poses in photos, and write them like COCO results, with the photos' names.

    Photos are numbered from 1. One that cannot be read is named at the end and costs no other.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path, help="what tools/export.py wrote: model.onnx")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, help="JSON to write; default: print it")
    parser.add_argument("--force", action="store_true", help="replace the file --output")
    known = parser.parse_args(arguments)
    try:
        if known.output:
            _refuse_output(known.output, known.force)
        _find(Runner.load(known.model), known.images, known.output)
        sys.stdout.flush()  # what a full disk does not take is an error here, not at the exit
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {with_cure(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _refuse_output(path: Path, force: bool) -> None:
    if path.suffix != ".json":  # a model, or a photo, for one
        raise ValueError(f"--output is {path}; poses are written to a file named *.json")
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already; name another file, or add --force")
    refuse_unwritable(path)


def _find(runner: Runner, paths: Sequence[Path], output: Path | None) -> None:
    found, broken, read = list[dict[str, Any]](), list[str](), 0
    try:
        for number, path in enumerate(paths, 1):
            try:
                found += _results(runner, number, path)
                read += 1
            except (ValueError, OSError, MemoryError, cv2.error) as error:
                broken.append(told(path, error))
    finally:  # what was found before Ctrl-C is kept
        if output and read:
            write_json(output, found)
            print(f"{len(found)} people in {read} images; written to {output}")
        elif read:
            print(json.dumps(found))
    if broken:
        raise ValueError(f"{len(broken)} images could not be read: {'; '.join(broken)}")


def _results(runner: Runner, number: int, path: Path) -> list[dict[str, Any]]:
    named = to_results(number, runner(read_photo(path)), PERSON)
    return [{**pose, "file_name": str(path)} for pose in named]


if __name__ == "__main__":
    main()
