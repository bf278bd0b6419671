"""Creates the bucket of ARTIFACTS_DESTINATION, if it does not exist, as soon as the S3 server is up."""

from __future__ import annotations

import os
import sys
import time

from botocore.exceptions import BotoCoreError, ClientError
from bucket import Bucket
from settings import IN_S3

GIVE_UP_S = 120

place = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
if not IN_S3.fullmatch(place):
    sys.exit(f".env: ARTIFACTS_DESTINATION is {place!r}; with the profile s3 it must be s3://BUCKET.")
deadline_s = time.monotonic() + GIVE_UP_S
while True:
    try:
        Bucket().make()
        break
    except (BotoCoreError, ClientError) as error:
        is_refused = isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500
        if is_refused or time.monotonic() > deadline_s:
            sys.exit(f"{os.environ['MLFLOW_S3_ENDPOINT_URL']}: {error}")
        time.sleep(1)
