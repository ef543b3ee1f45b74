"""Time and memory of one step, measured so that a noisy machine hardly affects the ratios."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Step = Callable[[], object]


def seconds(
    steps: Mapping[str, Step],
    device: str,
    *,
    rounds: int = 3,
    warm: bool = False,
    far: float = math.inf,
) -> dict[str, float]:
    """Median seconds of each step, taking turns, after one round of warm-up unless they are `warm`.

    CPU: processor time of the process, so that other load matters little. GPU: events around the step.

    far: a step that takes more than `far` times as long as the first one is not repeated.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    first = next(iter(steps))
    for _ in range(rounds + (not warm)):
        for name, step in steps.items():
            if taken[name] and taken[name][0] > far * taken[first][0]:
                continue
            taken[name].append(_gpu_seconds(step) if device == "cuda" else _cpu_seconds(step))
    return {name: statistics.median(values[-rounds:]) for name, values in taken.items()}


def _cpu_seconds(step: Step) -> float:
    gc.collect()
    began = time.process_time()
    step()
    return time.process_time() - began


def _gpu_seconds(step: Step) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def peak_bytes(step: Step, device: str, *, rehearsal: Step | None = None) -> int:
    """Peak memory of the step beyond what was allocated before it.

    rehearsal: on a CPU, a smaller step that runs the same code, so that it is loaded; the step itself if None.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return _peak_in_a_child(step, rehearsal or step)


def _peak_in_a_child(step: Step, rehearsal: Step) -> int:
    """In a forked child, where no memory freed earlier can be reused, after a step that loads all the code it needs."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # the parent's OpenMP threads do not exist here: waiting for them would hang
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD, fixed: large blocks go back to the system when they are freed
        rehearsal()
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to current usage
        before = _status("VmRSS")
        step()
        os.write(writer, str(_status("VmHWM") - before).encode())
        os._exit(0)
    os.close(writer)
    _, code = os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        text = answer.read()
    if code or not text:
        raise RuntimeError(f"the child that measured memory exited with status {code}")
    return int(text)


def _status(key: str) -> int:
    """A memory figure of this process from /proc, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
