"""Figures and photographs as HTML: drawings as SVG in the page, so that they follow its theme, photographs as WebP,
each with a text that says what it shows."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from lipcore.report.style import DETECTOR_COLOURS, GROUND, INK, METHOD_COLOURS, TRUE

#: Of WebP: above it files grow quickly and nobody sees why.
QUALITY = 78
#: Points of a drawing that are as wide as a phone's page: a wider one scrolls there.
PHONE = 290
#: Colours of a drawing that the page's theme decides.
THEMED = {INK: "currentcolor", GROUND: "var(--pst-color-background)"} | {
    colour: f"var(--lip-{colour[1:]},{colour})"
    for colour in {*METHOD_COLOURS.values(), *DETECTOR_COLOURS.values()} - {INK}
}


@dataclass(frozen=True)
class Side:
    """One picture of a comparison.

    Attributes:
        image: what is shown.
        label: what a tab calls it.
        said: a line that stands below the picture.
        alt: what it shows, for those who do not see it.
    """

    image: Image.Image
    label: str
    said: str
    alt: str


def chart(figure: Figure, alt: str, narrow: Figure | None = None) -> str:
    """A figure as a drawing in the page; figures are closed.

    Args:
        figure: what it holds of photographs becomes WebP.
        alt: what it shows, for those who do not see it.
        narrow: what a phone shows in its place.
    """
    if narrow is None:
        return _drawing(figure, alt)
    return _drawing(figure, alt, "lip-wide") + _drawing(narrow, alt, "lip-narrow")


def photograph(image: Image.Image, alt: str) -> str:
    """A photograph as an image element of its own size."""
    width, height = image.size
    return f'<img src="{_webp(image)}" alt="{escape(alt)}" width="{width}" height="{height}" />'


def captioned(picture: str, caption: str) -> str:
    """A picture's HTML with a caption, HTML as well, below it."""
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def as_photograph(image: Tensor) -> Image.Image:
    """An image (1, 3, H, W) in 0..255 as a photograph."""
    return Image.fromarray(image[0].detach().round().clamp(0, 255).permute(1, 2, 0).byte().cpu().numpy())


def boxed(picture: Image.Image, boxes: Tensor, colour: str = TRUE, width: int = 2) -> Image.Image:
    """The picture itself, with boxes (N, 4), xyxy in pixels, drawn on it; each has a dark edge."""
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


def pairs(sides: Sequence[Side]) -> str:
    """HTML: photographs two beside one another, each above its line; on a phone all one below another."""
    pictures = "".join(f"<div>{photograph(s.image, s.alt)}<p>{escape(s.said)}</p></div>" for s in sides)
    return f'<div class="lip-pairs">{pictures}</div>'


def _drawing(figure: Figure, alt: str, *classes: str) -> str:
    """A figure as an SVG element: letters stay letters, ids are its own, colours follow the theme."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = _compact(buffer.getvalue())
    width, height = (float(n) for n in re.findall(r"[\d.]+", re.search(r'viewBox="0 0 ([^"]*)"', svg)[1]))  # type: ignore[index]
    of = hashlib.sha256(svg.encode()).hexdigest()[:6]
    inside = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{of}", svg.partition(">")[2])
    for colour, themed in THEMED.items():
        inside = inside.replace(colour, themed)
    scrolls = ("lip-scrolls",) if width > PHONE else ()
    return (
        f'<svg class="{" ".join(("lip-chart", *classes, *scrolls))}" role="img" aria-label="{escape(alt)}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width / 0.75:.0f}" height="{height / 0.75:.0f}" '
        f'style="--width:{width:.0f}">{inside}'
    )


def _compact(svg: str) -> str:
    """An SVG without what nobody sees: who wrote it, comments, style sheets (the page's own serves), fonts' names,
    groups' names, indentation, thousandths of a point; lines that are drawn alike, such as error bars, become one path,
    and PNG becomes WebP."""
    gone = r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>"
    svg = re.sub(gone, "", svg, flags=re.DOTALL)
    svg = re.sub(r'"data:image/png;base64,([^"]*)"', lambda png: f'"{_webp(_decoded(png[1]))}"', svg)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    places = r'(?<= d=")[^"]*|(?<= [xy]=")[^"]*|(?<=translate\()[^)]*|(?<=rotate\()[^)]*'
    svg = re.sub(places, lambda numbers: re.sub(r"(\.\d)\d+", r"\1", numbers[0]), svg)
    svg = re.sub(r">\s+<", "><", re.sub(r"\s+", " ", svg)).strip()
    svg = re.sub(r'(?<= style=")[^"]*', lambda style: re.sub(r"([:;]) ", r"\1", style[0]), svg)
    alike = r'(<path d="[^"]*)"([^>]*style="fill:none[^>]*/>)(?:<path d="([^"]*)"\2)'
    while (merged := re.sub(alike, r'\1\3"\2', svg)) != svg:
        svg = merged
    return svg


def _decoded(png: str) -> Image.Image:
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.load()
        return image


def _webp(image: Image.Image) -> str:
    """An image's address, the shorter one of what WebP keeps of a photograph and of a drawing without loss."""
    found = []
    for lossless in (False, True):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=QUALITY, method=6, lossless=lossless)
        found.append(buffer.getvalue())
    return f"data:image/webp;base64,{base64.b64encode(min(found, key=len)).decode()}"
