"""Serves Optuna's dashboard of STORAGE, whose address holds a password and so is not passed on the command line."""

import os

from optuna.storages import RDBStorage
from optuna_dashboard import run_server

run_server(RDBStorage(os.environ["STORAGE"]), host="0.0.0.0", port=8080)  # creates missing tables
