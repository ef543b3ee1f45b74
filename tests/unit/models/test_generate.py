"""Generation: batched with a cache equals one by one without, and leaves no trace in the model."""

import pytest
import torch
from models_for_tests import FAMILIES, build, random_tokens

from cot_components.errors import UserError
from cot_components.models.adapter import adapt, logits
from cot_components.models.generate import generate

PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 4, 6, 2], [11, 12, 13, 14], [40] * 11]


@torch.no_grad()
def slowly(model, prompt, *, max_new_tokens, stop_ids):
    """One prompt, no cache, the whole sequence again for every token."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        token = int(logits(model, torch.tensor([ids]))[0, -1].argmax())
        if token in stop_ids:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_one_by_one_without_a_cache(family):
    model = adapt(build(family, seed=3)).eval()
    free = [slowly(model, prompt, max_new_tokens=20, stop_ids=set()) for prompt in PROMPTS]
    stop = free[0][6]  # a token that does come up, so that rows end at different times
    expected = [slowly(model, prompt, max_new_tokens=20, stop_ids={stop}) for prompt in PROMPTS]
    for batch_size in (1, 2, 8):
        got = generate(model, PROMPTS, max_new_tokens=20, stop_ids={stop}, pad_id=0, batch_size=batch_size)
        assert got == expected
    assert len({len(row) for row in expected}) > 1


@pytest.mark.parametrize(
    ("prompt", "pad_id", "sentence"),
    [
        ([3, 60], 0, "a prompt has token id 60, the model only 60 ids; is the tokenizer the model's own"),
        ([3, 59], 60, "pad_token has token id 60, the model only 60 ids"),
    ],
)
def test_ids_of_another_model_are_refused(prompt, pad_id, sentence):
    with pytest.raises(UserError, match=sentence):
        generate(adapt(build("llama_tied")), [[1], prompt], max_new_tokens=2, stop_ids=[], pad_id=pad_id)


def test_nothing_is_left_behind():
    model = adapt(build("llama_tied")).train()
    tokens = random_tokens(1, 12)
    before = logits(model, tokens)
    generate(model, PROMPTS, max_new_tokens=5, stop_ids=[], pad_id=0)
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 60
    assert model.training and not model.caches_are_setup()
    assert torch.equal(logits(model, tokens), before)
    assert torch.equal(logits(model, changed)[:, :-1], before[:, :-1])  # no position sees the future


def test_the_context_ends_generation():
    model = adapt(build("llama_tied"))
    (row,) = generate(model, [[1] * 60], max_new_tokens=100, stop_ids=[], pad_id=0)
    assert len(row) == 64 - 60 + 1
    with pytest.raises(UserError, match="64 tokens leaves no room"):
        generate(model, [[1] * 64], max_new_tokens=1, stop_ids=[], pad_id=0)
    with pytest.raises(UserError, match="empty prompt"):
        generate(model, [[]], max_new_tokens=1, stop_ids=[], pad_id=0)


def test_a_prompt_near_the_end_of_the_context_cuts_no_other():
    model = adapt(build("llama_tied", seed=3)).eval()
    prompts = [[5, 9, 2, 4], [1] * 58, [2] * 58, [3] * 60]
    alone = [generate(model, [prompt], max_new_tokens=40, stop_ids=[], pad_id=0)[0] for prompt in prompts]
    assert [len(new) for new in alone] == [40, 7, 7, 5]
    for batch_size in (2, 3, 4):
        assert generate(model, prompts, max_new_tokens=40, stop_ids=[], pad_id=0, batch_size=batch_size) == alone


def test_sampling_is_seeded():
    model = adapt(build("llama_untied"))
    draw = lambda seed: generate(model, PROMPTS, max_new_tokens=8, stop_ids=[], pad_id=0, temperature=1.0, seed=seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)


def test_an_answer_may_hold_stop_tokens():
    """Where it ends at the second, the first is part of it; without a second it goes on to the limit."""
    model = adapt(build("llama_tied", seed=3)).eval()
    whole = generate(model, PROMPTS, max_new_tokens=20, stop_ids=[], pad_id=0)
    compared = 0
    for stop in {token for row in whole for token in row}:
        got = generate(model, PROMPTS, max_new_tokens=20, stop_ids={stop}, pad_id=0, stops_per_answer=2)
        for row, full in zip(got, whole, strict=True):
            places = [index for index, token in enumerate(full) if token == stop]
            assert row == (full[: places[1]] if len(places) > 1 else full)
            compared += len(places) > 1
    assert compared > 0
