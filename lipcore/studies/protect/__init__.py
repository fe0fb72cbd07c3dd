"""Does this protect my photograph? Noise against one detector, several, or all but one, and what happens to it."""
