"""Runs a sweep from its file to its summary, or joins one that another machine began.

- preparation: checks the inputs, finds finished trials, makes the plan
- run: builds the parts, runs the plan, evaluates its fixed ensembles
- join: the same for `orchestrate worker`, from the plan in the ledger
- loop: the dispatcher, which runs the trials
- shutdown: registers a running command and handles requests to stop it
- progress: the live table
- summary: the plan and the results, for people and as JSON
- notifications: the message at the end, by mail or chat
"""
