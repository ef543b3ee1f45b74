"""`dataset.select`: which rows a run plans, what it holds out, what it says; from files to batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cot_components.clock import Clock
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.scores import scored_tokens
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.models import hf_tokenizer
from cot_components.tools.score import plain_data
from cot_components.training.batching import plan_facts, refuse_other_plan
from cot_components.training.validation import validation_data
from cot_components.transforms import Blur

PROMPTS, EACH = 24, 3


def node(name: str, **settings) -> dict:
    return {"_component_": f"cot_components.selectors.{name}", **settings}


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer(tmp_path_factory):
    return hf_tokenizer(str(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory, tokenizer) -> dict[str, str]:
    """Every prompt with three responses, the last of which fits best, in two files; and their scores."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"instruction": f"q{prompt}", "response": f"<think>{'so ' * (n + prompt % 3)}</think>Answer: {n}"}
        for prompt in range(PROMPTS)
        for n in range(EACH)
    ]
    for name, part in (("a", rows[:36]), ("b", rows[36:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    source = {name: {"source": str(folder / f"{name}.jsonl"), "weight": 1.0 + (name == "b")} for name in "ab"}
    data = reasoning_dataset(tokenizer, source=source)

    def fits(flat):
        return {"nll": np.repeat(3.0 - (flat.ids & 0xFF) % EACH + (flat.ids & 0xFF) / 999, flat.lengths)}

    score_rows(data.rows, fits, folder / "scores", columns={"nll": Column("m")}, tokenizer="t")
    return {"source": source, "scores": str(folder / "scores")}


@pytest.fixture(name="load")
def _load(tokenizer, place):
    def load(select=None, **settings):
        return reasoning_dataset(tokenizer, **{"source": place["source"], "select": select, **settings})

    return load


@pytest.fixture(name="grape")
def _grape(place) -> dict:
    return {"fit": node("GRAPE", scores=place["scores"])}


def test_what_is_planned_are_the_chosen_rows_of_every_source(load, grape, place) -> None:
    data, whole = load(grape), load()
    best = [i for i in whole.rows.ids.tolist() if (i & 0xFF) % EACH == EACH - 1]
    assert data.rows.ids.tolist() == best and data.shares == ((0, 12, 1.0), (12, 24, 2.0))
    assert Plans(data.rows.lengths, batch_size=4, shares=data.shares).rows_per_epoch == 36
    ids = [load(grape, source=place["source"]["a"]["source"])[i]["id"] for i in (0, 11)]
    assert ids == [best[0], best[11]], "also in a loop that indexes the data"
    assert "select.fit keeps 24 of 72 rows, 48 left out" in data.summary() and "fits better" in data.summary()
    assert load({"fit": None}).summary() == whole.summary()


def test_kept_rows_are_drawn_for_as_before(load, grape) -> None:
    """Masks of a row are the same whoever else is there, and packs hold kept rows alone."""
    data, whole = load(grape), load()
    blur, clock = Blur(ratio=0.5, keep_first=0), Clock(1, 5)
    for index in (0, 7, 23):
        before = int(np.flatnonzero(whole.rows.ids == data.rows.ids[index])[0])
        one, other = (blur(rows.flat([i]), clock).labels for rows, i in ((data.rows, index), (whole.rows, before)))
        assert one.tolist() == other.tolist()
    plans = Plans(data.rows.lengths, batch_size=1, packed_tokens=300, shares=data.shares)
    batches = data.batches(packed_tokens=300)
    seen = [i for plan in plans for batch in batches[plan].micro_batches for i in batch.ids]
    assert sorted(seen) == sorted([*data.rows.ids[:12], *np.repeat(data.rows.ids[12:], 2)])


def test_held_out_rows_leave_first_and_are_not_chosen_from(load, grape) -> None:
    other = {"half": node("AtRandom", keep=0.5)}
    parts = {name: load(select).split_off(0.2) for name, select in (("grape", grape), ("half", other))}
    train, held_out = parts["grape"]
    assert held_out.rows.ids.tolist() == parts["half"][1].rows.ids.tolist(), "whatever is chosen"
    prompts = [{(i >> 48, (i & 0xFF) // EACH) for i in part.rows.ids.tolist()} for part in (train, held_out)]
    assert not prompts[0] & prompts[1] and len(held_out.rows) == EACH * len(prompts[1]), "all responses of a prompt"
    assert len(train.rows) == len(prompts[0]) == PROMPTS - len(prompts[1]) and len(held_out.rows) >= 14
    assert "keeps" not in held_out.summary() and "select.fit keeps" in train.summary()
    named, found = validation_data({"source": "x", "select": grape}, 0.2, load(grape), None)
    assert (named.rows.content_hash(), found.rows.content_hash()) == (
        train.rows.content_hash(),
        held_out.rows.content_hash(),
    )


def test_validation_data_of_their_own_are_not_selected(load, grape, place, tokenizer) -> None:
    values = {
        "_component_": "cot_components.datasets.reasoning_dataset",
        "source": place["source"]["a"]["source"],
        "select": grape,
    }
    _, held_out = validation_data(values, {"max_rows": 9}, load(grape), tokenizer)
    assert len(held_out.rows) == 9


def test_all_rows_are_scored(place, grape, tmp_path) -> None:
    folder = str(write_byte_tokenizer(tmp_path))
    values = {
        "tokenizer": {"_component_": "cot_components.models.hf_tokenizer", "path": folder},
        "dataset": {
            "_component_": "cot_components.datasets.reasoning_dataset",
            "source": place["source"],
            "select": {"fit": node("GRAPE", scores="nowhere")},
        },
    }
    assert len(plain_data(values).rows) == PROMPTS * EACH


def test_weights_of_rows_are_those_of_their_tokens(load, place) -> None:
    data = load({"poft": node("PoFT", scores=place["scores"], aligned=["nll"])})
    batch = data.batches().batch([3, 40], Clock(0, 0))
    assert (batch.weights.flatten()[batch.rows] == 0.5).all() and batch.weight_sum == batch.num_supervised / 2
    assert data.rows.ids.tolist() == load().rows.ids.tolist() and "weights 0.5 to 0.5" in data.summary()


def test_a_selection_is_part_of_what_a_resumed_run_compares(load, grape, place) -> None:
    def facts(select):
        data = load(select)
        return plan_facts(data, Plans(data.rows.lengths, batch_size=4))

    earlier = type("Earlier", (), {"state": {"plan": facts(grape)}, "path": Path("run")})()
    refuse_other_plan(earlier, facts(grape))
    for select in ({"fit": node("GRAPE", scores=place["scores"], keep=2)}, {"one": node("AtRandom", per_prompt=1)}):
        with pytest.raises(UserError, match=r"dataset\.select"):
            refuse_other_plan(earlier, facts(select))
    one, other = (facts({"p": node("PoFT", scores=place["scores"], aligned=a)}) for a in (["nll"], ["nll", "nll"]))
    assert one == other and facts(None).get("selection") is None


def test_mapped_rows_stay_mapped_and_weights_are_not_kept_with_them(load, grape, place, tmp_path) -> None:
    select = {**grape, "poft": node("PoFT", scores=place["scores"], aligned=["nll"])}
    settings = {"source": place["source"]["a"]["source"], "cache_dir": str(tmp_path)}
    data = load(select, **settings)
    assert isinstance(data.rows.tokens, np.memmap) and set(data.rows.weights.tolist()) == {0.5}
    again = load(grape, **settings)
    assert set(again.rows.weights.tolist()) == {1.0} and again.rows.ids.tolist() == data.rows.ids.tolist()
    mapped, in_memory = load(select, **settings).split_off(0.3), load(select, source=settings["source"]).split_off(0.3)
    for part, expected in zip(mapped, in_memory, strict=True):
        assert part.rows.training_hash() == expected.rows.training_hash()


def test_other_rows_of_the_same_format_have_no_choice_behind_them(load, grape) -> None:
    data = load(grape)
    assert len(data.with_rows(data.rows.select(range(10))).split_off(0.5)[1]) == 5
    assert replace(data, transforms={}).unselected is data.unselected is not None
    assert scored_tokens(data.rows).any()
