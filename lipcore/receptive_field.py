"""Receptive fields: the theoretical one (TRF) and the effective one (ERF, Luo et al. 2016).

The TRF of a response is every pixel it could depend on; it follows from the layers alone. The ERF is where its
gradient really is: |d f / d X| summed over the channels and averaged over images, a bump around the response's centre.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipcore.datasets.synthetic import calibration_images
from lipcore.detectors.base import Detector, Responses
from lipcore.errors import DetectorError, OptionError
from lipcore.graph.recorded import Recorded

#: The masses for which sides are tabulated (A4).
MASSES = (0.5, 0.75, 0.9, 0.95, 0.99)
CALIBRATION_IMAGES = 8
_TRF_CANVAS = (256, 576, 1152, 2304)
_TRF_STRIP = 64
_SCALE_SIZES = (256, 512)


@dataclass(frozen=True)
class GaussianFit:
    """A 2D Gaussian, axes along the image's, fitted to a gradient map by least squares (claim C3).

    Attributes:
        amplitude: its peak, in the map's unit.
        x, y: its centre relative to the response's centre, in pixels.
        sigma_x, sigma_y: its standard deviations, in pixels.
        r2: coefficient of determination over the window fitted, at most 1.
    """

    amplitude: float
    x: float
    y: float
    sigma_x: float
    sigma_y: float
    r2: float

    def __call__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Its value at offsets ``x``, ``y`` (pixels) from the response's centre."""
        value: NDArray[np.float64] = self.amplitude * np.exp(
            -((x - self.x) ** 2) / (2 * self.sigma_x**2) - (y - self.y) ** 2 / (2 * self.sigma_y**2)
        )
        return value

    def side(self, mass: float) -> float:
        """Side in pixels of the centred square that holds ``mass`` of the Gaussian of the mean standard deviation."""
        sigma = (self.sigma_x + self.sigma_y) / 2
        return float(2 * np.sqrt(2) * sigma * torch.erfinv(torch.tensor(mass, dtype=torch.float64).sqrt()))


@dataclass(frozen=True)
class TemplateErf:
    """How large the ERF of one template is: all that an attack needs to know of it.

    Attributes:
        template: its name.
        sides: mass -> side in pixels of the smallest centred square that holds it.
        fit: Gaussian fitted to the mean |gradient| of the central response.
        n: how many calibration images.
    """

    template: str
    sides: dict[float, int]
    fit: GaussianFit
    n: int


@dataclass(frozen=True)
class MeasuredErf(TemplateErf):
    """The ERF of one template with the map it was measured on.

    Attributes:
        gradient: (S, S) mean |gradient| of the central response; the response's centre is at (S/2, S/2).
    """

    gradient: NDArray[np.float64]


#: The ERF of a detector: one entry per template.
Erf = tuple[TemplateErf, ...]


def gradient_map(detector: Detector, image: Tensor, response: int) -> Tensor:
    """|d f / d X| of one response, summed over the channels.

    Args:
        detector: any detector.
        image: (1, 3, H, W) float RGB in 0..255.
        response: index of the response.

    Returns:
        (H, W), >= 0.
    """
    (gradient,) = gradient_maps(detector, image, [response])
    return gradient


@torch.enable_grad()
def gradient_maps(detector: Detector, image: Tensor, responses: Sequence[int]) -> list[Tensor]:
    """:func:`gradient_map` of several responses, with one forward pass for all."""
    image = image.detach().requires_grad_()
    logits = detector(image).logits[0]
    gradients = (torch.autograd.grad(logits[r], image, retain_graph=len(responses) > 1)[0] for r in responses)
    return [gradient.abs().sum(1)[0] for gradient in gradients]


def mass_side(gradient: Tensor | NDArray[np.float64], centre: Sequence[float], mass: float) -> int:
    """Side in pixels of the smallest square around ``centre`` (x, y) that holds the share ``mass`` of ``gradient``.

    Args:
        gradient: (H, W), >= 0, not all zero.
        centre: x, y in pixels.
        mass: in (0, 1].

    Raises:
        OptionError: ``mass`` out of range.
        DetectorError: a gradient that is zero everywhere.
    """
    if not 0 < mass <= 1:
        raise OptionError(f"mass is {mass}; valid is a share in (0, 1]")
    values = np.asarray(gradient, dtype=np.float64)
    if not values.sum() > 0:
        raise DetectorError("the gradient is zero everywhere: this response does not depend on the image")
    y, x = np.mgrid[: values.shape[0], : values.shape[1]] + 0.5
    distance = np.maximum(abs(x - centre[0]), abs(y - centre[1])).ravel()
    order = np.argsort(distance, kind="stable")
    held = np.cumsum(values.ravel()[order])
    last = min(int(np.searchsorted(held, mass * held[-1])), len(order) - 1)
    return int(np.ceil(2 * distance[order[last]] + 1e-9))


