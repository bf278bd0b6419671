"""Runs a sweep from its file to its summary, or joins one that another machine began.

preparation.py     checks the inputs, finds finished trials, makes the plan
run.py             builds the parts, runs the plan, evaluates its fixed ensembles
join.py            the same for `orchestrate worker`, from the plan in the ledger
loop/              the dispatcher, which runs the trials
shutdown.py        registers a running command and handles requests to stop it
progress.py        the live table
summary.py         the plan and the results, for people and as JSON
notifications.py   the message at the end, by mail or chat
"""
