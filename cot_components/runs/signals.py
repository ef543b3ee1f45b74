"""SIGTERM and SIGINT: before training they end the process at once, during training they are remembered until the step
is done and saved, and a second one always ends it at once."""

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
    """An evaluation was cut short because some process was told to stop; it will be done after the resume."""


class _World(Protocol):
    def sum(self, values: list[float]) -> list[float]: ...


@contextmanager
def catch_stops() -> Iterator[None]:
    """Handle the two signals inside the block; the handlers from before come back after it."""
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
    """From here on a stop waits until someone asks `stop_received`."""
    _deferred[0] = True


def stop_received() -> int | None:
    """The signal this process got, None without one."""
    return _received[0] if _received else None


def raise_if_stopping(world: _World) -> None:
    """Raise `Interrupted` on every process if any of them got a signal; all must call it together."""
    if world.sum([float(stop_received() is not None)])[0]:
        raise Interrupted


def exit_code(number: int | None) -> int:
    """What a shell calls the end by a signal: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + (number or signal.SIGTERM)


def _on_signal(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if not _deferred[0]:
        print(f"{name}: stopped at once; no step was trained that is not saved", file=sys.stderr, flush=True)
        raise SystemExit(exit_code(number))
    if _received:
        os._exit(exit_code(number))
    _received.append(number)
    os.write(2, f"\n{name}: stopping after this step, with a checkpoint (a second signal stops at once)\n".encode())
