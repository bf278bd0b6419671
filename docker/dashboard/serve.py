"""Shows the studies in STORAGE; its address holds a password, and so stands in no command line."""

import os

from optuna.storages import RDBStorage
from optuna_dashboard import run_server

run_server(RDBStorage(os.environ["STORAGE"]), host="0.0.0.0", port=8080)  # which makes the tables where there are none yet
