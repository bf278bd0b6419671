"""What can be done about sweeps from outside: looking, stopping, repairing, cleaning, scheduling.

data/        looks at a data set before anything is trained on it
doctor/      checks this machine and the servers it uses
schedule/    runs sweeps by cron lines
status/      shows how sweeps stand
stop.py      stops the dispatchers of a sweep
retry.py     lets trials run again
sync.py      brings MLflow into agreement with ledger and trial folders
retention/   deletes what can be made or fetched again, and checkpoints that no sweep keeps
"""
