"""`orchestrate clean`, and a sweep's ``keep`` rule at its end. Results and predictions of trials are never deleted.

rules.py         which checkpoints the ``keep`` rules of all sweeps spare; pure
reclaimable.py   what can be deleted, according to the disk
checkpoints.py   checkpoints that can be deleted, according to MLflow
removal.py       deletes it, unless a process needs it by now
clean.py         the commands
"""
