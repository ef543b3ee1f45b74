"""The adapter: same logits bit for bit, same state dict, and a loss equal to cross-entropy on the stock model."""

import copy

import pytest
import torch
from models_for_tests import FAMILIES, VOCABULARY, build, random_tokens
from rows import random_rows
from torch.nn.functional import cross_entropy

from cot_components.data.rows.batches import pad
from cot_components.errors import UserError
from cot_components.losses import sft
from cot_components.models.adapter import adapt, head_of, hidden_states, logits
from cot_components.models.families.gpt2 import gpt2
from cot_components.training.distributed import World
from cot_components.training.setup import prepare_model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_and_state_dict_are_those_of_the_stock_model(family, dtype):
    stock = build(family).to(dtype)
    ours = adapt(copy.deepcopy(stock))
    tokens = random_tokens(2, 9)
    assert torch.equal(logits(ours, tokens), stock(tokens))
    assert list(ours.state_dict()) == list(stock.state_dict())


def test_a_copy_is_bound_to_itself():
    model = adapt(build("llama_tied"))
    twin, tokens = copy.deepcopy(model), random_tokens(1, 5)
    torch.nn.init.zeros_(model.norm.scale)
    assert logits(twin, tokens).abs().max() > 0
    assert logits(model, tokens).abs().max() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_cross_entropy_on_logits(family):
    ours, stock = adapt(build(family)), build(family)
    batch = pad(random_rows(4, vocabulary=VOCABULARY).flat(range(4)), pad_id=0)
    out = ours.loss(sft().fused, batch)
    out.objective.backward()
    reference = cross_entropy(stock(batch.tokens).flatten(0, 1), batch.labels.flatten(), reduction="sum")
    reference.backward()
    torch.testing.assert_close(out.objective, reference)
    assert len(out.nll) == batch.num_supervised > 0
    largest = max(p.grad.abs().max() for p in stock.parameters())
    for ours_p, stock_p in zip(ours.parameters(), stock.parameters(), strict=True):
        assert (ours_p.grad - stock_p.grad).abs().max() <= 1e-5 * largest


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_feed_forward_reads_the_rows_of_the_loss_alone(family, checkpointing):
    """Their hidden states, and the gradients of a loss on them, are those of the whole layer."""
    flat = random_rows(4, vocabulary=VOCABULARY).flat(range(4))
    batch, gradients, read = pad(flat, pad_id=0), [], []
    for rows in (None, batch.rows):
        torch.manual_seed(0)
        small = {"num_layers": 2, "num_heads": 4, "embed_dim": 32, "max_seq_len": 64, "dropout": 0.0}
        model = adapt(gpt2(vocab_size=VOCABULARY, **small) if family == "gpt2" else build(family))
        model.layers[-1].mlp.register_forward_hook(lambda module, inputs, out: read.append(inputs[0].numel() // 32))
        prepare_model(model, World(), compile=False, enable_activation_checkpointing=checkpointing)
        hidden = hidden_states(model, batch, rows).index_select(0, batch.rows)
        hidden.square().sum().backward()
        gradients.append([hidden, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert read[0] == batch.tokens.numel() and set(read[1 + checkpointing :]) == {len(batch.rows)}
    assert len(gradients[0]) > 10 and 0 < len(batch.rows) < batch.tokens.numel()
    largest = max(g.abs().max() for g in gradients[0][1:])
    for whole, cut in zip(*gradients, strict=True):
        assert (whole - cut).abs().max() <= 1e-5 * largest


def test_a_batch_without_rows_has_gradients_for_all_weights():
    model = adapt(build("llama_untied"))
    batch = pad(random_rows(2, vocabulary=VOCABULARY).flat(range(2)), pad_id=0)
    model.loss(sft().fused, batch, labels=batch.labels, rows=batch.rows[:0]).objective.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.any()] == []


def test_disabled_adapters_leave_the_base_model():
    model = adapt(build("llama_lora"))
    assert len(head_of(model)(torch.randn(3, 32))) == 2
    model.output.disabled = True
    assert head_of(model) is model.output.weight


def test_a_head_with_a_bias_is_refused():
    model = build("llama_untied")
    model.output = torch.nn.Linear(32, VOCABULARY)
    with pytest.raises(UserError, match="bias"):
        adapt(model)
    model.output = torch.nn.Identity()
    with pytest.raises(UserError, match="linear"):
        adapt(model)
