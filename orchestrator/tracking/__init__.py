"""Trial folder -> MLflow runs and back: the only package that imports mlflow.

place.py        where the records are
telling.py      what goes wrong there -> one error of ours
connection.py   a client for that place
marking.py      that client, which marks what it changes
marks.py        these marks
probe.py        single questions, for doctor
series.py       events of a trial -> what MLflow shows
labels.py       what a sweep calls its runs, and what it records of its ensembles
recording.py    one trial folder -> one run, idempotently
relabel.py      names and rows of runs that are there already
ensembles.py    an ensemble -> its run
sent.py         what has been sent already
repair.py       which of a sweep's trials the server lacks
mirror.py       the queue and the thread between the dispatcher and a server that may be slow or dead
uploads.py      its second thread, for checkpoints of running trials
takeover.py     those checkpoints on the server, sent and fetched
rows.py         a run as its readers want it
source.py       where runs are read from: client.py, by MLflow's client, or rest.py, without mlflow
index.py        what a server has said of its runs, so that only what is new is asked for
runs.py         runs -> rows, files and finished trials
lookup.py       what a person calls a model -> its trials
checkpoints.py  which sweeps keep which checkpoints, and who needs them
model.py        checkpoints -> an MLflow model; served_model.py is the code that goes with it
page.py         MLflow's page as a leaderboard

Importing ``place``, ``labels``, ``mirror``, ``uploads``, ``page`` or ``runs`` does not import mlflow: it costs seconds, which the
mirror spends in its threads, and who only ranks the runs of a server not at all.

A module that imports parts of mlflow imports mlflow first. Several threads do so, each when it comes to it, and mlflow's parts
import each other: two threads that enter by different parts would each get the other's half.
"""

import os

# Work at import, for once: mlflow reads these while it is imported, so they must be set before whoever imports it through us.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output belongs to --json
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its own retries would keep one call for minutes; the mirror retries itself
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)
