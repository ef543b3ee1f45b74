"""The study of blurring at GPU size, its settings crossed: a Llama of 113 M parameters from random weights.

It first learns a wide mixture of tasks in one teacher's words, all labelled; then every arm adapts it, in 400 steps of
32 rows, to traces of each style on few and on many rows, or to one more task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from experiments.blur import ARMS, BLUR, PLAIN, SLIPS, STUDY, VERBOSE, adapted, products, train
from experiments.starts import QUIET, once_trained
from experiments.study import Cell

SIZE = [
    *("model.num_layers=12", "model.num_heads=12", "model.num_kv_heads=12"),
    *("model.embed_dim=768", "model.intermediate_dim=3072", "device=cuda", "dtype=bf16"),
]
MIXTURE = [
    f"{BLUR}.ratio=0",
    *("dataset.source.tasks.source=generated", "dataset.source.tasks.max_rows=60000"),
    *("dataset.source.products.source=generated_multiplication", 'dataset.source.products.subset="2"'),
    "dataset.source.products.max_rows=60000",
    *("batch_size=128", "epochs=4", "optimizer.lr=6e-4"),
]
ADAPTATION = "optimizer.lr=1e-4"
STYLES = {"own": PLAIN, "slips": SLIPS, "foreign": VERBOSE}
SETTINGS = {
    **{
        f"{style}, {rows} rows": (traces, [f"dataset.max_rows={rows}", f"epochs={12_800 // rows}"])
        for style, traces in STYLES.items()
        for rows in (640, 3200, 12_800)
    },
    "products of three digits": (products(3), ["dataset.max_rows=12800", "epochs=1"]),
}


def base(cell: Cell) -> Path:
    """A model that solves the mixture."""
    return once_trained(cell, "large_base", "bt_sft", "bt_sft/quickstart", *QUIET, *MIXTURE, *SIZE)


def cell(cell: Cell) -> Mapping[str, float]:
    """One adaptation of the base by `bt_sft`."""
    traces, length = SETTINGS[cell.setting]
    rest = [override for override in SIZE if not override.startswith("model.")]  # the base defines its size
    return train(cell, traces, *adapted(base(cell)), *length, *ARMS[cell.arm], ADAPTATION, size=rest)


STUDY = replace(
    STUDY,
    name="blur_large",
    question="Does blurring thoughts help a model of 113 M parameters?",
    answer=None,
    findings="",
    about=__doc__,
    model="Llama of 113 M parameters",
    effect=("answer_accuracy", "token 0.2", "own, 12800 rows"),
    settings=tuple(SETTINGS),
    cell=cell,
    needs="a GPU",
    jobs=1,
)
