"""Ours against a peer, in one process, on fresh random inputs that both have just been shown to agree on.

`python -m benchmarks [NAME ...] [--device cuda] [--strict]` prints a table and writes `benchmarks/results/`. To join, a
benchmark is a module of this package with `rows(device: str) -> Iterable[Row]`, named in `BENCHMARKS`.
"""

BENCHMARKS = {
    "loss": "benchmarks.loss",
    "surgery": "benchmarks.surgery",
    "icot": "benchmarks.icot",
    "scoring": "benchmarks.scoring",
    "step": "benchmarks.step",
    "sizes": "benchmarks.sizes",
    "packing": "benchmarks.packing",
    "loader": "benchmarks.loader",
    "startup": "benchmarks.startup",
}
"""Name on the command line -> module."""
