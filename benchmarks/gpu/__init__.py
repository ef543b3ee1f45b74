"""`python -m benchmarks gpu`: all that wants a GPU in one command, part by part, in the environment that is active.

Each part is a process with a time limit and leaves one small file; a part whose file is there, of this code, these
versions and this device, is not run again. No network: the model comes from `$COT_CACHE`, data from generators.
`--device cpu --size tiny` runs the same code in seconds. To join, a part is a module with
`rows(device: str, size: str) -> Iterable[Row]`, named in `PARTS`; size is `cuda` or `tiny`.
"""

from typing import NamedTuple

from cot_components.training.quiet import quiet_imports

quiet_imports()  # before any part imports more


class Part(NamedTuple):
    """What runs, and how long.

    module: has `rows`
    planned: seconds on one H200, an estimate; a part is not begun with less than that left
    limit: seconds after which it is stopped
    checks: whether it compares numbers rather than times, so that its gates count at size `tiny` too
    """

    module: str
    planned: int
    limit: int
    checks: bool = False


PARTS = {
    "check_losses": Part("benchmarks.gpu.check_losses", 45, 90, checks=True),
    "check_layers": Part("benchmarks.gpu.check_layers", 40, 80, checks=True),
    "check_resume": Part("benchmarks.gpu.check_resume", 40, 80, checks=True),
    "precision": Part("benchmarks.precision", 90, 150),
    "loss": Part("benchmarks.loss", 45, 90),
    "step": Part("benchmarks.step", 110, 170),
    "packing": Part("benchmarks.packing", 50, 90),
    "generation": Part("benchmarks.generation", 20, 50),
    "icot": Part("benchmarks.icot", 15, 40),
    "surgery": Part("benchmarks.surgery", 10, 30),
    "scoring": Part("benchmarks.scoring", 10, 30),
    "digits": Part("benchmarks.gpu.digits", 30, 600),
    "sizes": Part("benchmarks.sizes", 50, 90),
}
"""Name on the command line -> part, in the order in which they run."""


class Unfinished(Exception):
    """A part was told to stop and has saved where it is; the next call goes on from there."""
