"""Workers that take turns: JSON lines over pipes, so that only one of them computes at a time.

Used by both sides: the driver starts workers with `Worker`, each with a Python of its own; a worker
serves with `Turns`. Nothing but the standard library is imported here.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# wall: what a user waits. cpu: seconds of this process's processors, for a machine that others use
# at the same time; means the same only with one thread.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def memory_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of this process in MB, from Linux's /proc.

    Not getrusage: its maximum is inherited through fork and exec from the process that started us.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


class Turns:
    """The worker's end. What libraries print goes to stderr, so that stdout carries answers only.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def receive(self) -> dict:
        """The driver's next message; ends the process when the driver is gone."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        return json.loads(line)

    def reply(self, **answer) -> None:
        """Answer the last message."""
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()


class Worker:
    """The driver's end: a process that answers one message at a time.

    hello: its first answer, to `settings`.
    """

    def __init__(self, name: str, python: Path, module: str, log: Path, settings: dict) -> None:
        self.name, self.log = name, log
        threads = str(settings["threads"])
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with log.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [str(python), "-m", module], cwd=ROOT, env=env, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )
        self.hello = self.ask(**settings)

    def ask(self, **message) -> dict:
        """Send a message, wait for the answer."""
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            last = self.log.read_text(encoding="utf-8").strip().splitlines()[-15:]
            raise SystemExit(f"the worker {self.name} died, {self.log} ends:\n" + "\n".join(last))
        return json.loads(line)

    def close(self) -> dict:
        """Ask for its peak memory and let it end."""
        answer = self.ask(do="stop")
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return answer
