"""Trains a model epoch by epoch, resumes from checkpoints, and evaluates the best epoch.

optim.py       optimiser, learning-rate schedule, moving average of the weights
checkpoint.py  last.pt to resume from, best.safetensors to keep
steps.py       the pass over an epoch's batches
evaluate.py    validation images -> confusion matrices, predictions, metrics
train.py       the loop
"""
