"""The shuffle-aware discriminator (SHAD, arXiv 2412.14780): which tokens of an answer depend on the question.

A model tuned on answers given to the wrong questions can only learn what does not depend on the question: format and
connecting phrases. With l_o and l_s the loss of a token under the model before and after that tuning, both given the
true question and the preceding tokens, `LD = l_s - l_o`: a token is boilerplate if LD <= 0, reasoning if LD > 0.

Use: `sample_rows`, `shuffle_outputs`, tune on the result (left to the caller), `score_rows` into the columns `original`
and `shuffled`, then the transform `Highlight`, or `classify` to inspect the classes. The authors published neither code
nor hyperparameters; sample size and threshold are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cot_components.clock import row_keys
from cot_components.data.rows.flat import Flat, index_in_row, is_supervised
from cot_components.data.rows.scores import scored_tokens
from cot_components.data.rows.store import PER_TOKEN, Rows
from cot_components.errors import UserError

BOILERPLATE, REASONING = 0, 1
"""Values of the column `groups`."""
CLASSES = ("boilerplate", "reasoning")
"""Their names, by value."""
_SAMPLE_EPOCH, _ORDER_EPOCH = -2, -3
"""Epoch numbers for these draws; no training epoch has them."""


def sample_rows(rows: Rows, *, share: float = 0.01, at_least: int = 256, seed: int = 0) -> np.ndarray:
    """Indices of the rows to tune the shuffled model on, ascending: those with the smallest hash of (seed, row id).

    Args:
        share: share of all rows with something to learn, above 0 and at most 1; the paper uses 0.01.
        at_least: minimum in rows; a smaller data set is used whole.

    Raises:
        UserError: a setting out of range, or fewer than two rows.
    """
    if not 0 < share <= 1:
        raise UserError(f"share must lie in (0, 1], got {share}")
    if at_least < 2:
        raise UserError(f"at_least must be 2 or more, got {at_least}")
    counts = np.concatenate([[0], np.cumsum(scored_tokens(rows) & (rows.weights > 0))])
    usable = np.flatnonzero(counts[rows.row_start[1:]] > counts[rows.row_start[:-1]])
    if len(usable) < 2:
        raise UserError(f"outputs cannot be shuffled among {len(usable)} rows")
    size = min(max(round(share * len(usable)), at_least), len(usable))
    order = np.argsort(row_keys(seed, _SAMPLE_EPOCH, rows.ids[usable]), kind="stable")
    return np.sort(usable[order[:size]])


def derange(ids: np.ndarray, outputs: Sequence[bytes], *, seed: int = 0) -> np.ndarray:
    """A permutation in which no row keeps its own output, int64 `[n]`: row i gets the output of row `result[i]`.

    Nor does a row get an output with the same content as its own, unless more than half of all outputs are equal. Rows
    are sorted by a hash of (seed, id) with equal outputs grouped, then rotated by the size of the largest group.

    Args:
        ids: row ids, int64 `[n]`.
        outputs: the output of each row as bytes, `n` of them; only compared for equality.
        seed: seed of the order.

    Raises:
        UserError: fewer than two rows.
    """
    if len(ids) < 2:
        raise UserError(f"outputs cannot be shuffled among {len(ids)} rows")
    order = np.argsort(row_keys(seed, _ORDER_EPOCH, ids), kind="stable")
    rank: dict[bytes, int] = {}
    ranks = np.array([rank.setdefault(outputs[i], len(rank)) for i in order])
    order = order[np.argsort(ranks, kind="stable")]
    shift = min(int(np.bincount(ranks).max()), len(ids) // 2)
    result = np.empty(len(ids), dtype=np.int64)
    result[order] = np.roll(order, -shift)
    return result


def shuffle_outputs(
    rows: Rows, indices: Sequence[int] | np.ndarray, *, seed: int = 0, max_seq_len: int | None = None
) -> Rows:
    """The rows at `indices`, each with the output of another (everything from the first token that is not prompt).

    Roles, counters and weights move with the output; ids stay with the prompt. Rows longer than `max_seq_len` lose the
    end of their output, and are left out if the prompt alone is that long.

    Args:
        rows: all rows of the data set.
        indices: rows to shuffle among themselves, `[n]`.
        seed: seed of the order.
        max_seq_len: longest row in tokens, None for no limit.

    Raises:
        UserError: fewer than two rows, or no prompt shorter than `max_seq_len`.
    """
    indices = np.asarray(indices, dtype=np.int64)
    starts, ends = rows.row_start[indices], rows.row_start[indices + 1]
    splits = np.array([_output_start(rows, a, b) for a, b in zip(starts, ends, strict=True)], dtype=np.int64)
    outputs = [rows.tokens[a:b].tobytes() for a, b in zip(splits, ends, strict=True)]
    source = derange(rows.ids[indices], outputs, seed=seed)
    pieces, lengths, ids = [], [], []
    for i, j in enumerate(source):
        prompt, output = np.arange(starts[i], splits[i]), np.arange(splits[j], ends[j])
        piece = np.concatenate([prompt, output])[:max_seq_len]
        if len(piece) > len(prompt):
            pieces.append(piece)
            lengths.append(len(piece))
            ids.append(rows.ids[indices[i]])
    if not pieces:
        raise UserError(f"no prompt is shorter than {max_seq_len} tokens")
    place = np.concatenate(pieces)
    columns = {name: np.asarray(getattr(rows, name)[place]) for name in PER_TOKEN}
    return Rows(**columns, row_start=np.concatenate([[0], np.cumsum(lengths)]), ids=np.array(ids, dtype=np.int64))


def _output_start(rows: Rows, start: int, end: int) -> int:
    """Index of the first token of a row that the model has to write."""
    supervised = is_supervised(rows.roles[start:end])
    return int(start + np.argmax(supervised)) if supervised.any() else int(end)


def loss_difference(original: np.ndarray, shuffled: np.ndarray) -> np.ndarray:
    """`LD = l_shuffled - l_original` of every token, float32 `[N]`, in nats; NaN where a token has no score."""
    return np.asarray(shuffled, dtype=np.float32) - np.asarray(original, dtype=np.float32)


def classify(original: np.ndarray, shuffled: np.ndarray, *, threshold: float = 0.0) -> np.ndarray:
    """REASONING where LD is above the threshold, else BOILERPLATE (tokens without a score included), uint8 `[N]`.

    Args:
        original, shuffled: losses `[N]` under the model before and after the tuning, in nats; NaN without a score.
        threshold: in nats.
    """
    return np.where(loss_difference(original, shuffled) > threshold, REASONING, BOILERPLATE).astype(np.uint8)


def token_losses(per_position: np.ndarray, flat: Flat) -> np.ndarray:
    """Losses at positions `[B, T]`, each about the next token, as one value per token `[N]`.

    A row's first token, which nothing predicts, gets NaN. Converts a scoring forward pass over `pad(flat)` for
    `score_rows`.
    """
    width = per_position.shape[1]
    column = index_in_row(flat)
    values = per_position.reshape(-1)[np.maximum(flat.row_of_token * width + column - 1, 0)].astype(np.float32)
    return np.where(column > 0, values, np.float32(np.nan))


@dataclass(frozen=True)
class Confusion:
    """Tokens by true and found class: `counts[true][found]`, int64 `[2, 2]`, BOILERPLATE first."""

    counts: np.ndarray

    @staticmethod
    def of(truth: np.ndarray, found: np.ndarray, where: np.ndarray) -> Confusion:
        """Classes `[N]` compared where `where` (bool `[N]`) holds."""
        pairs = 2 * truth[where].astype(np.int64) + found[where].astype(np.int64)
        return Confusion(np.bincount(pairs, minlength=4).reshape(2, 2))

    @property
    def error_rate(self) -> float:
        """Share of tokens in the wrong class, 0 to 1; NaN if there are no tokens."""
        total = int(self.counts.sum())
        return float(self.counts[0, 1] + self.counts[1, 0]) / total if total else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true reasoning tokens that were found, 0 to 1; NaN if there are none.

        If reasoning is rare, a low error rate alone says little: calling everything boilerplate also has one.
        """
        true = int(self.counts[REASONING].sum())
        return float(self.counts[REASONING, REASONING]) / true if true else float("nan")

    def table(self) -> str:
        """Five lines of text to print."""
        lines = [f"{'':20}" + "".join(f"{'found ' + name:>20}" for name in CLASSES)]
        lines += [
            f"{'true ' + name:20}{row[0]:>20,}{row[1]:>20,}" for name, row in zip(CLASSES, self.counts, strict=True)
        ]
        rates = {"error rate": self.error_rate, "reasoning found": self.recall}
        return "\n".join([*lines, *(f"{name:20}{rate:>20.2%}" for name, rate in rates.items())])


