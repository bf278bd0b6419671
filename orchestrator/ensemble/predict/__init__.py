"""A trained model or an ensemble, found by name -> masks of new images, or a model that MLflow can serve.

files.py    RUN_OR_ENSEMBLE -> checkpoints and their weights
masks.py    masks -> .npz, the competition's .csv, or a folder of PNG files
predict.py  `orchestrate predict`
export.py   `orchestrate export`
"""
