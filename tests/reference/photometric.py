"""Changes of colours pixel by pixel, one after the other, without rounding in between."""

import math


def recolour(image, *gains):
    """image (H, W, 3) of bytes, brightness, contrast, saturation, hue -> lists of floats."""
    return [[_pixel(*map(float, pixel), gains) for pixel in row] for row in image]


def _pixel(r, g, b, gains):
    brightness, contrast, saturation, hue = gains
    grey = 0.299 * r + 0.587 * g + 0.114 * b
    u, v = (b - grey) / 2.03, (r - grey) / 1.14
    angle, chroma = math.atan2(v, u) + math.radians(hue), saturation * math.hypot(u, v)
    b, r = grey + 2.03 * chroma * math.cos(angle), grey + 1.14 * chroma * math.sin(angle)
    g = (grey - 0.299 * r - 0.114 * b) / 0.587
    stretched = [(level - 127.5) * contrast + 127.5 + 255 * brightness for level in (r, g, b)]
    return [min(max(level, 0.0), 255.0) for level in stretched]


def draw_changes(rng, probability, *largest):
    """Four changes, each 0 unless it is made."""
    changes = [(2 * rng.random() - 1) * most for most in largest]
    return [change if rng.random() < probability else 0.0 for change in changes]
