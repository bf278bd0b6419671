"""`orchestrate schedule`: runs sweeps by cron lines.

clock.py       which lines are due
record.py      the occurrences so far, on disk
scheduler.py   decides what happens to each due occurrence
run.py         the command: connects these, and runs sweeps as processes, until it is stopped
listing.py     `--list`: past and next occurrences
export.py      `--export`: the same lines for cron or systemd
"""
