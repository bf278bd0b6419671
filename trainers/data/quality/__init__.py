"""What is wrong with a data set: duplicates, outliers and odd images, and which of them are removed.

duplicates.py      groups nearly identical images
pasted.py          content that recurs pixel by pixel in other images
repeated_masks.py  masks that recur on different images
outliers.py        the images that were tampered with, by the three above
cleaning.py        which images ``data.clean`` removes
inspection.py      everything found in a data set, for `data check`
"""
