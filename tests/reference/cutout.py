"""Cutout pixel by pixel: is its middle in a square?"""


def hide_squares(image, rng, fill, probability=1.0, squares=1, side=0.5):
    """image (H, W, 3) -> a new one, with the colour `fill` in every pixel of a drawn square."""
    image = image.copy()
    height, width = image.shape[:2]
    if not rng.random() < probability:
        return image
    half = max(1, round(side * width)) / 2
    for _ in range(squares):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        for row in range(height):
            for column in range(width):
                if abs(column + 0.5 - x) < half and abs(row + 0.5 - y) < half:
                    image[row, column] = fill
    return image
