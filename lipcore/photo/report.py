"""A page about hidden photographs that stands alone: pictures, what every detector finds, and what is not protected."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lipcore.attacks.hiding import Hiding
from lipcore.detectors import Detections, Detector, load_detector, tiles
from lipcore.detectors.weights import locate
from lipcore.errors import ImageError
from lipcore.images import load_image
from lipcore.names import FACE_DETECTORS
from lipcore.paths import replacing
from lipcore.photo.batch import Loading
from lipcore.photo.hide import Outcome
from lipcore.report.style import detector_name, method_name
from lipcore.treatments import TREATMENTS

#: The longest side of a picture in the page, in pixels, and how much the noise is amplified there.
PICTURE, AMPLIFIED = 1200, 16
#: What the written file may go through; the first is nothing.
SHOWN = ("none", "jpeg 75", "half size")
LIMITS = (
    "Other detectors. The noise is made on the detectors named as attacked. From others it hides few faces or none: "
    "see their rows above.",
    "What happens to the file. A JPEG, a smaller copy, a screenshot or a messenger's own compression washes noise out, "
    "and faces come back: see the columns above. The file written is the only one that was measured as it is.",
    "People. They see every face as before, and so does whoever looks at the picture by eye.",
    "Tags and templates made earlier from other pictures; and whoever has the original, which is unchanged.",
    "A detector trained to withstand such noise, or one that blurs, scales or crops the picture before it looks.",
)


def check_report(path: Path) -> None:
    """Refuses a name that the page could not be written to, before anything is computed.

    Raises:
        ImageError: not .html, or no such folder.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ImageError(f"the report is a page; its name ends in .html, not {path.name!r}")
    if path.is_dir() or not path.parent.is_dir():
        raise ImageError(f"cannot write {path}: it is a folder, or its folder is not there; make that first")


def write_report(path: Path, outcomes: Sequence[Outcome], hiding: Hiding, loading: Loading) -> Path:
    """Writes the page, whole or not at all.

    Args:
        path: of the page.
        outcomes: what became of the photographs; those without a written file are named.
        hiding: how they were attacked.
        loading: the detectors attacked; those of the book that are at hand are looked at beside them.
    """
    others = [name for name in FACE_DETECTORS if name not in loading.names and locate(name) is not None]
    detectors = loading.load() | {name: load_detector(name, device=loading.device) for name in others}
    parts = "\n".join(_section(outcome, detectors, loading.names, hiding) for outcome in outcomes)
    limits = "".join(f"<li>{escape(limit)}</li>" for limit in LIMITS)
    title = f"{len(outcomes)} photograph{'' if len(outcomes) == 1 else 's'}, faces hidden"
    page = (
        PAGE.replace("{title}", title)
        .replace("{attacked}", escape(", ".join(map(detector_name, loading.names))))
        .replace("{sections}", parts)
        .replace("{limits}", limits)
    )
    try:
        with replacing(path) as file:
            file.write(page.encode())
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error}") from error
    return path


def _section(outcome: Outcome, detectors: Mapping[str, Detector], attacked: Sequence[str], hiding: Hiding) -> str:
    """One photograph's part of the page."""
    name = escape(Path(outcome.photo).name)
    if not outcome.output or not Path(outcome.output).is_file():
        return f"<section><h2>{name}</h2><p>Nothing was written: {escape(outcome.message)}</p></section>"
    clean, saved = load_image(outcome.photo).pixels, load_image(outcome.output).pixels
    if clean.shape != saved.shape:
        return f"<section><h2>{name}</h2><p>The file that was kept is not of this photograph's size.</p></section>"
    rows, boxes, threshold = [], {}, hiding.matching.tau_attack
    for detector, model in detectors.items():
        if min(clean.shape[2:]) < model.min_side:
            continue
        place = model.device
        before = tiles.detect(model, clean.to(place), threshold)
        after = [tiles.detect(model, TREATMENTS[t](saved).to(place), threshold) for t in SHOWN]
        boxes[detector] = (before, after[0])
        cells = "".join(f"<td>{len(a)}</td>" for a in after)
        mark, kind = (" (attacked)", ' class="attacked"') if detector in attacked else ("", "")
        head = f'<th scope="row">{escape(detector_name(detector))}{mark}</th>'
        rows.append(f"<tr{kind}>{head}<td>{len(before)}</td>{cells}</tr>")
    shown = next((d for d in boxes if d in attacked), next(iter(boxes)))
    before, after_none = boxes[shown]
    method = method_name(getattr(hiding.perturbation, "name", str(hiding.perturbation)))
    made = f"{method} at epsilon {outcome.epsilon:g}, {outcome.steps} steps"
    size = f"{clean.shape[3]} x {clean.shape[2]} px"
    change = (saved - clean).abs()
    return SECTION.format(
        name=name,
        before=_picture(clean),
        after=_picture(saved),
        noise=_picture(((saved - clean) * AMPLIFIED + 127).clamp(0, 255)),
        boxes_before=_drawn(before, clean),
        boxes_after=_drawn(after_none, clean),
        n_before=len(before),
        n_after=len(after_none),
        shown=escape(detector_name(shown)),
        made=escape("Written by an earlier run" if outcome.status == "kept" else made),
        ratio=f"{clean.shape[3] / clean.shape[2]:.4f}",
        rows="".join(rows),
        largest=f"{float(change.max()):g}",
        touched=f"{float((change > 0).any(1).float().mean()):.0%}",
        psnr=f", {outcome.change.psnr:.1f} dB PSNR, SSIM {outcome.change.ssim:.3f}" if outcome.change else "",
        size=size,
        amplified=AMPLIFIED,
        threshold=f"{threshold:g}",
    )


