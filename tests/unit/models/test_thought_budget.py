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

    def go_on(is_over):
        while len(ids) < LIMIT and not is_over() and not (ids and ids[-1] in stop_ids):
            scores = logits(model, torch.tensor([[*prompt, *ids]]))[0, -1]
            up_to = torch.softmax(scores.float() / (temperature or 1), dim=-1).double().cumsum(dim=-1)
            drawn = int(torch.searchsorted(up_to, draws[len(ids)] * up_to[-1], right=True))
            ids.append(drawn if temperature else int(scores.argmax()))

    begin = 0
    closed = lambda: any(ids[i : i + len(close)] == close for i in range(begin, len(ids)))  # noqa: E731
    go_on(lambda: opened or open_id in ids or closed())
    if not closed():
        begin = 0 if opened else len(ids)
    go_on(lambda: closed() or len(ids) - begin == budget)
    if len(ids) < LIMIT and not closed() and not (ids and ids[-1] in stop_ids):
        begun = 1 if budget and ids[-1] == close[0] and len(close) == 2 else 0
        ids += close[begun:]
        seen["begun" if begun else "whole"] += 1
        del ids[LIMIT:]
    else:
        seen["left alone"] += 1
    go_on(lambda: False)
    return ids[: next((i for i, token in enumerate(ids) if token in stop_ids), None)]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_equals_going_on_by_hand(temperature):
    model = adapt(build("llama_untied", seed=3)).eval()
    how = {"max_new_tokens": LIMIT, "pad_id": 0, "temperature": temperature}
    free = generate(model, PROMPTS, stop_ids=[], **how)
    seen = dict.fromkeys(("whole", "begun", "left alone"), 0)
    stops, open_id = [37], 20  # of free completions, in the middle of several
    assert sum(open_id in row and 37 in row for row in free) > 0
    for close in ([56], [56, 41], [30, 45]):
        for size in (0, 3, 99):
            for opened in ([True, False, True, False, True, False, True],):
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
        ([3, 3, 3, 3, 3, 3, 3, 3], [3] * 8),
        ([7, 8, 3, 3, 3, 3, 3, 3], [7, 8, 3, 3, 3, 3, 3, 3]),
    ):
        thought = budget.thought(0)
        assert [thought.write(token) for token in chosen] == expected
