"""Clothes, hair and build: what tells one drawn person from another, and left from right.

Whoever is drawn wears two colours, light and warm on the left, dark and cool on the right, from
sleeve to shoe; so left and right can be told apart from the front and from behind.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hrpose.data.drawing.canvas import Colour
from hrpose.data.drawing.dice import pick

_SKINS = ((255, 219, 188), (243, 196, 158), (224, 168, 126), (192, 132, 92), (150, 98, 66))
_HAIRS = ((44, 32, 30), (78, 50, 34), (122, 74, 40), (196, 148, 76), (96, 92, 96), (140, 58, 34))
_WARM = ((252, 206, 84), (255, 164, 84), (250, 128, 106), (255, 232, 196), (252, 178, 190),
         (246, 244, 238), (255, 112, 84), (228, 208, 132))  # fmt: skip
_COOL = ((38, 56, 110), (22, 92, 98), (78, 52, 120), (34, 84, 62), (52, 58, 74),
         (86, 38, 66), (28, 76, 132), (44, 44, 52))  # fmt: skip
_SAND = ((238, 214, 160), (206, 196, 176), (238, 186, 130), (226, 226, 222), (232, 170, 150))
_INK = ((36, 44, 76), (46, 50, 58), (40, 66, 70), (66, 46, 70), (60, 52, 46))


class Outfit(NamedTuple):
    """What tells one person from another, and left from right."""

    skin: Colour
    hair: Colour
    tops: dict[str, Colour]  # side -> colour
    legs: dict[str, Colour]
    shoes: dict[str, Colour]
    accent: Colour
    sleeves: str  # long | short
    bottoms: str  # trousers | shorts | skirt
    hairdo: str  # short | long | bun | cap
    extra: str  # plain | glasses | beard
    girth: float


def choose_outfit(rng: np.random.Generator) -> Outfit:
    """Draw the clothes, hair and build of one person."""
    warm, cool = pick(_WARM, rng), pick(_COOL, rng)
    return Outfit(
        skin=pick(_SKINS, rng),
        hair=pick(_HAIRS, rng),
        tops={"left": warm, "right": cool},
        legs={"left": pick(_SAND, rng), "right": pick(_INK, rng)},
        shoes={"left": pick(((255, 250, 240), (255, 226, 90), (255, 150, 120)), rng),
               "right": pick(((30, 30, 36), (56, 30, 40), (26, 36, 66)), rng)},
        accent=pick(((226, 52, 62), (255, 255, 255), (34, 168, 196), (250, 190, 40)), rng),
        sleeves=pick(("long", "short"), rng),
        bottoms=pick(("trousers", "trousers", "shorts", "shorts", "skirt"), rng),
        hairdo=pick(("short", "short", "long", "long", "bun", "cap"), rng),
        extra=pick(("plain", "plain", "plain", "glasses", "beard"), rng),
        girth=0.92 + 0.3 * float(rng.random()),
    )  # fmt: skip
