"""How a run ends before its last step: by a signal, or by numbers that are not finite.

A signal waits for the step in hand, which is saved. Before the first step and after the last there
is none to wait for.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from src.training.distributed import gather
from src.utils.exit_handling import NonFiniteError, Stopped
from src.utils.ranks import lost_rank


class EarlyEnd:
    """step: the current or last step, counted from 1. saved_step: the step that last.pt holds."""

    def __init__(self, folder: Path, saved_step: int) -> None:
        self.folder = folder
        self.step, self.saved_step = 0, saved_step
        self._own_signal: int | None = None  # of this rank; _signal: of all ranks
        self._signal: int | None = None
        self._reason = ""
        self._keep: Callable[[], None] | None = None  # saves the state from before the current step
        self._previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def catch_signals(self) -> None:
        """From now on; until `release`."""
        for number in self._previous:
            signal.signal(number, self._on_signal)

    def release(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._own_signal = number
        if self._keep is None and not lost_rank(sys.exception()):
            self._signal = number
            self.raise_if_asked()

    def begin_step(self, step: int, keep: Callable[[], None] | None) -> None:
        """Set the current step, counted from 1. keep: saves the state from before it; None after
        the last step, from when a signal ends the run at once.
        """
        self.step, self._keep = step, keep

    def after_step(self, reason: str) -> None:
        """End the run with this NonFiniteError once the current step is saved."""
        self._reason = reason

    def agree(self) -> None:
        """Signals reach the ranks at different steps; all ranks stop at the first of these."""
        self._signal = next((number for number in gather(self._own_signal) if number), None)

    @property
    def asked(self) -> bool:
        """Whether the run should end after the current step."""
        return self._signal is not None or bool(self._reason)

    def raise_if_asked(self) -> None:
        """End the run if a signal or `after_step` requested it; call it after saving."""
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            message = f"stopped by {name} before the first step was saved"
            if self.saved_step:
                message = f"stopped by {name} after step {self.saved_step}, saved; "
                message += "continue with --resume"
            raise Stopped(message, 128 + self._signal)
        if self._reason:
            raise NonFiniteError(self._reason)

    def explained(self, error: NonFiniteError) -> NonFiniteError:
        """The error with its step, after what the step started from is saved."""
        if self._keep is not None and self.step - 1 > self.saved_step:
            self._keep()
        kept = "nothing was saved yet"
        if self.saved_step:
            kept = f"{self.folder / 'last.pt'} keeps step {self.saved_step}"
        return NonFiniteError(f"step {self.step}: {error}; {kept}")
