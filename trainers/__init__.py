"""Trains one segmentation model; a library by itself, which knows nothing of sweeps, Optuna or MLflow.

config/       what a training is: frozen models and their defaults
errors.py     the error tree
imports.py    a user's own losses, architectures and transforms, by import path
data/         a source -> checked images and masks, split into training and validation
loader/       sampled, augmented batches of the training images
models/       architecture and encoder -> network
losses/       loss configuration -> module
device.py     device, precision and threads
training/     the loop: optimiser, steps, checkpoints, evaluation
metrics.py    confusion matrices -> IoU and mIoU
prediction/   checkpoints -> probabilities and masks, ensembles too
ensemble.py   where models exported by earlier versions look for their reader
pictures.py   drawings of images and masks for people
"""
