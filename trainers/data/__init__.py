"""Data sets: from a source named in the configuration to checked uint8 tiles, split without leaks; knows no torch."""

from trainers.data.dataset import DataSet, Split, load_dataset, open_dataset, prepare_dataset
from trainers.data.split import SplitData, fingerprint_scored, make_split, split_dataset

__all__ = [
    "DataSet",
    "Split",
    "SplitData",
    "fingerprint_scored",
    "load_dataset",
    "make_split",
    "open_dataset",
    "prepare_dataset",
    "split_dataset",
]
