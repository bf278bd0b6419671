"""Runs first: exit 1, which keeps everything else from starting, when .env holds passwords that are not to be used."""

import sys

from settings import find_faults

faults = find_faults()
for fault in faults:
    print(f".env: {fault}", file=sys.stderr)
if faults:
    print(
        "Set it to something of your own, such as what `openssl rand -hex 16` prints; then `docker compose up -d`.",
        file=sys.stderr,
    )
sys.exit(bool(faults))