class Phrase(NamedTuple):
    """The text of a run of tokens of one class, its mean LD in nats, and how often it occurs."""

    text: str
    difference: float
    times: int


def phrases(
    rows: Rows,
    difference: np.ndarray,
    decode: Callable[[Sequence[int]], str],
    *,
    most: int = 20,
    max_tokens: int = 8,
    at_least: int = 1,
) -> tuple[list[Phrase], list[Phrase]]:
    """The most boilerplate-like and the most reasoning-like texts: runs of tokens on one side of LD = 0.

    Args:
        difference: LD of every token in nats, `[N]`, NaN where it has none.
        decode: token ids to text.
        most: how many texts of each kind.
        max_tokens: longer runs are cut into pieces of this many tokens.
        at_least: occurrences a text must have to be listed.
    """
    side = np.where(np.isnan(difference), -1, difference > 0).astype(np.int64)
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    breaks = np.flatnonzero((np.diff(side) != 0) | (np.diff(row) != 0)) + 1
    found: dict[tuple[int, bytes], list[float]] = {}
    for start, stop in zip([0, *breaks], [*breaks, len(side)], strict=True):
        if side[start] < 0:
            continue
        for a in range(start, stop, max_tokens):
            b = min(a + max_tokens, stop)
            key = (int(side[a]), np.ascontiguousarray(rows.tokens[a:b]).tobytes())
            found.setdefault(key, []).append(float(difference[a:b].mean()))
    listed: tuple[list[Phrase], list[Phrase]] = ([], [])
    for (group, tokens), values in found.items():
        if len(values) >= at_least:
            text = decode(np.frombuffer(tokens, dtype=rows.tokens.dtype).tolist())
            listed[group].append(Phrase(text, sum(values) / len(values), len(values)))
    return (
        sorted(listed[BOILERPLATE], key=lambda p: p.difference)[:most],
        sorted(listed[REASONING], key=lambda p: -p.difference)[:most],
    )
