"""What a token view shows of a row: its tokens and their states in every draw, and their counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from cot_components.data.rows.flat import Flat, is_supervised
from cot_components.data.text.pieces import Decode, Piece, decode_pieces
from cot_components.errors import UserError
from cot_components.roles import IGNORE, Role
from cot_components.viz.visible import visible

PARTIAL = "\u25aa"
"""Shown for the later tokens of a character whose tokens differ in state."""


class State(Enum):
    """How the loss treats a token."""

    SUPERVISED = "supervised"
    CONTEXT = "context"  # prompts and observations: never had a label
    IGNORED = "ignored"  # a transform removed its label
    WEIGHTLESS = "weight 0"
    REPLACED = "replaced"  # the model reads another token; the label is the original
    REMOVED = "removed"  # a transform removed it from the sequence


@dataclass(frozen=True)
class Counts:
    """Token counts of one or more rows. `blurred`: thought tokens without a label; `replaced`: thought tokens whose
    label is still the original token; `removed`: thought tokens that are no longer in the sequence.
    """

    total: int
    supervised: int
    by_role: Mapping[Role, int]
    blurred: int
    weightless: int
    removed: int
    replaced: int = 0

    def line(self) -> str:
        """`thought 412, blurred 83 (20.1 %), answer 9`, and every other count that is not 0."""
        thought = self.by_role[Role.THOUGHT]
        parts = [f"thought {thought:,}"]
        if self.blurred:
            parts.append(f"blurred {self.blurred:,} ({100 * self.blurred / thought:.1f} %)")
        if self.replaced:
            parts.append(f"replaced {self.replaced:,} ({100 * self.replaced / thought:.1f} %)")
        if self.removed:
            parts.append(f"removed {self.removed:,} of {thought + self.removed:,}")
        parts.append(f"answer {self.by_role[Role.ANSWER]:,}")
        parts += [
            f"{role.label} {self.by_role[role]:,}" for role in (Role.CALL, Role.OBSERVATION) if self.by_role[role]
        ]
        if self.weightless:
            parts.append(f"weight 0 {self.weightless:,}")
        return ", ".join([*parts, f"supervised {self.supervised:,} of {self.total:,}"])


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of a line that look the same: one role, state and weight.

    pieces: text and number of tokens, in order
    ids, counters, labels: of the run's tokens
    """

    role: Role
    state: State
    weight: float
    pieces: tuple[Piece, ...]
    ids: tuple[int, ...]
    counters: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class Draw:
    """One row as one draw trains on it. `states`, `roles` and `weights` are per token, removed ones included."""

    name: str
    runs: tuple[Run, ...]
    counts: Counts
    roles: np.ndarray
    strength: np.ndarray
    """How much each token counts, `[N]`: its weight where supervised, else 0; -1 where it was removed."""


@dataclass(frozen=True)
class Sample:
    """One row in every draw."""

    row_id: int
    draws: tuple[Draw, ...]


class Totals(NamedTuple):
    """Name and count line of each draw, over all rows."""

    lines: list[tuple[str, str]]
    num_rows: int


Flats = Flat | Sequence[Flat] | Mapping[str, Flat]


def name_draws(flats: Flats) -> dict[str, Flat]:
    """Draws by name: a mapping unchanged, a sequence as `epoch 0`, `epoch 1` ..., a single batch as `as trained`.

    Raises:
        UserError: no draw, or draws that are not of the same rows in the same order.
    """
    if isinstance(flats, Flat):
        return {"as trained": flats}
    draws = dict(flats) if isinstance(flats, Mapping) else {f"epoch {i}": flat for i, flat in enumerate(flats)}
    if not draws:
        raise UserError("the token view needs at least one draw to show")
    first, *others = draws
    for name in others:
        if not np.array_equal(draws[name].ids, draws[first].ids):
            raise UserError(
                f"the token view compares draws of the same rows, but '{name}' has ids {draws[name].ids.tolist()[:8]} "
                f"and '{first}' has {draws[first].ids.tolist()[:8]}"
            )
    return draws


def make_samples(
    flats: Flats, decode: Decode, *, before: Flat | None = None, max_rows: int | None = None
) -> list[Sample]:
    """The rows of every draw, ready for display.

    Args:
        flats: see `name_draws`; each of `B` rows.
        decode: token ids to text.
        before: the same rows before any transform; with it, tokens that a draw removed are shown in their old place.
        max_rows: how many rows to show, from the first; default all.

    Raises:
        UserError: draws, or `before`, that are not of the same rows.
    """
    draws = name_draws(flats)
    if before is not None:
        name_draws({next(iter(draws)): next(iter(draws.values())), "before": before})
    decoded: dict[bytes, list[Piece]] = {}

    def pieces_of(ids: np.ndarray) -> list[Piece]:
        key = ids.tobytes()
        if key not in decoded:
            decoded[key] = decode_pieces(ids.tolist(), decode)
        return decoded[key]

    row_ids = next(iter(draws.values())).ids[:max_rows]
    samples = []
    for b, row_id in enumerate(row_ids):
        original = None if before is None else _row(before, b)
        shown = [_make_draw(name, _row(flat, b), original, pieces_of) for name, flat in draws.items()]
        samples.append(Sample(int(row_id), tuple(shown)))
    return samples


