"""WIDER FACE, FDDB, transfer and COCO (C5, C6, C7)."""
