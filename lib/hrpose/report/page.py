"""Sections of text, tables, figures and pictures as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hrpose.ops.image import encode

TEMPLATE = "template.html"


@dataclass(frozen=True)
class Table:
    """Rows of text; the first of each is its name."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture (H, W, 3) uint8 RGB and the text below it."""

    image: np.ndarray
    caption: str

    @property
    def address(self) -> str:
        """The picture itself, as JPEG."""
        return f"data:image/jpeg;base64,{base64.b64encode(encode(self.image, '.jpg')).decode()}"


@dataclass
class Section:
    """A part of a page. figures: SVG, the only part that is not escaped"""

    title: str
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    galleries: dict[str, list[Picture]] = field(default_factory=dict)


def render_page(title: str, sections: Sequence[Section]) -> bytes:
    """The page. ValueError, with the cure: jinja2 is not installed."""
    try:
        import jinja2
    except ImportError:
        raise ValueError(
            "a report needs jinja2, which is not installed: pip install -e '.[report]'"
        ) from None
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template(TEMPLATE).render(title=title, sections=sections)
    return page.encode("utf-8", "replace")
