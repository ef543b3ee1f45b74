"""Packed rows: every row sees itself alone, on every model family, and costs no T x T mask."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from models_for_tests import FAMILIES, VOCABULARY, build
from rows import random_rows
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from cot_components.data.rows.batches import pack, pad
from cot_components.losses import sft
from cot_components.models.adapter import adapt, hidden_states
from cot_components.models.attention import BLOCK, Documents, block_mask, document_mask
from cot_components.models.families.gpt2 import gpt2

SMALL = {"vocab_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "embed_dim": 32, "max_seq_len": 64}
MODELS = {name: partial(build, name) for name in FAMILIES} | {"gpt2": partial(gpt2, **SMALL, dropout=0.0)}
FLAT = random_rows(12, vocabulary=VOCABULARY).flat(range(12))


def batches():
    return pack(FLAT, pad_id=0, num_tokens=len(FLAT.tokens) + 9), pad(FLAT, pad_id=0)


@pytest.mark.parametrize("name", MODELS)
def test_packed_is_padded(name):
    """Losses and gradients, in a batch that is longer than the context of the model."""
    torch.manual_seed(0)
    model = adapt(MODELS[name]())
    packed, padded = batches()
    assert packed.tokens.shape[1] > model.max_seq_len
    found = []
    for batch in (packed, padded):
        model.zero_grad()
        out = model.loss(sft().fused, batch)
        out.objective.backward()
        found.append((out.nll.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]))
    (ours, our_grads), (theirs, their_grads) = found
    assert torch.allclose(ours, theirs, atol=1e-5) and len(ours) > 50
    largest = max(float(grad.abs().max()) for grad in their_grads)
    assert max(float((a - b).abs().max()) for a, b in zip(our_grads, their_grads, strict=True)) < 1e-5 * largest


@pytest.mark.parametrize("name", MODELS)
def test_documents_are_isolated(name):
    """Another document in the same place changes no other document's loss or gradient."""
    model, (packed, _) = adapt(MODELS[name]()), batches()
    inputs = model.tok_embeddings.register_forward_hook(lambda module, args, out: seen.append(out) or out.retain_grad())
    losses, grads, seen = [], [], []
    changed = replace(packed, tokens=packed.tokens.clone())
    middle = packed.sample[0] == 5
    changed.tokens[0, middle] = (changed.tokens[0, middle] + 7) % VOCABULARY
    for batch in (packed, changed):
        seen.clear()
        out = model.loss(sft().fused, batch, labels=packed.labels, rows=packed.rows)
        out.objective.backward()
        losses.append(out.nll.detach())
        grads.append(seen[0].grad[0])
    inputs.remove()
    elsewhere = packed.sample.flatten()[packed.rows] != 5
    assert torch.equal(losses[0][elsewhere], losses[1][elsewhere]) and elsewhere.sum() > 50
    assert not torch.equal(losses[0][~elsewhere], losses[1][~elsewhere])
    assert torch.equal(grads[0][~middle], grads[1][~middle]) and not torch.equal(grads[0][middle], grads[1][middle])


def test_without_the_mask_documents_leak():
    """What the test above would see if the mask were lost on the way."""
    model, (packed, padded) = adapt(build("llama_tied")), batches()
    short = replace(packed, documents=None, tokens=packed.tokens[:, :60], input_pos=packed.input_pos[:, :60])
    whole = replace(short, documents=(*FLAT.lengths[:2].tolist(), int(60 - FLAT.lengths[:2].sum())))
    begin = int(FLAT.lengths[0])
    leaky, isolated = (hidden_states(model, batch)[begin] for batch in (short, whole))
    assert not torch.allclose(leaky, isolated, atol=1e-3)
    assert torch.allclose(isolated, hidden_states(model, padded).view(*padded.tokens.shape, -1)[1, 0], atol=1e-5)


def test_the_context_is_still_checked_for_rows():
    model = adapt(build("llama_tied"))
    with pytest.raises(ValueError, match="max_seq_len"):
        model(torch.zeros(1, 65, dtype=torch.long))


def test_a_copy_of_a_model_keeps_its_own_attention():
    model, (packed, _) = adapt(build("llama_tied")), batches()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = hidden_states(model, packed)
        twin.layers[0].attn.q_proj.weight.mul_(2)
        assert torch.equal(hidden_states(model, packed), before)
        assert not torch.equal(hidden_states(twin, packed), before)


def test_packing_works_with_checkpointed_activations():
    from torchtune.modules import TransformerSelfAttentionLayer
    from torchtune.training import set_activation_checkpointing

    model, (packed, _) = adapt(build("llama_tied")), batches()
    twin = copy.deepcopy(model)
    set_activation_checkpointing(twin, auto_wrap_policy={TransformerSelfAttentionLayer})
    for m in (model, twin):
        m.loss(sft().fused, packed).objective.backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def full_keys(mask, query):
    """Key blocks that need no mask, of one query block."""
    return sorted(mask.full_kv_indices[0, 0, query, : mask.full_kv_num_blocks[0, 0, query]].tolist())


LENGTHS = [[300, 200, 12], [1, 127, 128, 129, 500], [700], [5] * 60, [256, 256, 1]]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_block_mask_is_the_dense_one(lengths):
    """The GPU's mask, as far as a CPU can tell: the same blocks as FlexAttention finds by looking at every pair, and
    the same attention as document by document."""
    size = sum(lengths)
    document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))

    def visible(batch, head, query, key):
        return (key <= query) & (document[query] == document[key])

    ours = block_mask(lengths, torch.device("cpu"))
    dense = create_block_mask(visible, None, None, size, size, device="cpu", BLOCK_SIZE=BLOCK)
    touched = dense.to_dense()
    assert torch.equal(ours.to_dense(), touched)
    whole_blocks = range(size // BLOCK)  # dense calls the block beyond the end hidden
    assert [full_keys(ours, query) for query in whole_blocks] == [full_keys(dense, query) for query in whole_blocks]

    q, k, v = torch.randn(3, 1, 2, size, 16, generator=torch.Generator().manual_seed(0))
    parts = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    each = torch.cat([scaled_dot_product_attention(*part, is_causal=True) for part in parts], dim=2)
    assert torch.allclose(flex_attention(q, k, v, block_mask=ours), each, atol=1e-5)


def test_which_mask_is_used():
    assert document_mask([600, 600], torch.device("cpu")) == Documents((600, 600))
