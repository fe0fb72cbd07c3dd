"""Figures and photographs as HTML: charts as SVG, photographs as WebP, each with a text that says what it shows."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from lipcore.report.style import TRUE

#: Of WebP: above it files grow quickly and nobody sees why.
QUALITY = 78
#: What may stand in an address as it is, beside letters and digits; base64 would be a quarter longer.
PLAIN = " '()*+,-./:;=@_~"


@dataclass(frozen=True)
class Side:
    """One picture of a comparison.

    Attributes:
        image: what is shown.
        label: what a tab calls it.
        said: a line that stands on the picture.
        alt: what it shows, for those who do not see it.
    """

    image: Image.Image
    label: str
    said: str
    alt: str


def chart(figure: Figure, alt: str) -> str:
    """A figure of lines and letters as an image element; the figure is closed."""
    svg = _compact(_saved(figure, "svg").decode()).replace('"', "'")
    return _img(f"svg+xml,{quote(svg, safe=PLAIN)}", alt)


def photograph_figure(figure: Figure, alt: str) -> str:
    """A figure that holds photographs as an image element; the figure is closed."""
    with Image.open(io.BytesIO(_saved(figure, "png"))) as image:
        return photograph(image.convert("RGB"), alt)


def photograph(image: Image.Image, alt: str) -> str:
    """A photograph as an image element of its own size."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return _img(f"webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", alt, image.size)


def captioned(picture: str, caption: str) -> str:
    """A picture's HTML with a caption, HTML as well, below it."""
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def as_photograph(image: Tensor) -> Image.Image:
    """An image (1, 3, H, W) in 0..255 as a photograph."""
    return Image.fromarray(image[0].detach().round().clamp(0, 255).permute(1, 2, 0).byte().cpu().numpy())


def with_boxes(image: Tensor, boxes: Tensor, colour: str = TRUE, width: int = 2) -> Image.Image:
    """An image (1, 3, H, W) in 0..255 with boxes (N, 4), xyxy in pixels, drawn on it; each has a dark edge."""
    picture = as_photograph(image)
    draw = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in np.rint(boxes.detach().cpu().numpy()).tolist():
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="#000000")
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=width)
    return picture


def compare(before: Side, afters: Sequence[Side], caption: str, legend: str) -> str:
    """A before-and-after slider, with a tab for each picture after; without JavaScript the pictures one below another.

    Args:
        before: the clean image.
        afters: the attacked ones, the first is shown first.
        caption: HTML.
        legend: what the tabs choose between.
    """
    sides = [("lip-before", before), *(("lip-after", after) for after in afters)]
    pictures = "".join(
        f'<div class="{kind}" data-label="{escape(side.label)}">{photograph(side.image, side.alt)}'
        f"<p>{escape(side.said)}</p></div>"
        for kind, side in sides
    )
    head = f'<figure class="lip-compare" data-legend="{escape(legend)}">'
    return f"{head}{pictures}<figcaption>{caption}</figcaption></figure>"


def _saved(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
    plt.close(figure)
    return buffer.getvalue()


def _compact(svg: str) -> str:
    """An SVG without what nobody sees: who wrote it, comments, groups' names, indentation, thousandths of a point."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    return re.sub(r">\s+<", "><", re.sub(r"\s+", " ", svg)).strip()


def _img(data: str, alt: str, size: tuple[int, int] | None = None) -> str:
    sized = f' width="{size[0]}" height="{size[1]}"' if size else ""
    return f'<img src="data:image/{data}" alt="{escape(alt)}"{sized} />'
