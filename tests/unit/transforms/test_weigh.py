"""Classes and static weights, each against the plain reading of what it says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rows import random_rows, random_store
from traces_as_flat import byte_flat, decode_bytes

from cot_components.clock import Clock
from cot_components.data.rows.batches import pad
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.scores import scored_tokens
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role
from cot_components.transforms import Blur, ByGroup, ByPattern, ByRole, Highlight, TopGap
from cot_components.transforms.remove import keep_tokens

NOW = Clock(0, 0)


@pytest.fixture(name="flat")
def _flat(tmp_path: Path) -> Flat:
    """Scores in which even tokens are reasoning and the gap to the reference is the token's number."""

    def score(flat: Flat) -> dict[str, np.ndarray]:
        original = flat.tokens.astype(np.float32)
        shuffled = original + np.where(flat.tokens % 2 == 0, 0.5, np.where(flat.tokens % 3 == 0, 0.0, -0.5))
        return {"original": original, "shuffled": shuffled, "reference": np.zeros(len(original))}

    rows, columns = random_store(30), {name: Column(name) for name in ("original", "shuffled", "reference")}
    score_rows(rows, score, tmp_path, columns=columns, tokenizer="t")
    return rows.flat(range(30))


def test_highlight_takes_its_classes_from_the_scores(flat: Flat, tmp_path: Path) -> None:
    found = Highlight(scores=str(tmp_path))(flat, NOW)
    assert found.groups.tolist() == (scored_tokens(flat) & (flat.tokens % 2 == 0)).astype(int).tolist()
    assert 0 < found.groups.sum() < scored_tokens(flat).sum()
    assert not Highlight(scores=str(tmp_path), threshold=0.5)(flat, NOW).groups.any()
    assert found.tokens is flat.tokens and found.labels is flat.labels and found.weights is flat.weights
    with pytest.raises(UserError, match="'tuned'"):
        Highlight(scores=str(tmp_path), shuffled="tuned")


def test_classes_travel_with_their_tokens(flat: Flat, tmp_path: Path) -> None:
    flat = Highlight(scores=str(tmp_path))(flat, NOW)
    keep = flat.counters % 2 != 1
    shorter = keep_tokens(flat, keep)
    assert shorter.groups.tolist() == flat.groups[keep].tolist() and not keep.all()
    batch = pad(shorter, pad_id=0, multiple=8)
    counted = (batch.labels != IGNORE).numpy()
    assert (batch.groups.numpy()[counted] == (batch.labels.numpy()[counted] % 2 == 0)).all() and counted.any()
    assert pad(replace(shorter, groups=None), pad_id=0).groups is None
    assert batch.to(batch.tokens.device).groups is not None


def test_blur_and_classes_compose_in_either_order(flat: Flat, tmp_path: Path) -> None:
    highlight, blur = Highlight(scores=str(tmp_path)), Blur(ratio=0.5)
    one, other = highlight(blur(flat, NOW), NOW), blur(highlight(flat, NOW), NOW)
    assert one.groups.tolist() == other.groups.tolist() and one.labels.tolist() == other.labels.tolist()
    assert (one.labels != flat.labels).any()


def test_fixed_weights_per_class_multiply_what_is_there(flat: Flat, tmp_path: Path) -> None:
    flat = Highlight(scores=str(tmp_path))(flat, NOW)
    flat = flat.with_weights(np.full(len(flat.tokens), 3, dtype=np.float32))
    weights = ByGroup(boilerplate=0.5, reasoning=2.0)(flat, NOW).weights
    assert weights.tolist() == [3 * (2.0 if group else 0.5) for group in flat.groups] and weights.dtype == np.float32
    with pytest.raises(UserError, match="before ByGroup"):
        ByGroup()(replace(flat, groups=None), NOW)


def test_weights_per_role() -> None:
    flat = random_rows(8).flat(range(8))
    weights = ByRole({"thought": 0.5, "answer": 2})(flat, NOW).weights
    factors = {Role.THOUGHT: 0.5, Role.ANSWER: 2.0}
    assert weights.tolist() == [factors.get(Role(role), 1.0) for role in flat.roles] and weights.dtype == np.float32


@pytest.mark.parametrize("keep", [0.1, 0.6, 1.0])
def test_only_the_largest_gaps_to_the_reference_count(flat: Flat, tmp_path: Path, keep: float) -> None:
    weights = TopGap(scores=str(tmp_path), keep=keep)(flat, NOW).weights
    where = scored_tokens(flat)
    kept = weights[where] > 0
    assert keep - 0.01 <= kept.mean() <= keep + 0.1  # equal gaps are kept or dropped together
    assert flat.tokens[where][kept].min() > flat.tokens[where][~kept].max(initial=-1)
    assert (weights[~where] == 1).all()
    part = TopGap(scores=str(tmp_path), keep=keep)(keep_row(flat, 3), NOW).weights
    assert part.tolist() == weights[flat.row_start[3] : flat.row_start[4]].tolist()
    with pytest.raises(UserError, match="keep"):
        TopGap(scores=str(tmp_path), keep=0)


def keep_row(flat: Flat, row: int) -> Flat:
    names = ("tokens", "roles", "counters", "labels", "weights")
    here = slice(flat.row_start[row], flat.row_start[row + 1])
    columns = {name: getattr(flat, name)[here] for name in names}
    return Flat(**columns, row_start=np.array([0, here.stop - here.start]), ids=flat.ids[row : row + 1])


def marked(text: str, *patterns: str) -> str:
    """The characters of an answer that are reasoning, dots in place of the others."""
    flat = byte_flat([[(Role.PROMPT, "{q}"), (Role.CALL, text)]])
    groups = ByPattern(tokenizer=decode_bytes, **({"patterns": patterns} if patterns else {}))(flat, NOW).groups
    assert not groups[:3].any()
    return "".join(c if group else "." for c, group in zip(text, groups[3:], strict=True))


def test_patterns_make_the_format_boilerplate() -> None:
    text = '<tool_call>\n{"name": "pay", "arguments": {"who": "Ben", "num": 34}}\n</tool_call>'
    assert marked(text).replace(".", "") == "\npaywhoBennum34"
    assert marked("Thought: Hm.\nAction: pay").replace(".", "") == "Hm\npay"
    assert marked("abcabc", "b", "ca") == "a....c"
    assert marked("abc", "z") == "abc" and marked("abc", "(?s).*") == "..."


def test_a_token_is_boilerplate_only_where_all_of_it_is() -> None:
    pairs = {0: "ab", 1: "cd"}

    class Tokenizer:
        def decode(self, ids: list[int]) -> str:
            return "".join(pairs[i] for i in ids)

    flat = byte_flat([[(Role.PROMPT, "q"), (Role.ANSWER, "\0\1\0")]])
    assert ByPattern(tokenizer=Tokenizer(), patterns=["abc"])(flat, NOW).groups.tolist() == [0, 0, 1, 1]
