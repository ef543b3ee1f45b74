"""Studies behind experiments/README.md: `python -m experiments NAME`, or `make evidence STUDY=NAME`.

A study is a module of this package with a `STUDY` (see `experiments.study.Study`), named in `STUDIES`.
"""

STUDIES = {
    name: f"experiments.{name}"
    for name in (
        "blur",
        "internalisation",
        "arrival",
        "shrink",
        "targets",
        "highlight",
        "discriminator",
        "compositions",
        "internalised_targets",
        "half",
        "grape",
        "one_teacher",
        "qtuning",
        "blur_large",
        "thinking",
        "thinking_real",
    )
}
"""Name on the command line -> module."""
