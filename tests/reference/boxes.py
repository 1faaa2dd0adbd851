"""Boxes of people one at a time: the published clipping, overlaps, and who has a box."""


def clip_box(box, width, height):
    """The published box of a label: x, y, width - 1, height - 1 within the image; None: left out.

    Where that leaves no extent, published code goes on with a box of size 0; here it is left out,
    as is one that ends before its image begins.
    """
    x, y, w, h = (float(value) for value in box)
    if x + w <= 0 or y + h <= 0:
        return None
    left, top = max(0.0, x), max(0.0, y)
    right = min(width - 1.0, left + max(0.0, w - 1))
    bottom = min(height - 1.0, top + max(0.0, h - 1))
    if right <= left or bottom <= top:
        return None
    return [left, top, right - left, bottom - top]


def box_iou(first, second):
    """Intersection over union of two boxes x, y, width, height."""
    sides = [
        min(first[i] + first[i + 2], second[i] + second[i + 2]) - max(first[i], second[i])
        for i in range(2)
    ]
    common = max(0.0, sides[0]) * max(0.0, sides[1])
    return common / (first[2] * first[3] + second[2] * second[3] - common)


def best_of_images(entries, image_ids, category, min_score, count):
    """image id -> [(score, box)] best first, ties in the order of the entries, at most `count`."""
    found = {}
    for number in image_ids:
        own = [
            (each["score"], each["bbox"])
            for each in entries
            if each["image_id"] == number
            and each["category_id"] == category
            and each["score"] >= min_score
        ]
        for i in range(1, len(own)):  # insertion sort
            while i and own[i][0] > own[i - 1][0]:
                own[i - 1], own[i] = own[i], own[i - 1]
                i -= 1
        if own:
            found[number] = own[:count] if count else own
    return found


def joint_box(joints, width, height, margin):
    """The box about the found joints of a person, or None, in an image of this size."""
    found = [(x, y) for x, y, value in joints if value > 0]
    if len({(float(x), float(y)) for x, y in found}) < 2:
        return None
    sides = []
    for axis, end in ((0, width), (1, height)):
        places = [float(place[axis]) for place in found]
        middle = (min(places) + max(places)) / 2
        half = max((max(places) - min(places)) * (1 + margin), 1) / 2
        low, high = max(0.0, middle - half), min(float(end), middle + half)
        if high <= low:
            return None
        sides.append((low, high - low))
    (x, w), (y, h) = sides
    return [x, y, w, h]
