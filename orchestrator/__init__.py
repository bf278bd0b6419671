"""Sweeps of segmentation experiments: planned, run on every GPU, ranked, and made into an ensemble."""
