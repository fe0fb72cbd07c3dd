"""The forward pass that torch recorded between an image and the logits: what each operation reads, and its gradient.

:class:`~lipcore.graph.recorded.Recorded` walks it. The theoretical receptive field follows from what is read alone;
LIP's windows (:mod:`lipcore.attacks.windowed`) also send gradients back through it, a rectangle of each map at a time.
"""
