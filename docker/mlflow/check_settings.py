"""Runs first: exits with 1 if .env has unusable values, so that nothing else starts."""

import sys

from settings import find_faults

faults = find_faults()
for fault in faults:
    print(f".env: {fault}", file=sys.stderr)
if faults:
    print(
        "`openssl rand -hex 16` prints a password; .env.example explains the rest. Then run `docker compose up -d`.",
        file=sys.stderr,
    )
sys.exit(bool(faults))
