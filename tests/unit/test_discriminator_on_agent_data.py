"""Shuffle, tune, score and classify on agent data, with bigram counts in place of a language model."""

from pathlib import Path

import numpy as np
import pytest
from lookalikes import shared_data
from tokenizers_for_tests import make_tokenizer

from cot_components.clock import Clock
from cot_components.data.read.traces import read_traces
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.prepare import RowSettings, prepare_rows
from cot_components.data.rows.scores import open_scores, score_rows, scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import load_template
from cot_components.roles import Role
from cot_components.transforms import Highlight
from cot_components.transforms.discriminator import loss_difference, phrases, sample_rows, shuffle_outputs

AGENT_DATA = {
    "think_toolrl/messages.jsonl": None,
    "glaive_toolcall/glaive_toolcall_en_demo.json": None,
    "tau_bench/gpt-4o-airline.json": {"messages": "traj"},
}


def bigram_losses(counts: np.ndarray, rows: Rows | Flat) -> np.ndarray:
    """Loss of each token after the one before it, `[N]`, from counts `[V, V]`."""
    before = np.concatenate([[0], rows.tokens[:-1]])
    return (np.log(counts.sum(1))[before] - np.log(counts[before, rows.tokens])).astype(np.float32)


def count_bigrams(rows: Rows, vocab_size: int) -> np.ndarray:
    counts = np.full((vocab_size, vocab_size), 0.1)
    learned = np.flatnonzero(scored_tokens(rows))
    np.add.at(counts, (rows.tokens[learned - 1], rows.tokens[learned]), 1)
    return counts


@pytest.mark.parametrize("name", AGENT_DATA)
def test_agent_data_runs_through(name: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer("byte", tmp_path / "byte")
    chat = ChatFormat(tokenizer, load_template(None, tokenizer), Tags())
    path = shared_data(tmp_path) / name
    rows = prepare_rows(
        lambda report: read_traces(path, columns=AGENT_DATA[name], strict=False, report=report, max_rows=40),
        chat,
        RowSettings(turns="each"),
        strict=False,
        max_dropped=0.5,
    ).rows
    shuffled = shuffle_outputs(rows, sample_rows(rows, share=0.1, at_least=4))
    original = np.ones((tokenizer.vocab_size, tokenizer.vocab_size))
    tuned = count_bigrams(shuffled, tokenizer.vocab_size)

    def score(flat: Flat) -> dict[str, np.ndarray]:
        return {"original": bigram_losses(original, flat), "shuffled": bigram_losses(tuned, flat)}

    names = {"original": "uniform", "shuffled": "bigrams"}
    scores = score_rows(rows, score, tmp_path / "scores", columns=names, tokenizer=tokenizer.fingerprint())
    where = scored_tokens(rows)
    assert len(scores.finished("shuffled")) == where.sum() > 0
    flat = Highlight(scores=str(tmp_path / "scores"))(rows.flat(range(len(rows))), Clock(0, 0))
    assert flat.groups is not None and not flat.groups[~where].any()
    assert 0 < flat.groups[where].mean() < 0.6
    assert (rows.roles == Role.CALL).any() and not np.isin(rows.roles[where], (Role.PROMPT, Role.OBSERVATION)).any()
    difference = loss_difference(open_scores(tmp_path / "scores").column("original"), scores.column("shuffled"))
    boilerplate, reasoning = phrases(rows, difference, tokenizer.decode, most=5)
    assert boilerplate[0].difference < 0 < reasoning[0].difference and len(boilerplate) == 5