def fit_gaussian(gradient: NDArray[np.float64], window: int) -> GaussianFit:
    """Least-squares fit of a 2D Gaussian to the centred ``window`` (side in pixels) of a map (S, S).

    A response's gradient is rough from pixel to pixel, so the map is averaged over blocks first, at most 64 a side;
    R^2 is that of the block means.
    """
    from scipy.optimize import least_squares  # takes half a second, and whoever attacks a photograph fits nothing

    size = gradient.shape[0]
    half = min(size // 2, max(window // 2, 8))
    cut = gradient[size // 2 - half : size // 2 + half, size // 2 - half : size // 2 + half]
    block = -(-2 * half // 64)
    n = 2 * half // block
    cut = cut[: n * block, : n * block].reshape(n, block, n, block).mean((1, 3))
    axis = (np.arange(n) + 0.5) * block - half
    x, y = (a.ravel() for a in np.meshgrid(axis, axis))
    peak = float(cut.max())

    def residuals(p: NDArray[np.float64]) -> NDArray[np.float64]:
        residual: NDArray[np.float64] = GaussianFit(p[0], p[1], p[2], p[3], p[4], 0.0)(x, y) - cut.ravel()
        return residual

    start = [peak, 0.0, 0.0, half / 3, half / 3]
    low, high = [0, -half, -half, block / 4, block / 4], [10 * peak, half, half, 4 * half, 4 * half]
    best = least_squares(residuals, start, bounds=(low, high), x_scale=[peak, half, half, half, half])
    r2 = 1 - float((best.fun**2).sum() / ((cut - cut.mean()) ** 2).sum())
    a, mx, my, sx, sy = (float(b) for b in best.x)
    return GaussianFit(a, mx, my, sx, sy, r2)


def theoretical_sides(detector: Detector) -> dict[str, int]:
    """The TRF of each template: side in pixels.

    It follows from the forward pass that torch records: where a response is read, what each operation reads there, and
    so on down to the image. Which values flow, and how a layer is spelled, does not matter.

    Raises:
        DetectorError: a template without a response.
        UnsupportedOperation: an operation of which it is not known what it reads; the message names it.
    """
    across, down = (_extents(detector, axis) for axis in (0, 1))
    return {template: max(across[template], down[template]) for template in detector.templates}


@torch.enable_grad()
def _extents(detector: Detector, axis: int) -> dict[str, int]:
    """How far each template's field reaches from left to right (axis 0) or from top to bottom, in pixels.

    Followed on a strip of the image, since a network as deep as HR's needs a gigabyte for a square of its field.
    """
    thin = max(_TRF_STRIP, detector.min_side)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, int] = {}
    for size in [size for size in _TRF_CANVAS if size >= thin]:
        width, height = (size, thin) if axis == 0 else (thin, size)
        noise = torch.rand(1, 3, height, width, generator=generator) * 255
        image = noise.to(detector.device).requires_grad_()
        responses = detector(image)
        graph = Recorded(responses.logits[0], image)
        missing = {i: template for i, template in enumerate(detector.templates) if template not in found}
        central = [central_response(detector, responses, i, (width / 2, height / 2)) for i in missing]
        fields = graph.read_by(graph.places_of(central), beyond=True)[graph.leaf]
        for template, lo, hi in zip(missing.values(), fields.lo[:, 1 - axis], fields.hi[:, 1 - axis], strict=True):
            if (lo > 0 and hi < size) or size == _TRF_CANVAS[-1]:
                found[template] = int(hi - lo)
        if len(found) == len(detector.templates):
            break
    return found


def central_response(
    detector: Detector, responses: Responses, template: int, middle: float | tuple[float, float]
) -> int:
    """Index of the response of ``template`` whose centre is nearest to ``middle``: x, y in pixels, or both at once.

    Raises:
        DetectorError: the template has no response.
    """
    own = responses.templates == template
    if not own.any():
        raise DetectorError(
            f"{detector.name} has no response of its template {detector.templates[template]!r}, number {template}; "
            "name only templates that respond() uses, one for each kind of response (such as its maps of each stride)"
        )
    distance = (responses.centres - torch.as_tensor(middle).to(responses.centres)).square().sum(1)
    return int(torch.where(own, distance, torch.inf).argmin())


def measure_erf(detector: Detector, images: Iterable[Tensor] | None = None) -> tuple[MeasuredErf, ...]:
    """The ERF of each template, from the gradients of its central response.

    Args:
        detector: any detector.
        images: square images (1, 3, S, S), all of one size; by default :func:`calibration`'s.
    """
    device = detector.device
    totals: list[Tensor] = []
    n = 0
    for image in calibration(detector) if images is None else images:
        n += 1
        if not totals:
            size = image.shape[-1]
            with torch.no_grad():
                responses = detector(image.to(device))
            central = [central_response(detector, responses, i, size / 2) for i in range(len(detector.templates))]
            totals = [torch.zeros(size, size, dtype=torch.float64, device=device) for _ in central]
        for total, gradient in zip(totals, gradient_maps(detector, image.to(device), central), strict=True):
            total += gradient
    erf = []
    for template, response, total in zip(detector.templates, central, totals, strict=True):
        mean = (total / n).cpu().numpy()
        centre = responses.centres[response].cpu().double().numpy()
        sides = {mass: mass_side(mean, centre, mass) for mass in MASSES}
        centred = _centred(mean, centre)
        fit = fit_gaussian(centred, sides[0.99])
        erf.append(MeasuredErf(template, sides, fit, n, centred))
    return tuple(erf)


def faults(detector: Detector, erf: Sequence[MeasuredErf]) -> list[str]:
    """What makes e_i, squares of ``erf`` around the declared centres, smaller or larger than it should be.

    Args:
        detector: any detector.
        erf: its ERF as measured.

    Returns:
        A sentence for each fault, with what to do.
    """
    found = [fault] if (fault := _scale_fault(detector)) else []
    for template in erf:
        if template.sides[0.99] > len(template.gradient) / 2:
            continue  # the border cuts the field, so that its middle is not known
        x, y = template.fit.x, template.fit.y
        middle = len(template.gradient) / 2
        side = template.sides[0.9]
        better = mass_side(template.gradient, (middle + x, middle + y), 0.9)
        if max(abs(x), abs(y)) > max(4.0, side / 20) and side > 1.02 * better:
            found.append(
                f"the gradient of template {template.template!r} lies around ({x:+.0f}, {y:+.0f}) px from its declared "
                f"centres, as padding at one side makes it; add ({x:.0f}, {y:.0f}) to them, and the square that holds "
                f"90 % of it has {better} px instead of {side}"
            )
    return found


@torch.no_grad()
def _scale_fault(detector: Detector) -> str:
    """A sentence if the detector resizes images, told by how far its responses lie apart on two sizes; else ""."""
    gaps = []
    for size in (max(n, detector.min_side) for n in _SCALE_SIZES):
        responses = detector(torch.full((1, 3, size, size), 128.0, device=detector.device))
        gaps.append([_gap(responses, template) for template in range(len(detector.templates))])
    for template, small, large in zip(detector.templates, *gaps, strict=True):
        if small and large and abs(large / small - 1) > 0.1:
            return (
                f"responses of template {template!r} lie {small:.3g} px apart on an image of {_SCALE_SIZES[0]} px and "
                f"{large:.3g} px on one of {_SCALE_SIZES[1]} px: respond() resizes images, while e_i is one side in "
                "pixels for every image; let respond() work at the image's own scale, and resize images before"
            )
    return ""


def _gap(responses: Responses, template: int) -> float:
    """The usual distance in pixels between neighbouring columns of responses; 0 with fewer than three."""
    columns = np.unique(responses.centres[responses.templates == template, 0].cpu().double().numpy().round(3))
    return float(np.median(np.diff(columns))) if len(columns) > 2 else 0.0


def _centred(gradient: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map moved by whole pixels until ``centre`` (x, y) is in its middle; nothing where it ends."""
    size = len(gradient)
    shift = np.round(size / 2 - centre).astype(int)
    moved = np.zeros_like(gradient)
    (rows, cols), (from_rows, from_cols) = (
        [slice(max(0, sign * s), size + min(0, sign * s)) for s in (shift[1], shift[0])] for sign in (1, -1)
    )
    moved[rows, cols] = gradient[from_rows, from_cols]
    return moved


def calibration(detector: Detector) -> Iterator[Tensor]:
    """The seeded images (1, 3, S, S) that a detector is measured on: a face in the middle that no experiment uses."""
    return calibration_images(CALIBRATION_IMAGES, face_side=getattr(detector, "face_side", None))
