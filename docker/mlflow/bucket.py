"""The bucket with the files of runs: lists, reads and writes them by name, for the server's programs that use S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

PATIENCE = Config(retries={"mode": "standard", "max_attempts": 8})
"""For some seconds after its start, SeaweedFS answers that it does not find existing files."""


class Readable(Protocol):
    """A stream that can be read."""

    def read(self, size: int = -1, /) -> bytes: ...


class Bucket:
    """The bucket of ARTIFACTS_DESTINATION. File names are the same as below /artifacts without S3."""

    def __init__(self) -> None:
        address = urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
        self.name, self.prefix = address.netloc, address.path.strip("/")
        self.client: Any = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"], config=PATIENCE)

    def list_names(self) -> Iterator[str]:
        """Yield the names of all files."""
        start = f"{self.prefix}/" if self.prefix else ""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start):
            for entry in page.get("Contents", ()):
                yield entry["Key"].removeprefix(start)

    def read(self, name: str) -> tuple[int, BinaryIO] | None:
        """Return size and content, or None if the file was removed meanwhile."""
        try:
            answer = self.client.get_object(Bucket=self.name, Key=self._key(name))
        except self.client.exceptions.NoSuchKey:
            return None
        return answer["ContentLength"], answer["Body"]

    def write(self, name: str, content: Readable) -> None:
        """Write a file, replacing an existing one."""
        self.client.upload_fileobj(content, self.name, self._key(name))

    def make(self) -> None:
        """Create the bucket, if it does not exist."""
        try:
            self.client.create_bucket(Bucket=self.name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name
