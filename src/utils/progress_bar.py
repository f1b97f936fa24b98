"""Progress output of rank 0: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm

from src.utils.ranks import rank


class Bar:
    """The progress of a stage; nothing is displayed before the first `show`."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._bar: tqdm | None = None
        self._last_line = 0.0
        self._started: tuple[float, int] | None = None  # time and step of the first plain line

    def show(self, step: int, max_steps: int, **metrics: float) -> None:
        """A tqdm bar on a terminal; elsewhere a plain line every ten seconds and at the end."""
        if rank():
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=max_steps, initial=step - 1, unit="step", dynamic_ncols=True)
            self._bar.set_postfix({k: _short(v) for k, v in metrics.items()}, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if self._started is None:
            self._started = now, step
        if now - self._last_line >= 10 or step == max_steps:
            self._last_line = now
            done = step - self._started[1]
            words = " ".join(f"{k} {_short(v)}" for k, v in metrics.items())
            if done:  # the first step has no duration to extrapolate from
                words += f" left {(now - self._started[0]) / done * (max_steps - step):.0f} s"
            say(f"{self._stage} step {step}/{max_steps} {words}")

    def close(self) -> None:
        """Close the bar and leave it on the terminal."""
        if self._bar is not None:
            self._bar.close()


def _short(value: float) -> str:
    """Four digits, without an exponent for speeds.

    >>> _short(12345.6), _short(0.123456)
    ('12346', '0.1235')
    """
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def one_line(text: str) -> str:
    """A question for a message: in one line, of a long prompt the end.

    >>> one_line("Add.\\n2 + 2 =")
    'Add. 2 + 2 ='
    """
    return " ".join(text.split())[-300:]


def say(text: str) -> None:
    """Print a line on stderr, above a progress bar if there is one; on rank 0 only."""
    if not rank():
        tqdm.write(text, file=sys.stderr)