def count_tokens(flat: Flat, *, before: Flat | None = None) -> Counts:
    """Counts over all rows of `flat`; `before` as in `make_samples`."""
    counted = (flat.labels != IGNORE) & (flat.weights != 0)
    by_role = np.bincount(flat.roles, minlength=len(Role))
    return Counts(
        total=len(flat.tokens),
        supervised=int(counted.sum()),
        by_role={role: int(by_role[role]) for role in Role},
        blurred=int(((flat.roles == Role.THOUGHT) & (flat.labels == IGNORE)).sum()),
        weightless=int(((flat.labels != IGNORE) & (flat.weights == 0)).sum()),
        removed=0 if before is None else max(0, len(before.tokens) - len(flat.tokens)),
        replaced=int(((flat.roles == Role.THOUGHT) & _is_replaced(flat)).sum()),
    )


def _is_replaced(flat: Flat) -> np.ndarray:
    """Which tokens have a label other than the token that the model reads, bool `[N]`."""
    return (flat.labels != IGNORE) & (flat.labels != flat.read)


def _row(flat: Flat, b: int) -> Flat:
    span = slice(flat.row_start[b], flat.row_start[b + 1])
    return Flat(
        tokens=flat.read[span],
        roles=flat.roles[span],
        counters=flat.counters[span],
        labels=flat.labels[span],
        weights=flat.weights[span],
        row_start=np.array([0, flat.lengths[b]]),
        ids=flat.ids[b : b + 1],
    )


def _with_removed(row: Flat, before: Flat | None) -> tuple[Flat, np.ndarray]:
    """The row with its removed thought tokens put back, and which tokens those are, bool `[N]`."""
    nothing = row, np.zeros(len(row.tokens), dtype=bool)
    if before is None or len(before.tokens) <= len(row.tokens):
        return nothing
    kept = np.ones(len(before.tokens), dtype=bool)
    here = list(zip(row.roles.tolist(), row.counters.tolist(), strict=True))
    at = 0
    for i, place in enumerate(zip(before.roles.tolist(), before.counters.tolist(), strict=True)):
        if at < len(here) and here[at] == place:
            at += 1
        elif place[0] == Role.THOUGHT:
            kept[i] = False
        else:
            return nothing  # not a removal of thought tokens: show the row as it is
    if at < len(here):
        return nothing
    arrays = {}
    for name in ("tokens", "roles", "counters", "labels", "weights"):
        arrays[name] = getattr(before, name).copy()
        arrays[name][kept] = getattr(row, name)
    return Flat(**arrays, row_start=before.row_start, ids=row.ids), ~kept


def _states(row: Flat, removed: np.ndarray) -> list[State]:
    is_ignored = row.labels == IGNORE
    was_supervised = is_supervised(row.roles)
    states = (State.REMOVED, State.IGNORED, State.CONTEXT, State.WEIGHTLESS, State.REPLACED, State.SUPERVISED)
    holds = [removed, is_ignored & was_supervised, is_ignored, row.weights == 0, _is_replaced(row)]
    index = np.select(holds, list(range(len(holds))), default=len(holds))
    return [states[i] for i in index]


def _make_draw(name: str, row: Flat, before: Flat | None, pieces_of: Callable[[np.ndarray], list[Piece]]) -> Draw:
    merged, removed = _with_removed(row, before)
    states = _states(merged, removed)
    supervised = np.array([state in (State.SUPERVISED, State.REPLACED) for state in states], dtype=bool)
    return Draw(
        name=name,
        runs=tuple(_merge_runs(merged, states, pieces_of(merged.tokens))),
        counts=count_tokens(row, before=before),
        roles=merged.roles,
        strength=np.where(removed, -1.0, np.where(supervised, merged.weights, 0.0)),
    )


def _merge_runs(row: Flat, states: list[State], pieces: list[Piece]) -> list[Run]:
    looks = _looks(row, states)
    runs: list[Run] = []
    shown: list[Piece] = []
    start = 0
    for piece, at in _split_mixed(pieces, looks):
        if shown and (looks[at] != looks[start] or shown[-1].text.endswith("\n")):
            runs.append(_make_run(row, states, start, at, shown))
            shown, start = [], at
        shown.append(Piece(visible(piece.text), piece.num_tokens))
    if shown:
        runs.append(_make_run(row, states, start, len(looks), shown))
    return runs


def _looks(row: Flat, states: list[State]) -> list[tuple]:
    """What tokens must have in common to form one run. A token whose label is another token is always shown alone."""
    odd = np.where((row.labels == row.tokens) | (row.labels == IGNORE), -1, np.arange(len(row.tokens)))
    return list(zip(row.roles.tolist(), states, row.weights.tolist(), odd.tolist(), strict=True))


def _split_mixed(pieces: list[Piece], looks: list[tuple]) -> Iterator[tuple[Piece, int]]:
    """Pieces with the position of their first token; one whose tokens look different becomes a piece per token."""
    at = 0
    for piece in pieces:
        if len(set(looks[at : at + piece.num_tokens])) == 1:
            yield piece, at
        else:
            for k in range(piece.num_tokens):
                yield Piece(piece.text if k == 0 else PARTIAL, 1), at + k
        at += piece.num_tokens


def _make_run(row: Flat, states: list[State], start: int, stop: int, pieces: list[Piece]) -> Run:
    def values(x: np.ndarray) -> tuple[int, ...]:
        return tuple(x[start:stop].tolist())

    role, weight = Role(int(row.roles[start])), float(row.weights[start])
    return Run(role, states[start], weight, tuple(pieces), values(row.tokens), values(row.counters), values(row.labels))
