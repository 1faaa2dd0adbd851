"""The joints of one data set as those of another, name by name and person by person."""


def mapped_people(people, theirs, ours, same):
    """Keypoints of `people`, dicts with a flat list for the names `theirs`, as lists for `ours`.

    same: (name there, name here) -> whether it is one point of the body
    """
    mapped = []
    for person in people:
        values = []
        for name in ours:
            found = [0, 0, 0]
            for k, other in enumerate(theirs):
                if same(other, name):
                    found = list(person["keypoints"][3 * k : 3 * k + 3])
            values += found
        mapped.append(values)
    return mapped


def drawn_of_each(sizes, weights, epochs):
    """How often each data set is drawn in so many epochs, if every weight is met in each."""
    return [epochs * max(1, round(size * weight)) for size, weight in zip(sizes, weights)]


def masked_heatmap_loss(predicted, targets, mask, known):
    """Sum over the maps of known joints of the squared errors where the mask is 1, over all cells.

    predicted, targets: (B, K, H, W)   mask: (B, H, W)   known: (B, K) bool   Returns a list of B
    """
    losses = []
    for b in range(len(predicted)):
        total = 0.0
        for k in range(predicted.shape[1]):
            if known[b, k]:
                total = total + ((predicted[b, k] - targets[b, k]) ** 2 * mask[b]).sum()
        losses.append(total / predicted[b].numel())
    return losses
