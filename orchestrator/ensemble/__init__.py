"""Predictions -> chosen members -> what the ensemble is worth, and what it predicts.

candidates.py        finished trials -> candidates: a trial, or all folds of one configuration and seed
pooling.py           their stored predictions -> a pool of candidates
selection/           a pool -> the members whose mean scores best
evaluation/          what such a choice is worth on other images
best.py              `orchestrate best-ensemble`: all of the above for sweeps
arrays.py            the same for arrays: ``select_ensemble``
fixed.py             the ensembles that a sweep file names: state, evaluation, record
predict/             `orchestrate predict` and `export`
"""

from orchestrator.ensemble.arrays import select_ensemble

__all__ = ["select_ensemble"]
