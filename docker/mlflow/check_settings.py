"""Runs first: exit 1, which keeps everything else from starting, when .env holds what is not to be used."""

import sys

from settings import find_faults

faults = find_faults()
for fault in faults:
    print(f".env: {fault}", file=sys.stderr)
if faults:
    print(
        "`openssl rand -hex 16` prints a password; .env.example says the rest. Then `docker compose up -d`.",
        file=sys.stderr,
    )
sys.exit(bool(faults))
