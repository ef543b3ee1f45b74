"""Studies behind the figures in the README: `python -m experiments NAME`, or `make evidence STUDY=NAME`.

A study is a module of this package with a `STUDY` (see `experiments.runner.Study`), named in `STUDIES`.
"""

STUDIES = {"highlight": "experiments.highlight", "discriminator": "experiments.discriminator"}
"""Name on the command line -> module."""
