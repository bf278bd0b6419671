"""Data sets: a configured source -> checked uint8 images and masks, split without leaks; imports no torch.

sources/    one reader per format of data
checks.py   options against what a source holds; the classes
images.py   resizing and colour of arrays
dataset.py  DataSet and Split, the result
quality/    duplicates, outliers, cleaning
loading.py  a source into memory, in one form
cache.py    a source into a prepared folder, once per machine
split.py    training and validation images
"""

from trainers.data.cache import open_dataset, prepare_dataset
from trainers.data.dataset import DataSet, Split
from trainers.data.loading import load_dataset
from trainers.data.split import SplitData, make_split, split_dataset

__all__ = [
    "DataSet",
    "Split",
    "SplitData",
    "load_dataset",
    "make_split",
    "open_dataset",
    "prepare_dataset",
    "split_dataset",
]
