"""Where images come from: each source reads one format and yields images with masks.

base.py        Source, the protocol of all of them, and LabelledImage, what they yield
folder.py      images/ and masks/ paired by stem
npz.py         one .npz with images and masks
synthetic.py   generated tiles; terrain.py draws their scenes
unlabelled.py  images without masks, to predict on
"""
