"""`orchestrate doctor`: whether this machine, and the servers that its environment names, can run sweeps.

findings.py   what was found, how bad it is, and what to do
machine.py    packages, GPUs and disk of this machine
servers.py    the ledger's database and MLflow: reachable, accessible, writable, same time and version
datasets.py   what is in ORCHESTRATE_DATA, and what known sweeps need of it
examine.py    runs all checks
"""
