"""GPT-2 out of torchtune's modules against `transformers` (see `test_families` too) and against itself with a cache."""

import copy

import pytest
import torch
from torchtune.generation import generate
from torchtune.modules import local_kv_cache
from transformers import GPT2Config, GPT2LMHeadModel

from cot_components.models.families.gpt2 import FAMILY, gpt2, gpt2_large, gpt2_medium, gpt2_small, gpt2_xl
from cot_components.models.folder import wanted_parts

SIZE = {"vocab_size": 501, "num_layers": 4, "num_heads": 6, "embed_dim": 96, "max_seq_len": 128}


def as_ours(theirs, ours):
    """Tensors of `transformers` under our names."""
    found = {}
    for hub, parts in wanted_parts(FAMILY, ours).items():
        rows = {name: shape[0] for name, shape in parts.items()}
        found |= FAMILY.from_hub(hub, theirs[hub], rows, ours)
    return found


@pytest.fixture(name="models")
def _models():
    """Ours and the peer's model with the same random weights, biases and norms among them."""
    torch.manual_seed(0)
    ours = gpt2(**SIZE, dropout=0.0).eval()
    shape = {"vocab_size": 501, "n_layer": 4, "n_head": 6, "n_embd": 96, "n_positions": 128}
    theirs = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            std = 1.0 if "wpe" in name else 0.1 if parameter.dim() == 1 else 0.3
            parameter.add_(torch.randn_like(parameter) * std)
    ours.load_state_dict(as_ours(theirs.state_dict(), ours))
    return ours, theirs


def test_gradients_equal_transformers(models):
    ours, theirs = models
    tokens = torch.randint(0, 501, (2, 24))
    for logits in (ours(tokens), theirs(tokens).logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    expected = as_ours({name: p.grad for name, p in theirs.named_parameters()}, ours)
    largest = max(g.abs().max() for g in expected.values())
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys() and len(found) > 20
    assert [name for name in found if (found[name] - expected[name]).abs().max() >= 1e-5 * largest] == []


@pytest.mark.parametrize("jump", [0, 11])
def test_positions_that_jump_equal_transformers(models, jump):
    ours, theirs = models
    tokens = torch.randint(0, 501, (2, 20))
    positions = torch.arange(20).repeat(2, 1)
    positions[0, 7:] += jump
    expected = theirs(tokens, position_ids=positions).logits
    assert (ours(tokens, input_pos=positions) - expected).abs().max() < 2e-6 * expected.abs().max()
    assert ((ours(tokens) - expected).abs().max() > 1e-3) == bool(jump)


def greedy_without_cache(model, prompt, positions, new):
    tokens, positions = list(prompt), list(positions)
    for _ in range(new):
        logits = model(torch.tensor([tokens]), input_pos=torch.tensor([positions]))
        tokens.append(int(logits[0, -1].argmax()))
        positions.append(positions[-1] + 1)
    return tokens[len(prompt) :]


def cache(batch_size, slots):
    return {"batch_size": batch_size, "device": torch.device("cpu"), "dtype": torch.float32} | {
        "decoder_max_seq_len": slots
    }


def test_torchtunes_own_generate_agrees_with_and_without_cache(models):
    ours, _ = models
    prompt, knobs = [5, 17, 3, 60], {"max_generated_tokens": 12, "pad_id": 0, "top_k": 1}
    without, _ = generate(ours, torch.tensor([prompt]), **knobs)
    with local_kv_cache(ours, **cache(1, 16)):
        cached, _ = generate(ours, torch.tensor([prompt]), **knobs)
    expected = greedy_without_cache(ours, prompt, [0, 1, 2, 3], 12)
    assert without[0, 4:].tolist() == cached[0, 4:].tolist() == expected


def test_one_position_per_row_while_decoding_is_not_broadcast(models):
    ours, _ = models
    tokens, positions = torch.tensor([[3], [5], [8]]), torch.tensor([4, 0, 9])
    assert torch.equal(ours(tokens, input_pos=positions), ours(tokens, input_pos=positions[:, None]))


def test_head_is_tied_also_in_a_copy():
    model = copy.deepcopy(gpt2(**SIZE, dropout=0.0).eval())
    tokens = torch.tensor([[1, 2, 3]])
    before = model(tokens)
    with torch.no_grad():
        model.tok_embeddings.weight[50] += torch.linspace(-1, 1, 96)
    changed = (model(tokens) - before).abs().amax(dim=(0, 1)) > 1e-6
    assert changed.tolist() == [i == 50 for i in range(501)]
    assert not any("output" in name and "proj" not in name for name in model.state_dict())


def test_initialisation_follows_gpt2():
    torch.manual_seed(0)
    state = gpt2(vocab_size=500, num_layers=8, num_heads=4, embed_dim=128, max_seq_len=300).state_dict()
    assert len(state) == 4 + 8 * 16
    for name, tensor in state.items():
        if name.endswith("bias") or "norm" in name:
            assert (tensor == (not name.endswith("bias"))).all(), name
        else:
            std = 0.02 / 4 if name.endswith(("output_proj.weight", "w2.weight")) else 0.02
            assert abs(tensor.std() / std - 1) < 0.05, name


def test_dropout_acts_in_training_only():
    model, tokens = gpt2(**SIZE, dropout=0.3), torch.randint(1, 90, (1, 12))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_published_sizes():
    published = {gpt2_small: 124_439_808, gpt2_medium: 354_823_168, gpt2_large: 774_030_080, gpt2_xl: 1_557_611_200}
    for build, count in published.items():
        with torch.device("meta"):
            assert sum(p.numel() for p in build().parameters()) == count


def test_more_tokens_than_positions_is_refused():
    with pytest.raises(ValueError, match="seq_len"):
        gpt2(**SIZE)(torch.zeros(1, 129, dtype=torch.long))
