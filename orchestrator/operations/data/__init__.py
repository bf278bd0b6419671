"""`orchestrate data`: inspects a data set, shows its images, and writes the synthetic one.

source.py   SOURCE and its options -> the data set
check.py    outliers, duplicates and imbalance
show.py     image, mask and overlay of some positions
make.py     writes the synthetic data set
sheet.py    draws what check.py and show.py found
"""
