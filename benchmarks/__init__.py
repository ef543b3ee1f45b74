"""Ours against a peer, in one process, on fresh random inputs on which both were first checked to agree.

`python -m benchmarks [NAME ...] [--strict]` runs on a CPU, prints a table and writes `benchmarks/results/`. A new
benchmark is a module of this package with `rows() -> Iterable[Row]`, listed in `BENCHMARKS`; one that also runs on a
GPU is a part of `python -m benchmarks gpu` (see `benchmarks.gpu`) and has `rows(device, size)`.
"""

BENCHMARKS = {
    "loss": "benchmarks.loss",
    "surgery": "benchmarks.surgery",
    "icot": "benchmarks.icot",
    "scoring": "benchmarks.scoring",
    "step": "benchmarks.step",
    "pretrained": "benchmarks.pretrained",
    "backbones": "benchmarks.backbones",
    "generation": "benchmarks.generation",
    "sizes": "benchmarks.sizes",
    "packing": "benchmarks.packing",
    "loader": "benchmarks.loader",
    "startup": "benchmarks.startup",
}
"""Name on the command line -> module."""
