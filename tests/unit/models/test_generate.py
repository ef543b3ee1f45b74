"""Generation: batched with a cache equals one by one without, and leaves no trace in the model."""

import pytest
import torch
from tiny_models import FAMILIES, build, random_tokens

from cot_components.errors import UserError
from cot_components.models.adapter import adapt, logits
from cot_components.models.generate import decode_with, generate, random_stream, was_cut

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


@pytest.mark.parametrize(("prompt", "pad_id", "said"), [([3, 60], 0, "prompt has"), ([3, 59], 60, "pad_token has")])
def test_ids_of_another_model_are_refused(prompt, pad_id, said):
    with pytest.raises(UserError, match=f"{said} token id 60"):
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
    for prompt, said in (([1] * 64, "no room"), ([], "empty prompt")):
        with pytest.raises(UserError, match=said):
            generate(model, [prompt], max_new_tokens=1, stop_ids=[], pad_id=0)


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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neither_neighbours_nor_their_order_change_an_answer(temperature):
    model = adapt(build("llama_untied", seed=3)).eval()
    prompts = [*PROMPTS, PROMPTS[0], [9, 9]]
    samples = [0, 0, 0, 0, 0, 1, 0]
    how = {"max_new_tokens": 12, "stop_ids": [], "pad_id": 0, "temperature": temperature, "seed": 5}
    expected = generate(model, prompts, samples=samples, **how)
    assert (expected[0] == expected[5]) is (temperature == 0.0)
    assert generate(model, prompts, **how) == expected, "equal prompts are numbered as they come"
    for order in ([6, 5, 4, 3, 2, 1, 0], [3, 5, 0, 6, 1, 2, 4]):
        for batch_size in (1, 3, 64):
            chosen, numbers, wanted = zip(*[(prompts[i], samples[i], expected[i]) for i in order], strict=True)
            assert generate(model, chosen, samples=numbers, batch_size=batch_size, **how) == list(wanted)
    for prompt, number, answer in zip(prompts, samples, expected, strict=True):
        assert generate(model, [prompt], samples=[number], **how) == [answer], "alone"


def test_draws_follow_the_distribution():
    """Of one step at temperature 2, against its softmax."""
    model = adapt(build("llama_untied", seed=3)).eval()
    how = {"stop_ids": [], "pad_id": 0, "temperature": 2.0, "batch_size": 1000}
    drawn = generate(model, [[5, 9, 2]] * 4000, max_new_tokens=1, **how)
    found = torch.bincount(torch.tensor(drawn).flatten(), minlength=60) / 4000
    wanted = torch.softmax(logits(model, torch.tensor([[5, 9, 2]]))[0, -1] / 2.0, dim=-1)
    assert (found - wanted).abs().max() < 0.03 and found.count_nonzero() > 30


def test_draws_depend_on_seed_prompt_and_number():
    streams = [(0, [1], 0), (1, [1], 0), (0, [2], 0), (0, [1], 1), (-1, [1], 0), (2**63 - 1, [1], 0), (0, [0, 1], 0)]
    first = {random_stream(*stream).random() for stream in streams}
    assert len(first) == len(streams) and random_stream(0, [1], 0).random() in first


def test_answers_that_were_cut_are_told_from_those_that_ended():
    model = adapt(build("llama_untied", seed=3)).eval()
    how = {"pad_id": 0, "temperature": 3.0}  # more different tokens than the most likely ones
    whole = generate(model, [[5, 9, 2]], max_new_tokens=9, stop_ids=[], **how)[0]
    firsts = [(whole.index(stop), stop) for stop in dict.fromkeys(whole)]
    assert len(firsts) > 2
    for place, stop in firsts:
        for limit in range(max(place, 1), place + 3):
            new = generate(model, [[5, 9, 2]], max_new_tokens=limit, stop_ids=[stop], **how)[0]
            assert was_cut(model, [5, 9, 2], new, limit) is (limit <= place)
    near_the_end = [1] * 60
    (new,) = generate(model, [near_the_end], max_new_tokens=100, stop_ids=[], **how)
    assert was_cut(model, near_the_end, new, 100)
    (ended,) = generate(model, [near_the_end], max_new_tokens=100, stop_ids=[new[-1]], **how)
    assert len(ended) < len(new) and not was_cut(model, near_the_end, ended, 100)


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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_that_have_ended_leave_the_batch(temperature):
    model = adapt(build("llama_untied", seed=3)).eval()
    how = {"max_new_tokens": 24, "pad_id": 0, "temperature": temperature, "seed": 5}
    whole = generate(model, PROMPTS, stop_ids=[], **how)
    stops = {20, 29}  # which most answers have early
    expected = [row[: next((i for i, token in enumerate(row) if token in stops), len(row))] for row in whole]
    rows, stock = [], model.next_logits
    model.next_logits = lambda tokens, **kwargs: rows.append(len(tokens)) or stock(tokens, **kwargs)
    assert generate(model, PROMPTS, stop_ids=stops, **how) == expected
    assert rows[0] == len(PROMPTS) > rows[-1], "all prompts are read, and few are left at the end"
    assert sum(rows) <= 2 * sum(len(row) + 1 for row in expected) + len(PROMPTS)


def test_a_decoder_counts_what_it_wrote():
    decode = decode_with(adapt(build("llama_untied", seed=3)))
    assert decode.speed() == {}
    answers = decode(PROMPTS, max_new_tokens=5, stop_ids=[], pad_id=0)
    assert [len(ids) for ids, _ in answers] == [5] * len(PROMPTS)
    assert decode.speed()["answer_tokens_per_second"] == pytest.approx(5 * len(PROMPTS) / decode.seconds)
