"""Checkpoints -> an MLflow model.

log.py            writes the model to a folder, or logs it to a run
served_model.py   the code inside the model, which MLflow runs when it loads the model
"""
