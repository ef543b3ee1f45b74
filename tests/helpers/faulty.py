"""A recipe that breaks itself: python faulty.py NAME POINT COUNT HOW ARGUMENTS...

The COUNT-th time the process comes to POINT (`forward`, `evaluation`, or a stage of a save as
`runs.checkpoint.reached` names it) it is hit in the way HOW names, one of `HOW`. `kill` is the end at once: no
handler, no tidying.
"""

import importlib
import math
import os
import resource
import signal
import sys
from collections.abc import Callable


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def broken() -> None:
    raise RuntimeError("broken on purpose")


HOW: dict[str, Callable[[], None]] = {
    "kill": lambda: send(signal.SIGKILL),
    "term": lambda: send(signal.SIGTERM),
    "int": lambda: send(signal.SIGINT),
    "twice": lambda: send(signal.SIGTERM, signal.SIGTERM),
    "raise": broken,
    "full": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),  # no file may grow: a disk that is full
    "nan": lambda: None,  # see `main`: the loss of that forward
}


class Fault:
    """Counts how often a point is reached, and acts the COUNT-th time."""

    def __init__(self, point: str, count: int, how: str) -> None:
        self.point, self.left, self.how = point, count, how

    def __call__(self, here: str) -> bool:
        """Whether the fault is here and now; done, if it is something to do."""
        self.left -= here == self.point
        if here != self.point or self.left != 0:
            return False
        HOW[self.how]()
        return True


def main(name: str, point: str, count: str, how: str, *arguments: str) -> None:
    import cot_components.runs.checkpoint as checkpoint
    from cot_components.training.evaluations import Evaluations
    from cot_components.training.meters import StepMeter

    fault, add, measure = Fault(point, int(count), how), StepMeter.add, Evaluations._measure

    def add_or_fail(self, out, batch):
        poisoned = fault("forward") and how == "nan"
        return add(self, out._replace(objective=out.objective * math.nan) if poisoned else out, batch)

    def measure_or_fail(self, *args, **kwargs):
        fault("evaluation")
        return measure(self, *args, **kwargs)

    checkpoint.reached = fault
    StepMeter.add, Evaluations._measure = add_or_fail, measure_or_fail
    sys.argv = [name, "--config", f"{name}/quickstart", *arguments]
    importlib.import_module(name).main()


if __name__ == "__main__":
    main(*sys.argv[1:])
