"""Two processes are one process: same losses, gradient norms and weights on the same global batch, for every method."""

import json
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import must
from commands import run as start
from same_run import compare_records, compare_weights
from tiny_runs import overrides_for, records, run, training_recipes

IN_SEQUENCE = Path(__file__).parents[1] / "helpers" / "in_sequence.py"
assert len(training_recipes()) >= 4
PACED = [
    *("curriculum.pace=accuracy", "curriculum.measure_every=1", "curriculum.cap=1"),
    *("dataset.exclude=[validation]", "dataset_val={split: validation, num_rows: 7}"),
]

HALF = ["trainable._component_=cot_components.trainable.Half", "trainable.redraw=1", "trainable.embeddings=false"]
HALF += ["trainable.seed=2"]  # the last norm, all that learns outside of layers, rests in the first two rounds


SELECTED = "dataset.select={some: {_component_: cot_components.selectors.AtRandom, keep: 0.8}}"  # 26 rows of 32


NAMES = [*training_recipes(), "packed", "paced", "half", "selected"]
RECIPE = {"packed": "bt_sft", "selected": "bt_sft", "paced": "icot_sft", "half": "bt_sft"}


def words_of(name, hub, out, *, processes):
    """Four steps with evaluations; the last one has two rows, so that one of the four micro-batches is empty.

    Packed, the last step of the epoch has fewer packs than processes can share, so one process runs padding.
    """
    recipe = RECIPE.get(name, name)
    changed = ("dropout", "batch_size=4", "dataset.max_rows=", "dataset.num_rows=", "gradient_accumulation_steps=2")
    words = [word for word in overrides_for(recipe, hub) if not any(part in word for part in changed)]
    words += ["epochs=1", "optimizer.lr=1e-3", "dataset.num_rows=26" if recipe == "icot_sft" else "dataset.max_rows=26"]
    words += ["model.dropout=0.0"] if recipe == "icot_sft" else []
    words += {"paced": PACED, "half": HALF, "selected": ["dataset.max_rows=32", SELECTED]}.get(name, [])
    size = [f"batch_size={4 // processes}", "gradient_accumulation_steps=2"]
    if name == "packed":
        size = ["packed_tokens=400", f"gradient_accumulation_steps={2 // processes}"]
    return [*words, *size, f"output_dir={out}"]


@pytest.fixture(scope="module")
def together(hub, tmp_path_factory):
    """The folder of all runs in two processes."""
    folder = tmp_path_factory.mktemp("together")
    jobs = [(name, RECIPE.get(name, name), words_of(name, hub, folder / name, processes=2)) for name in NAMES]
    with ExitStack() as stack:  # all are free at once, so they differ
        sockets = [stack.enter_context(socket.socket()) for _ in jobs]
        for one in sockets:
            one.bind(("localhost", 0))
        ports = [one.getsockname()[1] for one in sockets]
    lines = [
        (port, [recipe, "--config", f"{recipe}/quickstart", *words])
        for port, (_, recipe, words) in zip(ports, jobs, strict=True)
    ]
    (folder / "jobs.json").write_text(json.dumps(lines))
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    must(start(*torchrun, IN_SEQUENCE, folder / "jobs.json", cwd=folder, timeout=900))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(name, hub, together, tmp_path):
    one, two = tmp_path / "one", together / name
    assert run(RECIPE.get(name, name), words_of(name, hub, one, processes=1)).code == 0
    compare_records(records(one), records(two))
    sizes = [record["supervised_tokens"] for record in records(one) if "objective" in record]
    assert len(sizes) == (3 if name == "packed" else 4) and sizes[-1] < 0.6 * sizes[0]
    compare_weights(one, two)
