"""Ours against a peer, in one process, on fresh random inputs that both have just been shown to agree on.

`python -m benchmarks [NAME ...] [--strict]` runs on a CPU, prints a table and writes `benchmarks/results/`. To join, a
benchmark is a module of this package with `rows() -> Iterable[Row]`, named in `BENCHMARKS`; one that a GPU runs too is
a part of `python -m benchmarks gpu` (see `benchmarks.gpu`) and takes `rows(device, size)`.
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
