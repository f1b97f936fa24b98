"""Exit handling: a script ends with one line on stderr and an exit code, not with a traceback.

Imports nothing heavy.
"""

import argparse
import contextlib
import errno
import functools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

from src.utils.errors import RankError, UserError
from src.utils.ranks import lost_rank, rank

ENVIRONMENT = (
    "expected the environment of requirements.txt: . .venv/bin/activate after ./run.sh, or "
    "pip install -r requirements.txt"
)


class Stopped(BaseException):
    """A signal stopped the run; finished steps are saved. `code` is 128 + the signal's number.

    Not an Exception, like KeyboardInterrupt, so that no handler of errors catches it.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class NonFiniteError(Exception):
    """A loss, gradient or reward is not a finite number."""


def out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch could not allocate memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("can't allocate memory", "not enough memory", "out of memory")
    of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return of_torch or isinstance(error, MemoryError)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises Stopped; Python has KeyboardInterrupt for SIGINT alone."""

    def stop(number: int, _frame: object) -> None:
        if not lost_rank(sys.exception()):
            raise Stopped("stopped by SIGTERM", 128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread may; elsewhere a signal ends the process at once
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if lost_rank(sys.exception()) else previous)


@contextlib.contextmanager
def ends_in_one_line(name: str) -> Iterator[None]:
    """What goes wrong inside ends the process with one line on stderr and an exit code.

    2: the user's mistake. 1: the environment's fault (disk, memory, non-finite numbers). 128 + n:
    signal n.
    """
    own_fault = False
    try:
        with _ended_by_sigterm():
            yield
        return
    except UserError as error:
        own_fault = isinstance(error, RankError)
        message, code = str(error), 2
    except Stopped as error:
        message, code = str(error), error.code
    except ModuleNotFoundError as error:
        if str(error.name).startswith("src"):
            raise
        message, code = f"{error.name} is not installed, {ENVIRONMENT}", 2
    except NonFiniteError as error:
        message, code = str(error), 1
    except BrokenPipeError:
        message, code = "the reader of the output went away", 1
    except (OSError, MemoryError, RuntimeError) as error:
        own_fault = True
        if out_of_memory(error):
            message = "out of memory, use a smaller --micro_batch_size, --micro_batch_tokens "
            message, code = message + "or model", 1
        elif isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            message, code = f"{where}{error.strerror or error}", 1
        elif lost_rank(error):
            message = "another rank ended or hangs, so this job ends; continue with --resume"
            code = 1
        else:
            raise
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    if not rank() or own_fault:  # an error of all ranks is printed once
        where = f"rank {rank()}: " if rank() else ""
        print(f"{name}: {where}{' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def flags_first(name: str, build_parser: Callable[[], argparse.ArgumentParser]) -> Iterator[None]:
    """Around a script's imports: if it is being run (name: its `__name__`), --help and mistakes in
    the flags are answered before them, since torch takes seconds to load.
    """
    if name != "__main__":
        yield
        return
    build_parser().parse_args()
    with ends_in_one_line(sys.argv[0]):
        yield


def command(main: Callable[..., dict]) -> Callable[..., dict]:
    """Make `main(argv)` end as every script does: with `ends_in_one_line`."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> dict:
        name = main.__module__ if main.__module__ != "__main__" else sys.argv[0]
        # No stream, one that is no file of text, or a closed one.
        with contextlib.suppress(AttributeError, ValueError):
            sys.stdout.reconfigure(errors="replace")  # what the terminal cannot show is no fault
        with ends_in_one_line(name):
            try:
                result = main(argv)
            except BaseException:
                with contextlib.suppress(OSError):  # said is what went wrong first
                    _flush_output()
                raise
            _flush_output()
            return result

    return run


def _flush_output() -> None:
    """Write what Python still holds back of the output. If that fails while Python ends, it prints
    two lines of its own and exits with code 120.
    """
    try:
        if not getattr(sys.stdout, "closed", True):  # None where a script has no output at all
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # or Python tries again as it ends
        raise
