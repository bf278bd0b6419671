"""Files of a server that keeps them in S3, for docker/backup.sh and docker/restore.sh: out through a pipe, and in again.

What passes is the tar that a volume with these files would make, so that a backup of the one can be restored to the other.
"""

from __future__ import annotations

import posixpath
import sys
import tarfile
from typing import BinaryIO

from bucket import Bucket


class Pipe:
    """A part of a stream, which can only be read on."""

    def __init__(self, content: BinaryIO) -> None:
        self.read = content.read


def read(bucket: Bucket, output: BinaryIO) -> None:
    """All that is there now; what is removed meanwhile is left away."""
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name in bucket.list_names():
            if (found := bucket.read(name)) is not None:
                entry = tarfile.TarInfo(name)
                entry.size, content = found
                archive.addfile(entry, content)


def write(bucket: Bucket, source: BinaryIO) -> None:
    """Over what is there; what else is there stays: a bucket may be others', too."""
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
