"""SIGTERM and SIGINT: before training they end the process at once; during training the process ends after the current
step is done and saved; a second signal always ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

STOPS = (signal.SIGTERM, signal.SIGINT)
_received: list[int] = []
_deferred: list[bool] = [False]


class Interrupted(Exception):
    """An evaluation was interrupted because some process was told to stop; it is repeated after the resume."""


class _World(Protocol):
    def sum(self, values: list[float]) -> list[float]: ...


@contextmanager
def catch_stops() -> Iterator[None]:
    """Handle the two signals inside the block; the previous handlers are restored after it."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
        yield
        return
    before = {number: signal.signal(number, _on_signal) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()
        _deferred[0] = False


def defer_stops() -> None:
    """From now on a signal is only recorded, for `stop_received`."""
    _deferred[0] = True


def stop_received() -> int | None:
    """The signal this process received, or None."""
    return _received[0] if _received else None


def raise_if_stopping(world: _World) -> None:
    """Raise `Interrupted` on every process if any of them got a signal; all must call it together."""
    if world.sum([float(stop_received() is not None)])[0]:
        raise Interrupted


def exit_code(number: int | None) -> int:
    """The shell's exit code for a signal: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + (number or signal.SIGTERM)


def _on_signal(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if not _deferred[0]:
        print(f"{name}: stopped at once; no training step is lost", file=sys.stderr, flush=True)
        raise SystemExit(exit_code(number))
    if _received:
        os._exit(exit_code(number))
    _received.append(number)
    os.write(2, f"\n{name}: stopping after this step, with a checkpoint (a second signal stops at once)\n".encode())
