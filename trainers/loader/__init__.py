"""Feeds the training loop: batches of sampled and augmented training images.

sampling.py        which training images an epoch shows, and how often
augment.py         augmentation configuration -> function of image, mask and seed
transforms.py      the transforms of albumentations behind it
batches.py         the batches of an epoch, made by loaders
device_augment.py  the named augmentations on a device
resident.py        the batches of an epoch, made on the device where the images stay
"""
