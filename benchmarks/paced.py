"""Whole training loops, each unchanged, taking turns in one process: one step of each at a time.

A loop runs in its own thread and is paused at the end of every step, by the hook it has for logging, until it is its
turn again. What is measured is thus the loop as its users run it, data and bookkeeping included.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch

EndOfStep = Callable[[float], None]
"""What a loop calls at the end of each step, with the step's loss."""


class Measured(NamedTuple):
    """One step: its loss, its duration, and on a GPU its peak memory beyond what was allocated before it."""

    loss: float
    seconds: float
    peak_bytes: int = 0


class Paced:
    """A training loop that goes one step at a time.

    Args:
        loop: called in a thread with the function to call at the end of each step.
        device: `cpu` measures processor time of the process, which runs nothing else; `cuda` wall-clock time.
    """

    def __init__(self, loop: Callable[[EndOfStep], None], device: str = "cpu") -> None:
        self._device, self._go, self._done = device, threading.Semaphore(0), threading.Semaphore(0)
        self._loss, self._error, self._stopped = float("nan"), None, False
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()

    def step(self) -> Measured:
        """Let the loop finish one more step.

        Raises:
            RuntimeError: the loop ended or failed before that.
        """
        gc.collect()
        held = self._memory_held()
        began = self._now()
        self._go.release()
        self._done.acquire()
        taken = self._now() - began
        if self._error is not None:
            raise RuntimeError("a training loop failed") from self._error
        return Measured(self._loss, taken, 0 if self._device == "cpu" else torch.cuda.max_memory_allocated() - held)

    def stop(self) -> None:
        """End the loop at its current step."""
        self._stopped = True
        self._go.release()
        self._thread.join()

    def _memory_held(self) -> int:
        if self._device == "cpu":
            return 0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def _now(self) -> float:
        if self._device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def _run(self, loop: Callable[[EndOfStep], None]) -> None:
        self._go.acquire()
        torch.set_num_threads(torch.get_num_threads())  # the setting is per thread
        with contextlib.suppress(_Stopped):
            try:
                loop(self._end_of_step)
                raise RuntimeError("the loop ended")
            except _Stopped:
                raise
            except BaseException as error:
                self._error = error
                self._done.release()

    def _end_of_step(self, loss: float) -> None:
        if self._stopped:
            raise _Stopped
        self._loss = loss
        self._done.release()
        self._go.acquire()
        if self._stopped:
            raise _Stopped


class _Stopped(BaseException):
    pass


def take_turns(loops: Mapping[str, Paced], *, steps: int, warm_up: int) -> dict[str, list[Measured]]:
    """`steps` steps of every loop after `warm_up` uncounted ones; loops take turns in rotating order."""
    taken: dict[str, list[Measured]] = {name: [] for name in loops}
    names = list(loops)
    with quiet():
        for number in range(warm_up + steps):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                measured = loops[name].step()
                if number >= warm_up:
                    taken[name].append(measured)
        for loop in loops.values():
            loop.stop()
    return taken


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and log lines out of our table."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def ratio(ours: list[Measured], theirs: list[Measured]) -> float:
    """Median of the step-by-step ratios of seconds: a momentary disturbance affects both sides."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True))


def median_seconds(steps: list[Measured]) -> float:
    return statistics.median(step.seconds for step in steps)
