"""Reads runs: for the leaderboard, ensembles, predictions and other machines' results. Nothing here writes to MLflow.

row.py             a run as its readers need it
source.py          chooses the way to read: rest.py or mlflow_client.py
rest.py            reads a server by its REST interface, without importing mlflow
mlflow_client.py   reads with MLflow's client: databases, and servers that need more than a login
index.py           a cache of a server's runs, so that only changed runs are requested
runs.py            runs and their files
lookup.py          run id, trial key or sweep name -> the trials to predict with
adopt.py           results of other machines -> this machine's trial folders
"""
