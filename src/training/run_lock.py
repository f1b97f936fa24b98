"""Lock the run folder against a second process."""

import contextlib
import errno
from pathlib import Path
from typing import Any

from src.utils.errors import UserError


def lock_folder(folder: Path) -> Any:
    """An exclusive lock that ends with the process; UserError if another process holds it."""
    path = folder / ".lock"
    file = open(path, "a+")  # noqa: SIM115 - held for the length of the run
    try:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        with contextlib.suppress(OSError):
            file.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            raise UserError(
                f"{folder} is in use by another run, wait for it or give another --output_dir"
            ) from None
        reason = f"{error.strerror}: the folder cannot be locked, give another --output_dir"
        raise OSError(error.errno, reason, str(path)) from None
    return file
