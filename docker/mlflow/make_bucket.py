"""Makes the bucket that ARTIFACTS_DESTINATION names, as soon as the S3 server is up; one that is there stays as it is."""

from __future__ import annotations

import os
import sys
import time
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

GIVE_UP_S = 120

address = urlsplit(os.environ["ARTIFACTS_DESTINATION"])
if address.scheme != "s3" or not address.netloc:
    sys.exit(f".env: ARTIFACTS_DESTINATION is {address.geturl()!r}; with the profile s3 it is to be s3://BUCKET.")
client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"])
deadline = time.monotonic() + GIVE_UP_S
while True:
    try:
        if address.netloc not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=address.netloc)
        break
    except (BotoCoreError, ClientError) as error:
        if time.monotonic() > deadline:
            sys.exit(f"{os.environ['S3_ENDPOINT']}: {error}")
        time.sleep(1)
