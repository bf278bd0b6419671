"""Exit 0 when the tracking server answers a client's request; usage: check.py URL."""

import json
import sys
import urllib.request

request = urllib.request.Request(
    f"{sys.argv[1]}/api/2.0/mlflow/experiments/search",
    data=json.dumps({"max_results": 1}).encode(),
    headers={"Content-Type": "application/json"},
)
with urllib.request.urlopen(request, timeout=4) as answer:
    sys.exit(answer.status != 200)
