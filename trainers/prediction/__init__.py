"""Predicts with trained weights, one model or an ensemble.

weights.py   best.safetensors -> network
predict.py   network and images -> class probabilities
means.py     how the members' stored probabilities are combined
ensemble.py  several checkpoints -> one mask per image
"""
