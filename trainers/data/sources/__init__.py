"""Where images come from: each source reads one format and yields images with masks.

base.py        Source, the protocol of all of them, and LabelledImage, what they yield
folder.py      images/ and masks/ paired by stem
npz.py         one .npz with images and masks
terrain.py     draws scenes
synthetic.py   tiles cut out of them
unlabelled.py  images without masks, to predict on
"""
