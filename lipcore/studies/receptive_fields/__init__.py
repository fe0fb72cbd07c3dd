"""Receptive fields of the detectors (C3)."""
