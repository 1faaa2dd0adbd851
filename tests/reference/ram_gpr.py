"""RAM and GPR from the equations of their paper: one image, branch, cell and kernel tap at a time.

Zhang, He, Yao et al., arXiv 1909.05090, equations 1 to 6, with softmax in equation 2.
"""

import torch


def looped_ram(xs, layers, omega, beta):
    """Equations 1 to 3, of one output.

    xs: (B, C, h, w) of each of n inputs   omega, beta: (n,)
    layers: of each input (weight, bias) of the layers of E, with a ReLU between two of them
    """
    images = []
    for b in range(len(xs[0])):
        energies = []
        for x, stack in zip(xs, layers, strict=True):
            values = [channel.sum() / channel.numel() for channel in x[b]]
            for depth, (weight, bias) in enumerate(stack):
                before = [value.clamp(min=0) for value in values] if depth else values
                values = [
                    sum(w * value for w, value in zip(row, before, strict=True)) + offset
                    for row, offset in zip(weight, bias, strict=True)
                ]
            energies.append(values[0].exp())
        fused = 0
        for h, x in enumerate(xs):
            fused = fused + (energies[h] / sum(energies) * omega[h] + beta[h]) * x[b]
        images.append(fused)
    return torch.stack(images)


def looped_bilinear(x):
    """(B, C, h, w) -> (B, C, 2h, 2w); cells have a size, and the border is repeated."""
    height, width = x.shape[-2:]
    rows = []
    for i in range(2 * height):
        row = []
        for j in range(2 * width):
            y, z = (
                min(max((cell + 0.5) / 2 - 0.5, 0), n - 1) for cell, n in zip((i, j), x.shape[2:])
            )
            top, left = int(y), int(z)
            low, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = (1 - z + left) * x[..., top, left] + (z - left) * x[..., top, right]
            lower = (1 - z + left) * x[..., low, left] + (z - left) * x[..., low, right]
            row.append((1 - y + top) * upper + (y - top) * lower)
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def looped_deconv(x, weight, bias=None):
    """Every cell of (B, C, h, w) spreads (C, D, 4, 4) over (B, D, 2h, 2w), from one cell before."""
    height, width = x.shape[-2:]
    spread = x.new_zeros(len(x), weight.shape[1], 2 * height + 2, 2 * width + 2)
    for i in range(height):
        for j in range(width):
            for u in range(4):
                for v in range(4):
                    spread[..., 2 * i + u, 2 * j + v] += x[..., i, j] @ weight[..., u, v]
    inside = spread[..., 1:-1, 1:-1]
    return inside if bias is None else inside + bias[:, None, None]


def looped_conv(x, weight, bias=None):
    """(B, C, h, w), (D, C, k, k) -> (B, D, h, w), k odd, 0 outside."""
    side = weight.shape[-1]
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, [side // 2] * 4)
    result = 0
    for u in range(side):
        for v in range(side):
            seen = padded[..., u : u + height, v : v + width]
            result = result + torch.einsum("bchw,dc->bdhw", seen, weight[..., u, v])
    return result if bias is None else result + bias[:, None, None]


def looped_norm(x, state, name, training):
    """BatchNorm with the statistics of x (B, C, h, w), or those in `state`."""
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        mean = x.mean((0, 2, 3))
        variance = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
    scale = state[f"{name}.weight"] / (variance + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]


def looped_gpr(xs, state, training):
    """Equations 4 and 5: interpolation first, then the convolution of Int, as they are printed.

    xs: the branches, finest first   state: the tensors of a GPR, whose norms are optional
    """
    *finer, coarse = xs
    for k, fine in enumerate(reversed(finer)):
        step = f"steps.{k}"
        inter = looped_bilinear(coarse)
        if f"{step}.interpolate.0.weight" in state:
            bias = state.get(f"{step}.interpolate.0.bias")
            inter = looped_conv(inter, state[f"{step}.interpolate.0.weight"], bias)
        if f"{step}.interpolate.2.weight" in state:
            inter = looped_norm(inter, state, f"{step}.interpolate.2", training)
        if f"{step}.deconv.weight" in state:
            deconv = looped_deconv(
                coarse, state[f"{step}.deconv.weight"], state[f"{step}.deconv.bias"]
            )
        else:
            deconv = looped_deconv(coarse, state[f"{step}.deconv.0.weight"])
            deconv = looped_norm(deconv, state, f"{step}.deconv.1", training).clamp(min=0)
        coarse = torch.cat([inter + deconv, fine], 1)
        if f"{step}.merge.0.weight" in state:
            coarse = looped_conv(coarse, state[f"{step}.merge.0.weight"])
            coarse = looped_norm(coarse, state, f"{step}.merge.1", training).clamp(min=0)
    return coarse
