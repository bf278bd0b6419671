"""A trial's folder: the truth while the trial lives.

records.py      the records, and the trial's key
folder.py       the list of its files; reading and writing them
heartbeat.py    the worker's sign of life
checkpoint.py   the checkpoint to resume from, here or on another machine
outputs.py      confusion matrices and predictions
failures.py     kinds of failure
endings.py      recording how an attempt ended
"""
