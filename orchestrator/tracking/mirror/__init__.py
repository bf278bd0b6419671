"""Writes to MLflow: trial folders and ensembles -> runs, idempotently.

tracker.py        queue and thread between the dispatcher and a server that may be slow or down
recorder.py       one trial folder -> one run
run_data.py       events and configuration of a trial -> metrics, params and tags
current_runs.py   names of existing runs, and which run of a trial counts
ensembles.py      ensembles -> runs
repair.py         what MLflow lacks of a sweep, for `orchestrate sync`
"""
