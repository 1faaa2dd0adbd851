"""What a tensor of the same network is called here and in the published files: both ways."""

from __future__ import annotations

import re
from functools import cache

RENAMES = (
    # ours                                           published
    ("backbone.stem.<i>.0.", "conv<i+1>."),
    ("backbone.stem.<i>.1.", "bn<i+1>."),
    ("backbone.stage1.", "layer1."),
    ("backbone.stage<s+1>.entry.0.", "transition<s>.0."),
    ("backbone.stage<s+1>.entry.<b>.", "transition<s>.<b>.0."),
    ("backbone.stage<s>.exchanges.<e>.branches.", "stage<s>.<e>.branches."),
    ("backbone.stage<s>.exchanges.<e>.routes.", "stage<s>.<e>.fuse_layers."),
    ("heads.", "final_layers."),
    ("scale_branches.", "conv_scale_layers."),
    ("deconvs.<d>.up.", "deconv_layers.<d>.0."),
    ("deconvs.<d>.blocks.<b>.", "deconv_layers.<d>.<b+1>.0."),
    # Inside residual blocks, wherever they stand. The first rules speak of how a name begins.
    (".body.<i>.0.", ".conv<i+1>."),
    (".body.<i>.1.", ".bn<i+1>."),
    (".shortcut.", ".downsample."),
)
"""Pieces of a name, ours and published; where two rules fit, the first one speaks."""

OWN_WRAPPER = "network."
"""What models/swahr.py has around its HigherHRNet."""

# Of DataParallel, of half-precision training, and our own.
_WRAPPERS = re.compile(r"^((module|1|network)\.)*")

_FIELD = re.compile(r"<(\w)(\+\d)?>")


def _translate(name: str, source: str, target: str) -> str:
    """Rewrite what of `name` looks like `source`: <i> is any number, <i+1> the one after it."""
    pattern, shifts = _pattern(source)

    def rewrite(found: re.Match[str]) -> str:
        numbers = {field: int(found[field]) - shift for field, shift in shifts.items()}
        return _FIELD.sub(lambda field: str(numbers[field[1]] + int(field[2] or 0)), target)

    return pattern.sub(rewrite, name)


@cache
def _pattern(source: str) -> tuple[re.Pattern[str], dict[str, int]]:
    """What a piece of a name looks like, and what is added to each number in it."""
    shifts = {field: int(shift or 0) for field, shift in _FIELD.findall(source)}
    pattern = _FIELD.sub(r"(?P<\1>\\d+)", source.replace(".", r"\."))
    anchor = "" if source.startswith(".") else "^"
    return re.compile(anchor + pattern), shifts


def bare_name(name: str) -> str:
    """A name without what wraps the network."""
    return name[len(prefix(name)) :]


def prefix(name: str) -> str:
    """What wrappers of the network put before a name."""
    return _WRAPPERS.match(name)[0]  # type: ignore[index]  # it matches nothing, too


def our_name(name: str) -> str:
    """A published name, or one of ours, as ours."""
    name = bare_name(name)
    for ours, published in RENAMES:
        name = _translate(name, published, ours)
    return name


def is_published(name: str) -> bool:
    """Whether a name is one of the published files, and not ours as well."""
    return our_name(name) != bare_name(name)


def published_name(name: str) -> str:
    """A name of ours as the published files have it."""
    name = bare_name(name)
    for ours, published in RENAMES:
        name = _translate(name, ours, published)
    return name
