"""The graphs that are exported: uint8 images in, named tensors out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hrpose.inference.bottomup import run_views
from hrpose.inference.spec import VIEWS, InferenceSpec
from hrpose.models.swahr import SWAHR
from hrpose.ops.normalize import normalize
from hrpose.ops.peaks import find_peaks, gather_cells
from hrpose.structures import HeadOutput

GraphOutputs = dict[str, Tensor]


class NetworkGraph(nn.Module):
    """uint8 RGB (B, 3, H, W) -> heatmaps_<stride> of every resolution, tags_<stride> of one, and
    offsets_<stride>."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = inference_part(network).eval()

    def forward(self, images: Tensor) -> GraphOutputs:
        outputs: GraphOutputs = {}
        for output in self.network(normalize(images)):
            outputs[f"heatmaps_{output.stride}"] = output.heatmaps
            if output.tags is not None:
                outputs[f"tags_{output.stride}"] = output.tags
            if output.offsets is not None:
                outputs[f"offsets_{output.stride}"] = output.offsets
        return outputs


class PeaksGraph(nn.Module):
    """uint8 RGB (B, 3, H, W) -> heatmaps and tags aggregated over all views, and their peaks.

    heatmaps: (B, K, h, w)   tags: (B, K, h, w, T)   peaks: see `peaks`
    """

    def __init__(self, network: nn.Module, spec: InferenceSpec) -> None:
        super().__init__()
        self.network = inference_part(network).eval()
        self.spec = spec
        self.views = [VIEWS[name](spec.skeleton) for name in spec.views]

    def forward(self, images: Tensor) -> GraphOutputs:
        stride = self.spec.stride
        size = (images.shape[-2] // stride, images.shape[-1] // stride)
        of_view = self._run_batched(images)
        maps = run_views(lambda _: next(of_view), images, self.views, size, self.spec.aggregate)
        peaks = self.peaks(maps.heatmaps, maps.tags)
        return {"heatmaps": maps.heatmaps, "tags": maps.tags, "peaks": peaks}

    def peaks(self, heatmaps: Tensor, tags: Tensor) -> Tensor:
        """The peaks of every joint with their surroundings: (B, K, M, 10 + T), see gather_cells."""
        decoder = self.spec.decoder
        cells = find_peaks(heatmaps, decoder.max_people, decoder.nms_kernel)
        return gather_cells(heatmaps, tags, cells)

    def _run_batched(self, images: Tensor) -> Iterator[list[HeadOutput]]:
        """The outputs of each view, from one pass over all: the file holds the network once."""
        count = len(self.views)
        batch = torch.cat([images.flip(view.axes) for view in self.views])  # (views * B, 3, H, W)
        outputs = self.network(normalize(batch))
        heatmaps = [output.heatmaps.unflatten(0, (count, -1)) for output in outputs]
        tags = [o.tags if o.tags is None else o.tags.unflatten(0, (count, -1)) for o in outputs]
        for i in range(count):
            yield [
                output._replace(heatmaps=heat[i], tags=tag if tag is None else tag[i])
                for output, heat, tag in zip(outputs, heatmaps, tags)
            ]


def inference_part(network: nn.Module) -> nn.Module:
    """The network without what only training needs."""
    return network.network if isinstance(network, SWAHR) else network


def example(batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Images of noise: (batch, 3, *size) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
