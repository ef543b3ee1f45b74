"""Two processes are one process: same losses, gradient norms and weights on the same global batch, for every method."""

import pytest
from commands import must, tune
from same_run import compare_records, compare_weights
from tiny_runs import overrides_for, records, run, training_recipes

assert len(training_recipes()) >= 4
PACED = [
    *("curriculum.pace=accuracy", "curriculum.measure_every=1", "curriculum.cap=1"),
    *("dataset.exclude=[validation]", "dataset_val={split: validation, num_rows: 7}"),
]

HALF = ["trainable._component_=cot_components.trainable.Half", "trainable.redraw=1", "trainable.embeddings=false"]
HALF += ["trainable.seed=2"]  # the last norm, all that learns outside of layers, rests in the first two rounds


SELECTED = "dataset.select={some: {_component_: cot_components.selectors.AtRandom, keep: 0.8}}"  # 26 rows of 32


ALONE = [name for name in training_recipes() if name not in ("bt_sft", "rft")]  # those two: below, and within `cot_sft`


@pytest.mark.parametrize("name", [*ALONE, "packed", "paced", "half", "selected"])
def test_two_processes_are_one(name, hub, tmp_path):
    """Four steps with evaluations; the last one has two rows, so that one of the four micro-batches is empty.

    Packed, the last step of the epoch has fewer packs than processes can share, so one process runs padding.
    """
    recipe = {"packed": "bt_sft", "selected": "bt_sft", "paced": "icot_sft", "half": "bt_sft"}.get(name, name)
    changed = ("dropout", "batch_size=4", "dataset.max_rows=", "dataset.num_rows=", "gradient_accumulation_steps=2")
    words = [word for word in overrides_for(recipe, hub) if not any(part in word for part in changed)]
    words += ["epochs=1", "optimizer.lr=1e-3", "dataset.num_rows=26" if recipe == "icot_sft" else "dataset.max_rows=26"]
    words += ["model.dropout=0.0"] if recipe == "icot_sft" else []
    words += {"paced": PACED, "half": HALF, "selected": ["dataset.max_rows=32", SELECTED]}.get(name, [])
    alone, together = (
        ["batch_size=4", "gradient_accumulation_steps=2"],
        ["batch_size=2", "gradient_accumulation_steps=2"],
    )
    if name == "packed":
        pack = "packed_tokens=400"
        alone, together = [pack, "gradient_accumulation_steps=2"], [pack, "gradient_accumulation_steps=1"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(recipe, [*words, *alone, f"output_dir={one}"]).code == 0
    typed = f"--nproc_per_node 2 {recipe} --config {recipe}/quickstart"
    must(tune(typed, *words, *together, f"output_dir={two}", cwd=tmp_path))
    compare_records(records(one), records(two))
    sizes = [record["supervised_tokens"] for record in records(one) if "objective" in record]
    assert len(sizes) == (3 if name == "packed" else 4) and sizes[-1] < 0.6 * sizes[0]
    compare_weights(one, two)
