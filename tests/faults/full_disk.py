"""Runs synboot with a disk that is full from the Nth file on: `python full_disk.py N arguments...`

Files are synced before they get their names, so a write that the disk has no room for shows at the
latest there.
"""

import errno
import os
import sys

from synboot import cli


def main() -> None:
    """Fill the disk after N files and run the program."""
    left = int(sys.argv[1])
    sys.argv = ["synboot", *sys.argv[2:]]
    sync = os.fsync

    def full(descriptor):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = full
    cli.main()


if __name__ == "__main__":  # workers import this file
    main()
