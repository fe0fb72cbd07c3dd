"""HR's templates: k-medoids of box sizes under the distance 1 - IoU (Hu & Ramanan 2017, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lipcore.errors import OptionError

Floats = NDArray[np.float64]


def size_iou(a: Floats, b: Floats) -> Floats:
    """IoU of concentric boxes of sizes ``a`` (N, 2) and ``b`` (M, 2), shape (N, M)."""
    inter = np.minimum(a[:, None], b[None]).prod(axis=2)
    union = a.prod(axis=1)[:, None] + b.prod(axis=1)[None] - inter
    return np.asarray(inter / union)


def balanced_sizes(sizes: Floats, low: float, high: float, count: int, seed: int) -> Floats:
    """``count`` box sizes drawn so that the longer side is about log-uniform over ``low``..``high`` pixels.

    Training shows each box at many scales, so a box stands for its shape at any size; without the balance nearly all
    medoids of WIDER FACE would be smaller than 20 px.
    """
    rng = np.random.default_rng(seed)
    shapes = sizes / sizes.max(axis=1, keepdims=True)
    longer = np.exp(rng.uniform(np.log(low), np.log(high), count))
    return np.asarray(shapes[rng.integers(len(shapes), size=count)] * longer[:, None])


def k_medoids(sizes: Floats, k: int, seed: int, iterations: int = 50) -> Floats:
    """``k`` members of ``sizes`` (N, 2) that lie near all others in 1 - IoU, sorted by area.

    Starts from k-means++ seeding and alternates between assignment and the best medoid of each cluster.
    """
    if not 1 <= k <= len(sizes):
        raise OptionError(f"k is {k}; valid is 1..{len(sizes)}, the number of boxes")
    rng = np.random.default_rng(seed)
    distance = 1 - size_iou(sizes, sizes)
    medoids = [int(rng.integers(len(sizes)))]
    while len(medoids) < k:
        nearest = distance[:, medoids].min(axis=1) ** 2
        total = nearest.sum()
        weights = nearest / total if total > 0 else None
        medoids.append(int(rng.choice(len(sizes), p=weights)))
    for _ in range(iterations):
        owner = distance[:, medoids].argmin(axis=1)
        moved = []
        for i, medoid in enumerate(medoids):
            members = np.flatnonzero(owner == i)
            if len(members) == 0:
                moved.append(medoid)
                continue
            within = distance[np.ix_(members, members)].sum(axis=1)
            moved.append(int(members[within.argmin()]))
        if moved == medoids:
            break
        medoids = moved
    chosen = sizes[medoids]
    return np.asarray(chosen[np.argsort(chosen.prod(axis=1), kind="stable")])
