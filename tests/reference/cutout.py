"""Cutout pixel by pixel: is its middle in a square or rectangle?"""

USUAL = {"probability": 1.0, "squares": 1, "side": 0.5, "min_squares": 0, "min_side": 0}


def hide_squares(image, rng, fill, **given):
    """image (H, W, 3) -> a new one, with the colour `fill` in every pixel of a drawn rectangle."""
    probability, squares, side, fewest, shortest = (USUAL | given).values()
    image = image.copy()
    height, width = image.shape[:2]
    if not rng.random() < probability:
        return image
    for _ in range(rng.integers(fewest, squares + 1) if fewest else squares):
        sides = [rng.uniform(shortest, side) if shortest else side for _ in "wh"]
        half_w, half_h = (max(1, round(each * width)) / 2 for each in sides)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        for row in range(height):
            for column in range(width):
                if abs(column + 0.5 - x) < half_w and abs(row + 0.5 - y) < half_h:
                    image[row, column] = fill
    return image
