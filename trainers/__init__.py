"""Training of one segmentation model: a library by itself, which knows nothing of sweeps, Optuna or MLflow."""
