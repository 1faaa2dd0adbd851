"""List published weights, fetch them by name, and verify what was fetched."""

from __future__ import annotations

import argparse
import sys

from hrpose.models.weight_cache import cache_folder, cached_file, check_zoo_file, local_file
from hrpose.models.zoo import PREFIX, ZOO, ZooFile, zoo_file
from hrpose.ops.atomic_io import sha256


def main(known: argparse.Namespace) -> None:
    rows = [zoo_file(PREFIX + name.removeprefix(PREFIX)) for name in known.names]
    chosen = [row for row in rows if row]
    if known.verify:
        here = [row for row in ZOO.values() if cached_file(row)]
        if not here and not chosen:
            print(f"nothing to verify: no file of the zoo is in {cache_folder()}")
        sys.exit(verify(chosen or here))
    if known.fetch and not chosen:
        raise ValueError("--fetch takes names: python tools/zoo.py --fetch hrnet_w32_imagenet")
    for row in chosen:
        print(fetched(row) if known.fetch else described(row))
    if not chosen:
        print(listed_zoo())


def listed_zoo() -> str:
    """A table of all rows."""
    lines = [("name", "AP", "data", "bytes", "cached")]
    for row in ZOO.values():
        here, ap = cached_file(row), row.result.partition(";")[0]
        size = here.stat().st_size if here else row.size
        state = "yes" if here else "by hand" if row.by_hand else "no"
        lines.append((row.name, ap or "-", row.data, f"{size or '-'}", state))
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    note = "AP is its source's, with flip test and at one scale; on MPII it is PCKh@.5"
    return "\n".join([*text, f"cache: {cache_folder()}", note])


def described(row: ZooFile) -> str:
    """All that is known of a file, and the command that uses it."""
    use = f"python tools/valid.py --cfg configs/{row.config}.yaml TEST.MODEL_FILE"
    if row.data == "ImageNet":
        use = f"python tools/train.py --cfg configs/{row.config}.yaml MODEL.PRETRAINED"
    publisher = row.publisher
    facts = {
        "file": cached_file(row) or f"{cache_folder() / row.file} (not here yet)",
        "by hand" if row.by_hand else "address": row.address,
        "take": row.by_hand,
        "bytes": row.size or "not stated",
        "checksum": row.checksum or "none is published",
        "publisher": publisher.page,
        "licence": f"code {publisher.code_licence}, weights {publisher.weights_licence}",
        "data": row.data,
        "coordinates": row.coordinates,
        "result": f"{row.result} ({row.measured})" if row.result else row.measured,
        "use": f"{use} {PREFIX}{row.name}",
    }
    return "\n".join([row.name, *(f"  {key:<12} {value}" for key, value in facts.items() if value)])


def fetched(row: ZooFile) -> str:
    path = local_file(PREFIX + row.name)
    return f"{path} ({path.stat().st_size} bytes)\nsha256 {sha256(path)}"


def verify(rows: list[ZooFile]) -> int:
    """Print the state of every file; status 1 if one is there, but not as listed."""
    damaged = 0
    for row in rows:
        path = cached_file(row)
        if path is None:
            print(f"{row.name}: not here")
            continue
        note = "" if row.checksum else ", as far as is known: no checksum is published"
        try:
            check_zoo_file(row, path)
            print(f"{row.name}: intact{note}")
        except ValueError as error:
            print(f"{row.name}: {error}")
            damaged = 1
    return damaged
