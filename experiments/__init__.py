"""Studies behind experiments/README.md: `python -m experiments NAME`, or `make evidence STUDY=NAME`.

A study is a module of this package with a `STUDY` (see `experiments.study.Study`), named in `STUDIES`.
"""

STUDIES = {
    name: f"experiments.{name}"
    for name in (
        "blur",
        "blur_noise",
        "repetition",
        "internalisation",
        "internal_resets",
        "arrival",
        "shrink",
        "targets",
        "dft",
        "highlight",
        "true_classes",
        "discriminator",
        "compositions",
        "internalised_targets",
        "half",
        "grape",
        "qtuning",
        "blur_large",
        "thinking",
        "thinking_real",
        "screening",
        "targets_real",
        "highlight_real",
        "blur_real",
        "repetition_real",
    )
}
STUDIES |= {f"{name}_gpu": f"experiments.{name}:GPU" for name in ("targets_real", "highlight_real", "blur_real")}
"""Name on the command line -> module, and the name of the study in it where that is not `STUDY`."""
