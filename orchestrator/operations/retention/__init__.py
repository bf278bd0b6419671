"""Frees disk: by a sweep's ``keep`` rule when it ends, and of all that can be made or fetched again by ``orchestrate clean``.

rule.py         whose checkpoints stay: pure
finds.py        what can go, found on the disk alone
checkpoints.py  checkpoints that can go, by what MLflow knows of them
removal.py      removes what was found, unless somebody has come to need it
command.py      ``orchestrate clean``, and the end of a sweep

Results, confusion matrices and predictions of trials are never touched, nor is anything that a living process holds.
"""
