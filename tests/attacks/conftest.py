"""What several tests of attacks share."""

from __future__ import annotations

import pytest
import toys


@pytest.fixture(scope="module")
def toy() -> toys.Toy:
    return toys.Toy()


@pytest.fixture(scope="module")
def exact() -> toys.Toy:
    """The toy in float64."""
    return toys.Toy().double()
