"""LIP, Localized Instance Perturbation against single-stage face detectors, re-implemented and measured.

The parts, each knowing only those before it: ``datasets``, ``detectors``, ``receptive_field``, ``attacks``,
``metrics``, ``experiments``, ``results``.
"""

from importlib.metadata import version

__version__ = version("lipcore")
