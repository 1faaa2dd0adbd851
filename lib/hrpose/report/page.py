"""Sections of text, tables, figures and pictures as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import importlib
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


def require_packages() -> None:
    """ValueError, with the cure: a package that reports need is not installed."""
    for package in ("matplotlib", "jinja2"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ValueError(
                f"a report needs {package}, which is not installed: pip install -e '.[report]'"
            ) from None


def render_page(title: str, sections: Sequence[Section]) -> bytes:
    """The page, in UTF-8."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(title=title, sections=sections)
    return page.encode("utf-8", "replace")
