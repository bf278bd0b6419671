"""Trial folders -> MLflow's runs and back. No other package imports mlflow.

location.py       where the records are kept
errors.py         errors of MLflow and the network -> TrackingError
tags.py           the names of all tags, and the records made of them
client.py         an MLflow client that marks what it changes, and the calls that readers and writers share
mirror_state.py   mirror.json: what a trial folder has already sent
checkpoints/      checkpoints of running trials on the server, and which checkpoints are kept
mirror/           writes: trial folders and ensembles -> runs
reader/           reads: runs -> rows, files and finished trials
models/           checkpoints -> an MLflow model
health.py         single requests to a server, for `orchestrate doctor`
ui.py             MLflow's page as a leaderboard

Importing mlflow takes seconds. ``location``, ``tags``, ``mirror.tracker``, ``checkpoints.uploads``, ``ui`` and ``reader``
import it late: the mirror in its threads, and a reader of a server not at all.

A module that imports parts of mlflow imports mlflow first: two threads that entered by different parts would deadlock, and
Python would hand each a half-initialized module.
"""

import os

# The one exception to "no work at import": mlflow reads these while it is imported.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output belongs to --json
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its own retries would block a call for minutes; the mirror retries itself
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)
