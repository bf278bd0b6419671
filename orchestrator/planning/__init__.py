"""Sweep file and data -> plan: which trials a sweep consists of, and in which order they run.

configuration.py   one point of the search as a training
preflight.py       checks data and custom code before anything runs
plan.py            all trials in order, with their states
shared.py          the plan in the ledger, for workers and `orchestrate status`
forecast/          expected cost, and what was edited since the last run
"""
