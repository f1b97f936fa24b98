"""A piece of work in a process of its own that may hang, crash, eat memory or be killed.

The process is forked from one that has imported everything and computed nothing, so it starts in
milliseconds, and none of torch's threads exist yet that a fork would lose.
"""

import contextlib
import json
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# What a child may allocate, so that a mistake found here does not take the machine down.
ALLOWED_BYTES = 3 << 30


class Ended(NamedTuple):
    """value: what the work returned, or None. how: returned, traceback, killed, crashed or hung.

    text: the traceback. peak_mb: most memory held, the interpreter and torch included.
    """

    value: Any
    how: str
    text: str
    peak_mb: float
    seconds: float


def forked(
    work: Callable[[], Any],
    limit: float,
    kill_after: float | None = None,
    cpu_limit: int = resource.RLIM_INFINITY,
) -> Ended:
    """work() in a child; its value must be JSON. Killed after `kill_after` seconds, or, as hung,
    after `limit` seconds, or `cpu_limit` seconds of computing: those do not depend on what else the
    machine does.
    """
    started = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _child(work, writer, cpu_limit)
    os.close(writer)
    parts: list[bytes] = []
    in_time = _read(reader, limit if kill_after is None else kill_after, parts)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    _read(reader, 0, parts)  # of a child that was done when the kill came
    os.close(reader)
    said = b"" if os.WIFSIGNALED(status) else b"".join(parts)
    seconds = time.monotonic() - started
    peak = usage.ru_maxrss / 1024
    if said:
        value, text = json.loads(said)
        return Ended(value, "traceback" if text else "returned", text, peak, seconds)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU):
        hung = (not in_time and kill_after is None) or os.WTERMSIG(status) == signal.SIGXCPU
        return Ended(None, "hung" if hung else "killed", "", peak, seconds)
    return Ended(None, "crashed", f"wait status {status}", peak, seconds)


def _child(work: Callable[[], Any], writer: int, cpu_limit: int) -> None:
    """Never returns: the parent's own work must not go on here."""
    value, text = None, ""
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (ALLOWED_BYTES, ALLOWED_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, resource.RLIM_INFINITY))
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)  # a panic of native code writes there by itself
        value = work()
    except BaseException:  # tiktoken's panic is no Exception
        text = traceback.format_exc()
    with contextlib.suppress(BaseException):
        message = json.dumps([value, text]).encode()
        while message:
            message = message[os.write(writer, message) :]
    os._exit(0)


def _read(reader: int, seconds: float, parts: list[bytes]) -> bool:
    """Append all that comes until the other end is closed; False when that takes longer."""
    end = time.monotonic() + seconds
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            return True
        parts.append(part)
    return False


def rss_mb() -> float:
    """Memory this process holds now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def open_files() -> int:
    """File handles this process holds now."""
    return len(os.listdir("/proc/self/fd"))
