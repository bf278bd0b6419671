"""Losses: configuration -> module that maps logits and mask to a scalar.

pixelwise.py  focal and cross entropy
region.py     Dice, Jaccard, Tversky and Lovász
boundary.py   boundary loss
build.py      builds them, sums and custom ones, without ignored pixels
"""

from trainers.losses.build import build_loss

__all__ = ["build_loss"]
