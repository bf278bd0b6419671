"""Copies the files of a server with S3 to or from a pipe, for docker/backup.sh and docker/restore.sh.

The format is the tar of a volume with these files, so that a backup of one can be restored to the other.
"""

from __future__ import annotations

import posixpath
import sys
import tarfile
from typing import BinaryIO

from bucket import Bucket


class Pipe:
    """A stream that can only be read forward."""

    def __init__(self, content: BinaryIO) -> None:
        self.read = content.read


def read(bucket: Bucket, output: BinaryIO) -> None:
    """Write all files as a tar, without those that are removed meanwhile."""
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name in bucket.list_names():
            if (found := bucket.read(name)) is not None:
                entry = tarfile.TarInfo(name)
                entry.size, content = found
                archive.addfile(entry, content)


def write(bucket: Bucket, source: BinaryIO) -> None:
    """Write the files of a tar over existing ones. Other files stay: others may use the bucket, too."""
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            if (content := archive.extractfile(entry)) is not None:
                bucket.write(posixpath.normpath(entry.name), Pipe(content))


if __name__ == "__main__":
    if sys.argv[1:] == ["read"]:
        read(Bucket(), sys.stdout.buffer)
    elif sys.argv[1:] == ["write"]:
        write(Bucket(), sys.stdin.buffer)
    else:
        sys.exit("usage: files.py read > TAR, or files.py write < TAR")
