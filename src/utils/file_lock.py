"""One lock for run folders, sweeps and the file of votes."""

from pathlib import Path
from typing import BinaryIO


def lock_file(path: Path, wait: bool) -> BinaryIO:
    """An exclusive lock on a file, which is made if it is not there. It is held until the returned
    file is closed, here and in every process that inherits it.

    Raises BlockingIOError if another holds it and `wait` is False; OSError where the file system
    has no locks.
    """
    file = open(path, "ab")  # noqa: SIM115 - the caller closes it
    try:
        try:
            import fcntl
        except ImportError:  # Windows, where a lock cannot be inherited
            import msvcrt

            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except PermissionError as error:
                raise BlockingIOError(error.errno, error.strerror, str(path)) from None
        else:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        file.close()
        raise
    return file
