"""Files written whole or not at all, folders for them, and what killed writers left. Imports
nothing heavy.
"""

import contextlib
import errno
import json
import os
import platform
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.exit_handling import out_of_memory


def write_atomically(path: str | Path, write) -> None:
    """Call write(binary file) on a temporary neighbour, flush it to the disk and rename it to
    `path`, or to the file that this links to.

    Raises OSError (disk full, read-only, vanished folder) with the file's name; `path` is as it
    was.
    """
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch reports a full disk as a RuntimeError of its zip writer.
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            number = getattr(error.__context__, "errno", None) or errno.EIO
            raise OSError(number, _reason(error), str(path)) from error
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    if hasattr(os, "O_DIRECTORY"):  # not on Windows, which has no folders to sync
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: str | Path, value: Any, **options: Any) -> None:
    """`write_atomically` for a value as JSON; options: of json.dumps."""
    text = json.dumps(value, **options)
    write_atomically(path, lambda file: file.write(text.encode()))


def require_file_place(flag: str, path: str | Path) -> None:
    """UserError unless --`flag` names a place for a new file, or a regular file to be replaced. Of
    a link this is the place that it names, where `write_atomically` writes.
    """
    path, place = Path(path), Path(os.path.realpath(path))
    if not place.parent.is_dir() or (path.exists() and not path.is_file()):
        raise UserError(f"--{flag} {path} given, expected a file in a folder that exists")
    written = [place.parent, place] if path.exists() else [place.parent]  # the file is replaced
    if not all(os.access(place, os.W_OK) for place in written):
        raise UserError(f"--{flag} {path} given, which cannot be written, name another file")


def require_folder(folder: Path) -> None:
    """UserError for an --output_dir that is a file or below one."""
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise UserError(
            f"--output_dir {folder} given, but {above} is a file, expected a folder or a new name"
        )


def clear_stale(folder: str | Path) -> None:
    """Remove what writers killed on this machine left in a folder that other runs may write to.

    A temporary name ends in the machine's name, the process's number and .tmp.
    """
    for path in Path(folder).glob(f".*.{platform.node()}.*.tmp"):
        number = path.name.split(".")[-2]
        if not number.isdecimal() or _is_running(int(number)):
            continue
        with contextlib.suppress(OSError):
            path.unlink()


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there kill() ends the process, whatever the signal
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return process != os.getpid()


def _reason(error: BaseException) -> str:
    context = error.__context__
    if isinstance(context, OSError) and context.strerror:
        return context.strerror
    return f"could not be written ({' '.join(str(error).split())[:80]})"
