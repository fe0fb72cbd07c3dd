"""Interference within one image: each face attacked alone, and then all of them together."""