def _picture(pixels: Tensor) -> str:
    """A data address of a picture of at most :data:`PICTURE` px a side; for the eye only."""
    image = Image.fromarray(pixels[0].permute(1, 2, 0).round().to(torch.uint8).cpu().numpy())
    image.thumbnail((PICTURE, PICTURE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _drawn(found: Detections, image: Tensor) -> str:
    """Boxes as an SVG drawing over the picture."""
    height, width = image.shape[2:]
    rects = "".join(
        f'<rect x="{x1:.0f}" y="{y1:.0f}" width="{x2 - x1:.0f}" height="{y2 - y1:.0f}"/>'
        for x1, y1, x2, y2 in np.asarray(found.boxes.cpu()).tolist()
    )
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{rects}</svg>'


SECTION = """<section>
<h2>{name}</h2>
<p>{shown} finds {n_before} faces before and {n_after} after (probability at least {threshold}).</p>
<div class="pair" style="--ratio: {ratio}">
<figure><img src="{before}" alt="{name} as it was, with the {n_before} faces found">{boxes_before}
<figcaption>before</figcaption></figure>
<figure class="over"><img src="{after}" alt="{name} as written, with the {n_after} faces still found">{boxes_after}
<figcaption>after</figcaption></figure>
<label class="slide"><input type="range" min="0" max="100" value="50" aria-label="Where the line between the photograph
before and after is"><span>before, left of the line</span><span>after, right of it</span></label>
</div>
<p class="small">{made}: the largest change of a value is {largest} of 255;
{touched} of the pixels are touched{psnr}.</p>
<div class="wide"><table><caption>Faces found on the photograph ({size}) and on the written file: as it is, as a JPEG of
quality 75, and shrunk to half its size and back.</caption>
<tr><th scope="col">detector</th><th scope="col">before</th><th scope="col">after</th><th scope="col">JPEG 75</th>
<th scope="col">half size</th></tr>{rows}</table></div>
<details><summary>The change, {amplified} times as strong</summary>
<img src="{noise}" alt="The difference between both, amplified {amplified} times around grey"></details>
</section>"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
script-src 'unsafe-inline'"><title>{title}</title><style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere; }
section { margin-top: 2.5rem; }
.pair { max-width: min(100%, calc(80vh * var(--ratio))); margin: 0 auto; position: relative; }
figure { margin: 0 0 .5rem; position: relative; }
img { width: 100%; display: block; }
svg { position: absolute; inset: 0; width: 100%; filter: drop-shadow(0 0 1px #000); }
rect { fill: none; stroke: #ff922b; stroke-width: 2; vector-effect: non-scaling-stroke; }
figcaption, caption, .small, .slide { font-size: .9rem; }
.slide { display: none; }
.js .over { position: absolute; inset: 0 0 auto; clip-path: inset(0 0 0 var(--cut, 50%)); }
.js .over::after { content: ""; position: absolute; inset: 0 auto 0 var(--cut, 50%); width: 2px; background: #fff;
  box-shadow: 0 0 2px #000; }
.js .slide { display: flex; flex-wrap: wrap; justify-content: space-between; }
.js figcaption { display: none; }
input { flex: 0 0 100%; margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { border-bottom: 1px solid rgb(128 128 128 / .4); padding: .25rem .5rem; text-align: right; }
th[scope=row] { font-weight: normal; }
.attacked, .attacked th[scope=row] { font-weight: bold; }
tr > :first-child { text-align: left; }
</style></head><body>
<h1>{title}</h1>
<p>The faces were hidden from: {attacked}. Every count below was made on the written file, read again.</p>
{sections}
<h2>What this does not protect from</h2>
<ul>{limits}</ul>
<script>
document.body.classList.add("js");
for (const slide of document.querySelectorAll(".slide input")) {
  const over = slide.closest("section").querySelector(".over");
  const cut = () => over.style.setProperty("--cut", slide.value + "%");
  slide.addEventListener("input", cut);
  cut();
}
</script>
</body></html>
"""
