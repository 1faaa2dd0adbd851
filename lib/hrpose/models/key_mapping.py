"""Mapping between our tensor names and those of the published files, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache

RENAMES = (
    # ours                                           published
    ("backbone.stem.<i>.0.", "conv<i+1>."),
    ("backbone.stem.<i>.1.", "bn<i+1>."),
    ("backbone.stage1.", "layer1."),
    ("backbone.stage<s+1>.entry.0.", "transition<s>.0."),
    ("backbone.stage<s+1>.entry.<b>.", "transition<s>.<b>.0."),
    ("backbone.stage<s>.exchanges.<e>.branches.", "stage<s>.<e>.branches."),
    ("backbone.stage<s>.exchanges.<e>.routes.", "stage<s>.<e>.fuse_layers."),
    ("backbone.stage<s>.exchanges.<e>.fusions.", "stage<s>.<e>.fusions."),  # RAM: no published file
    ("heads.", "final_layers."),
    ("head.weight", "final_layer.weight"),
    ("head.bias", "final_layer.bias"),
    ("scale_branches.", "conv_scale_layers."),
    ("deconvs.<d>.up.", "deconv_layers.<d>.0."),
    ("deconvs.<d>.blocks.<b>.", "deconv_layers.<d>.<b+1>.0."),
    # Inside residual blocks, anywhere in a name; the rules above apply to its beginning.
    (".body.<i>.0.", ".conv<i+1>."),
    (".body.<i>.1.", ".bn<i+1>."),
    (".shortcut.", ".downsample."),
)
"""Parts of names, ours and published; the first rule that matches applies."""

OWN_WRAPPER = "network."
"""Prefix of the HigherHRNet inside our SWAHR."""

# Of DataParallel, half-precision training, torch.compile, Lightning, and our own.
_WRAPPERS = re.compile(r"^((module|1|_orig_mod|model|network)\.)*")

OWN_SCHEME, PUBLISHED_SCHEME = "hrpose", "published names"

MMPOSE_PREFIXES = {
    "mmpose 0.x": re.compile(r"^keypoint_head\."),
    "mmpose 1.x": re.compile(r"^head\.(?=final_layer\.)"),
    # Our own names begin with backbone. too, stage1.0 among them.
    "mmpose": re.compile(r"^backbone\.(?=(conv|bn)\d\.|layer1\.|transition\d\.|stage[234]\.\d)"),
}
"""Version of mmpose, the first that occurs in a file -> prefix before the published name."""

_FIELD = re.compile(r"<(\w)(\+\d)?>")


def _translate(name: str, source: str, target: str) -> str:
    """Replace the pattern `source` in `name` by `target`: <i> is a number, <i+1> its successor."""
    pattern, shifts = _pattern(source)

    def rewrite(found: re.Match[str]) -> str:
        numbers = {field: int(found[field]) - shift for field, shift in shifts.items()}
        return _FIELD.sub(lambda field: str(numbers[field[1]] + int(field[2] or 0)), target)

    return pattern.sub(rewrite, name)


@cache
def _pattern(source: str) -> tuple[re.Pattern[str], dict[str, int]]:
    """The regular expression of a rule, and the offset of each number in it."""
    shifts = {field: int(shift or 0) for field, shift in _FIELD.findall(source)}
    pattern = _FIELD.sub(r"(?P<\1>\\d+)", source.replace(".", r"\."))
    anchor = "" if source.startswith(".") else "^"
    return re.compile(anchor + pattern), shifts


def bare_name(name: str) -> str:
    """A name without wrapper prefixes."""
    return name[len(prefix(name)) :]


def prefix(name: str) -> str:
    """The wrapper prefixes of a name, e.g. module."""
    return _WRAPPERS.match(name)[0]  # type: ignore[index]  # matches the empty prefix too


@lru_cache(maxsize=1 << 14)  # loading asks for each name several times
def our_name(name: str) -> str:
    """Our name of a tensor, from a published name, mmpose's or one of ours."""
    name = bare_name(name)
    for mmpose in MMPOSE_PREFIXES.values():
        name = mmpose.sub("", name)
    for ours, published in RENAMES:
        name = _translate(name, published, ours)
    return name


def scheme_of(names: Iterable[str]) -> str:
    """Whose names these are: ours, published, or of a version of mmpose."""
    bare = [bare_name(name) for name in names]
    for version, mmpose in MMPOSE_PREFIXES.items():
        if any(map(mmpose.match, bare)):
            return version
    return PUBLISHED_SCHEME if any(map(is_published, bare)) else OWN_SCHEME


def name_in_single(name: str) -> str:
    """Our name, in a single top-down HRNet, of a tensor of Multi-Stage HRNet's networks."""
    return re.sub(r"^heads\.\d+\.", "head.", re.sub(r"^later\.\d+\.", "backbone.", name))


def is_published(name: str) -> bool:
    """Whether a name is of the published scheme and not also one of ours."""
    return our_name(name) != bare_name(name)


@lru_cache(maxsize=1 << 14)
def published_name(name: str) -> str:
    """The published name of a tensor, from one of ours."""
    name = bare_name(name)
    for ours, published in RENAMES:
        name = _translate(name, ours, published)
    return name
