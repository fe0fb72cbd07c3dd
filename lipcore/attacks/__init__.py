"""Attacks: which gradient (``perturbation``), of which responses (``targets``), followed how (``fgsm``)."""
