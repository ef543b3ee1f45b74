"""Thoughts closed at a budget: batched with a cache equals going on by hand, and answers are read behind the tag."""

import pytest
import torch
from tiny_models import build

from cot_components.data.text.segments import Tags
from cot_components.evaluation.budget import ThoughtBudget
from cot_components.models.adapter import adapt, logits
from cot_components.models.generate import generate, random_stream

PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 4, 6, 2], [11, 12, 13, 14], [40] * 11, [1, 2], [30, 31, 32]]
LIMIT = 20


def decode(ids):
    return "".join(chr(0x4E00 + i) for i in ids)


def budget_of(max_tokens, open_id, close, opened):
    tags = Tags(open=decode([open_id]), close=decode(close))
    return ThoughtBudget(max_tokens, tags, tuple(close), decode, tuple(opened))


@torch.no_grad()
def by_hand(model, prompt, *, budget, open_id, close, opened, stop_ids, temperature, seen):
    """Generate up to the budget, append what the tag lacks, generate again: no cache, one token after the other."""
    draws, ids = random_stream(0, prompt, 0).random(LIMIT), []

    def go_on(is_enough):
        while not is_over() and not is_enough():
            scores = logits(model, torch.tensor([[*prompt, *ids]]))[0, -1]
            up_to = torch.softmax(scores.float() / (temperature or 1), dim=-1).double().cumsum(dim=-1)
            drawn = int(torch.searchsorted(up_to, draws[len(ids)] * up_to[-1], right=True))
            ids.append(drawn if temperature else int(scores.argmax()))

    def is_over():
        return len(ids) >= LIMIT or (bool(ids) and ids[-1] in stop_ids)

    inside, left = opened, budget
    while not is_over():
        here = len(ids)
        closed = lambda: any(ids[i : i + len(close)] == close for i in range(here, len(ids)))  # noqa: B023, E731
        if inside:
            go_on(lambda: closed() or len(ids) - here == left)  # noqa: B023
            left -= len(ids) - here
            if not is_over() and not closed():
                begun = int(len(ids) > here and len(close) == 2 and ids[-1] == close[0])
                ids += close[begun:]
                seen["begun" if begun else "whole"] += 1
            else:
                seen["left alone"] += 1
        else:
            go_on(lambda: open_id in ids[here:])  # noqa: B023
        inside = not inside
    del ids[LIMIT:]
    return ids[: next((i for i, token in enumerate(ids) if token in stop_ids), None)]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_equals_going_on_by_hand(temperature):
    model = adapt(build("llama_untied", seed=3)).eval()
    how = {"max_new_tokens": LIMIT, "pad_id": 0, "temperature": temperature}
    seen = dict.fromkeys(("whole", "begun", "left alone"), 0)
    stops, open_id, opened = [37], 20, [True, False, True, False, True, False, True]
    for close in ([56], [56, 41], [30, 45]):
        for size in (0, 3, 99):
            told = {"open_id": open_id, "close": close, "stop_ids": stops, "temperature": temperature}
            expected = [
                by_hand(model, prompt, budget=size, opened=inside, seen=seen, **told)
                for prompt, inside in zip(PROMPTS, opened, strict=True)
            ]
            for batch_size in (2, 8):
                got = generate(
                    model,
                    PROMPTS,
                    stop_ids=stops,
                    batch_size=batch_size,
                    budget=budget_of(size, open_id, close, opened),
                    **how,
                )
                assert got == expected
            if size == 99:
                assert got == generate(model, PROMPTS, stop_ids=stops, **how), "a large budget changes nothing"
    assert min(seen.values()) > 0, seen


def test_a_tag_that_shares_tokens_with_text_is_found():
    """`<think>` ends inside a token, and `</think>` is three tokens of which the model has written the first."""
    pieces = {1: "<thi", 2: "nk>\nA", 3: "B ", 4: "</", 5: "think", 6: ">", 7: "</th", 8: "ink>\n", 9: "C"}
    budget = ThoughtBudget(3, Tags(), (4, 5, 6), lambda ids: "".join(pieces[i] for i in ids), (False,))
    for chosen, expected in (
        ([1, 2, 3, 3, 3, 9, 9, 9, 9], [1, 2, 3, 3, 3, 4, 5, 6, 9]),
        ([1, 2, 3, 3, 4, 9, 9, 9], [1, 2, 3, 3, 4, 5, 6, 9]),
        ([1, 2, 3, 7, 8, 9, 9, 9], [1, 2, 3, 7, 8, 9, 9, 9]),
        ([1, 2, 3, 7, 8, 1, 2, 3, 9, 9, 9], [1, 2, 3, 7, 8, 1, 2, 4, 5, 6, 9]),  # opened again: nothing is left
        ([3, 3, 3, 3, 3, 3, 3, 3], [3] * 8),
    ):
        thought = budget.thought(0)
        assert [thought.write(token) for token in chosen] == expected
