"""`orchestrate doctor`: whether this machine, and the servers that its environment names, are fit to run sweeps.

findings.py   what was found, how bad it is, and what to do
machine.py    this machine: packages, GPUs, disk
servers.py    the ledger's database and MLflow: there, let in, writable, of the same time and version
datasets.py   what is in ORCHESTRATE_DATA, and what known sweeps want of it
command.py    all of them, one after another
"""
