"""The files of runs where they lie in S3: by name, read and written; one address for the server's programs that know of S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

PATIENCE = Config(retries={"mode": "standard", "max_attempts": 8})
"""SeaweedFS answers for some seconds after a start that it does not find what it has."""


class Readable(Protocol):
    """Of a stream, all that is asked."""

    def read(self, size: int = -1, /) -> bytes: ...


class Bucket:
    """What ARTIFACTS_DESTINATION names. Names are those that files have below /artifacts where there is no S3."""

    def __init__(self) -> None:
        address = urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
        self.name, self.prefix = address.netloc, address.path.strip("/")
        self.client: Any = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"], config=PATIENCE)

    def list_names(self) -> Iterator[str]:
        """Of all files."""
        start = f"{self.prefix}/" if self.prefix else ""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start):
            for entry in page.get("Contents", ()):
                yield entry["Key"].removeprefix(start)

    def read(self, name: str) -> tuple[int, BinaryIO] | None:
        """Size and content; None: it was removed meanwhile."""
        try:
            answer = self.client.get_object(Bucket=self.name, Key=self._key(name))
        except self.client.exceptions.NoSuchKey:
            return None
        return answer["ContentLength"], answer["Body"]

    def write(self, name: str, content: Readable) -> None:
        """Replaces what is there."""
        self.client.upload_fileobj(content, self.name, self._key(name))

    def make(self) -> None:
        """One that is there stays as it is."""
        try:
            self.client.create_bucket(Bucket=self.name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name
