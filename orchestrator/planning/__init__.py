"""Sweep file and data -> plan: which trials a sweep consists of, and in which order they run.

- configuration: one point of the search as a training
- preflight: checks data and custom code before anything runs
- plan: all trials in order, with their states
- shared: the plan in the ledger, for workers and `orchestrate status`
- forecast: expected cost, and what was edited since the last run
"""
