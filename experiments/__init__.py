"""Studies behind experiments/README.md: `python -m experiments NAME`, or `make evidence STUDY=NAME`.

A study is a module of this package with a `STUDY` (see `experiments.study.Study`), named in `STUDIES`.
"""

STUDIES = {
    name: f"experiments.{name.removesuffix('_gpu')}" + ":GPU" * name.endswith("_gpu")
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
        "one_teacher",
        "qtuning",
        "blur_large",
        "thinking",
        "thinking_real",
        "screening",
        "targets_real",
        "targets_real_gpu",
        "highlight_real",
        "highlight_real_gpu",
        "blur_real",
        "blur_real_gpu",
        "repetition_real",
    )
}
"""Name on the command line -> module, with `:GPU` for its larger grid."""
