"""`orchestrate clean`, and a sweep's ``keep`` rule at its end. Results and predictions of trials are never deleted.

reclaimable.py   what can be deleted, according to the disk
checkpoints.py   checkpoints that can be deleted, according to MLflow and the ``keep`` rules of all sweeps
removal.py       deletes it, unless a process needs it by now
clean.py         the commands
"""
