"""Shows the studies in STORAGE; its address holds a password, and so stands in no command line."""

import os

from optuna_dashboard import run_server

run_server(os.environ["STORAGE"], host="0.0.0.0", port=8080)
