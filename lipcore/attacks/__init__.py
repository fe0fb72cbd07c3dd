"""Attacks: which gradient (``presets``), of which responses (``targets``), followed how (``updates``)."""
