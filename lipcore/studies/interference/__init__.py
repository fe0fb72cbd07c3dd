"""Interference on grids of faces (C1, C2, C4)."""
