"""Interference within photographs of crowds: the same faces attacked one at a time, and all together."""
