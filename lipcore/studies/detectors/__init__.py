"""How good the project's own detectors are, and their model cards."""
