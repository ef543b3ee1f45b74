"""The shuffled model on disk: tuned once, found again, refused where it was made of something else."""

import pytest
import torch
from models_for_tests import build
from safetensors.torch import load_file

from cot_components.errors import UserError
from cot_components.training.shuffled import WEIGHTS, tuned_model, weights_hash


def tuned(name: str, folder, **made_of):
    model = build(name)
    if name == "llama_lora":
        from torchtune.modules.peft import get_adapter_params, set_trainable_params

        set_trainable_params(model, get_adapter_params(model))
    calls = []

    def tune() -> None:
        calls.append(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * parameter.requires_grad)

    tuned_model(model, folder, made_of, tune)
    return model, len(calls)


@pytest.mark.parametrize("name", ["llama_tied", "llama_lora"])
def test_a_second_call_finds_the_weights(name, tmp_path) -> None:
    first, calls = tuned(name, tmp_path, base="a", steps=3)
    second, again = tuned(name, tmp_path, base="a", steps=3)
    assert (calls, again) == (1, 0) and weights_hash(first) == weights_hash(second)
    assert weights_hash(first) != weights_hash(build(name))

    kept = load_file(tmp_path / WEIGHTS)
    trainable = {name for name, parameter in first.named_parameters() if parameter.requires_grad}
    assert set(kept) == trainable and not list(tmp_path.glob("*.tmp"))


def test_what_it_was_made_of_and_damage(tmp_path) -> None:
    tuned("llama_tied", tmp_path, base="a", steps=3)
    with pytest.raises(UserError, match=r"steps \(3, now 4\)"):
        tuned("llama_tied", tmp_path, base="a", steps=4)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        tuned("llama_tied", tmp_path, base="a", steps=3)


def test_a_base_is_the_same_with_and_without_its_adapters() -> None:
    model = build("llama_lora")
    before = weights_hash(model, adapters=False), weights_hash(model)
    with torch.no_grad():
        model.layers[0].attn.q_proj.lora_a.weight.add_(1)
    assert weights_hash(model, adapters=False) == before[0] and weights_hash(model) != before[1]
