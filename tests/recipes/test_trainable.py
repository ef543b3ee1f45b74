"""Which weights learn: what rests keeps every bit, in every number format, and a resumed run draws the same rounds."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import STEPS, adapter_run
from tiny_runs import checkpoint, copied, differences, records, run, same_steps

from cot_components.models import from_folder
from cot_components.trainable import Half, share_of, weights_of

HALF = ["trainable._component_=cot_components.trainable.Half", "trainable.redraw=2", "save_every_n_steps=1"]
CASES = [("fp32", "fresh"), ("bf16", "kept"), ("weights", "fresh"), ("weights", "kept"), ("8bit", "kept")]


def state_of(name, states):
    """What an optimizer keeps of one weight, its fp32 weight apart."""
    return {key: value for key, value in states.items() if key.startswith(f"{name}/") and not key.endswith("/fp32")}


@pytest.mark.parametrize(("kind", "moments"), CASES)
def test_what_rests_keeps_every_bit_and_a_resumed_run_goes_on_alike(hub, tmp_path, kind, moments):
    """Weights under weight decay, their fp32 weights, and moments; resumed within a round and where one begins."""
    known, whole = "bf16" if kind == "fp32" else kind, tmp_path / "whole"
    words = [*adapter_run(hub / "model", known), *HALF, f"trainable.moments={moments}", "optimizer.weight_decay=0.1"]
    words += ["dtype=fp32"] if kind == "fp32" else []
    with torch.compiler.set_stance("force_eager"):
        seen = run("bt_sft", [*words, f"output_dir={whole}"])
        assert seen.code == 0
        for until in (2, 3):
            out = copied(whole, tmp_path / f"from_{until}", until=until)
            assert same_steps(run("bt_sft", [*words, f"output_dir={out}"]), seen, after=until)
            assert differences(whole, out, step=STEPS) == []

    weights = weights_of(from_folder(path=str(hub / "model"), quiet=True))
    rounds = [Half(redraw=2).choose(weights, number) for number in range(STEPS // 2)]
    shares = [record["trained_share"] for record in records(whole) if "loss" in record]
    assert shares == pytest.approx([share_of(rounds[step // 2], weights) for step in range(STEPS)], rel=1e-5)
    saved = [
        tuple(load_file(checkpoint(whole, step) / f"{name}.safetensors") for name in ("model", "optimizer"))
        for step in range(1, STEPS + 1)
    ]
    rested, moved = 0, 0
    for step in range(1, STEPS):
        (before, states_before), (after, states_after) = saved[step - 1 : step + 1]
        for name in weights:
            same = torch.equal(before[name], after[name])
            old, new = state_of(name, states_before), state_of(name, states_after)
            fine = (states.get(f"{name}/fp32") for states in (states_before, states_after))
            if name in rounds[step // 2]:
                moved += not same
                continue
            assert same, (step, name)
            assert len({None if value is None else value.numpy().tobytes() for value in fine}) == 1, (step, name)
            assert new.keys() == (old.keys() if moments == "kept" else set()), (step, name)
            assert all(torch.equal(old[key], new[key]) for key in new), (step, name)
            rested += 1
    assert rested > 40 and moved > 40
