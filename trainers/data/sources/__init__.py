"""Where images come from: each source reads one format and hands over images with masks, one after another.

base.py        Source, the protocol of all of them, and LabelledImage, what they hand over
folder.py      images/ and masks/ paired by stem
npz.py         one .npz with images and masks
synthetic.py   generated tiles; terrain.py draws their scenes
unlabelled.py  images without masks, to predict on
"""
