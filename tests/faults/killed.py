"""A recipe that kills itself: python killed.py NAME POINT COUNT ARGUMENTS...

At the COUNT-th time it comes to POINT (`forward`, or a stage of a save as `training.checkpoint.reached` names it) the
process gets SIGKILL: no handler, no tidying.
"""

import importlib
import os
import signal
import sys

name, point, count, *arguments = sys.argv[1:]
left = int(count)


def maybe_die(here: str) -> None:
    global left
    if here == point:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    import cot_components.training.checkpoint as checkpoint
    import cot_components.training.loop as loop

    add = loop.StepMeter.add
    checkpoint.reached = maybe_die
    loop.StepMeter.add = lambda self, *a, **k: (maybe_die("forward"), add(self, *a, **k))[1]
    sys.argv = [name, "--config", f"{name}/quickstart", *arguments]
    importlib.import_module(name).main()
