"""Generated tool-use dialogues in which every token of an output is known to be boilerplate or reasoning.

A request names one of a few tools in one of several ways, a person and a number; the output is a phrase and a call. A
character is *reasoning* where outputs of its format with the same beginning continue differently depending on the
request alone: the first letter of a tool, each digit of a number. It is *boilerplate* where the format determines it,
or the generator does: phrases are drawn independently of the request. With `diversity` n each word of a phrase is drawn
from n words; 1 is one fixed phrase.

The split goes by a hash of the call (tool, person, number), whatever the format, the wording and the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

import numpy as np

from cot_components.config import nearest
from cot_components.data.generated.dialogue_formats import (
    DRAWN,
    FORMATS,
    NUMBER_TEXTS,
    NUMBERS,
    PEOPLE,
    REQUESTS,
    STYLES,
    Piece,
    format_writer,
)
from cot_components.data.generated.split import Split, new_draws, split_of_text
from cot_components.data.read.calls import Call, canonical_calls
from cot_components.data.read.traces import Message, Trace
from cot_components.data.rows.prepare import TURN_SHIFT
from cot_components.data.rows.scores import scored_tokens
from cot_components.data.rows.store import Rows
from cot_components.data.text.pieces import decode_pieces
from cot_components.errors import UserError

Option = TypeVar("Option")

PHRASE_WORDS = tuple(
    tuple(words.split())
    for words in (
        "Now Well So Yes Good Fine Sure Right Okay Here First Thanks Ah Oh Hm Hi Great Next Then Once Still Just No A",
        "we I you they this that one all both each some most few any none it he she who such many other those these",
        "can will may must do did could would should shall might had has let try go to just now then not yet even or",
        "use ask call take make need start run open pick set get see want give find keep hold read turn add fix end do",
    )
)
"""Words of a phrase by position; each format starts at a different point of each list."""


@dataclass(frozen=True)
class Dialogue:
    """A request, the output that answers it, the tool's result, and the report of the result (may be empty)."""

    format: str
    request: str
    output: tuple[Piece, ...]
    call: Call
    result: str
    report: tuple[Piece, ...] = ()

    @property
    def text(self) -> str:
        """The output as one text."""
        return "".join(piece.text for piece in self.output)


def split_of(call: Call) -> Split:
    """The split a call belongs to."""
    return split_of_text(canonical_calls([call]))


def make_dialogues(
    *,
    split: Split,
    count: int,
    seed: int = 0,
    formats: Sequence[str] | None = None,
    diversity: int = 1,
    report: bool = False,
) -> list[Dialogue]:
    """`count` dialogues, with the formats (default: all of `FORMATS`) in turn and no request twice in a format.

    Deterministic; a longer list starts with the shorter one. Changing `diversity` changes only the phrases.

    Args:
        split: `train` or `held_out`.
        count: how many, at least 0.
        seed: seed of all draws.
        formats: names in `FORMATS`, or `drawn`, which has a new layout in every dialogue.
        diversity: words to choose from at each place of a phrase, 1 to 24; up to 4 no two formats share a word.
        report: whether the tool's result and a report of it follow.

    Raises:
        UserError: unknown split or format; no format; a number out of range; more dialogues than exist.
    """
    names = list(FORMATS) if formats is None else list(formats)
    known = [("format", name, (*FORMATS, DRAWN)) for name in names]
    for kind, name, valid in [("split", split, get_args(Split)), *known]:
        if name not in valid:
            raise UserError(f"unknown {kind} '{name}'{nearest(name, valid)}")
    if not names or count < 0:
        raise UserError(f"need at least one format and a count of at least 0, got formats={names}, count={count}")
    most = len(PHRASE_WORDS[0])
    if not 1 <= diversity <= most:
        raise UserError(f"diversity must lie between 1 and {most}, got {diversity}")
    streams = [_stream(name, split=split, seed=seed, diversity=diversity, report=report) for name in names]
    return [next(streams[i % len(streams)]) for i in range(count)]


def _stream(name: str, *, split: Split, seed: int, diversity: int, report: bool) -> Iterator[Dialogue]:
    place = (*FORMATS, DRAWN).index(name)
    requests, words, layouts = (
        np.random.default_rng([seed, get_args(Split).index(split), place, purpose]) for purpose in range(3)
    )
    write = format_writer(name, layouts)

    def draw() -> tuple[Call, str, int]:
        """A call, a request for it and a result."""
        tool, who = _pick(requests, tuple(REQUESTS)), _pick(requests, PEOPLE)
        num, wording = int(requests.integers(NUMBERS.start, NUMBERS.stop)), _pick(requests, (0, 1))
        result = int(requests.integers(NUMBERS.start, NUMBERS.stop))
        return Call(tool, {"who": who, "num": num}), REQUESTS[tool][wording].format(who=who, num=num), result

    draws = new_draws(
        draw,
        wanted=lambda drawn: split_of(drawn[0]) == split,
        name=lambda drawn: drawn[1],
        used_up=lambda n: f"format '{name}' has only about {n} {split} dialogues; ask for fewer or add formats",
    )
    for call, request, result in draws:
        output = write(_phrase(words, place, diversity), call)
        told = (Piece(f"{_phrase(words, place, diversity)} "), Piece(str(result), NUMBER_TEXTS), Piece("."))
        yield Dialogue(name, request, output, call, f'{{"code": {result}}}', told if report else ())


def _pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(rng.integers(len(options)))]


def _phrase(rng: np.random.Generator, place: int, diversity: int) -> str:
    draws = rng.random(len(PHRASE_WORDS))
    return " ".join(
        words[(place * len(words) // len(FORMATS) + int(draw * diversity)) % len(words)]
        for words, draw in zip(PHRASE_WORDS, draws, strict=True)
    )


def agent_dialogues(split: str, count: int, subset: str | None) -> list[Dialogue]:
    """The dialogues of the source `generated_agents`.

    Args:
        split: `train` or `held_out`.
        count: how many.
        subset: names of formats, and `diversity:N`, the number of words to choose from at each place of a phrase:
            `tagged`, `json list drawn`, `tagged diversity:8`. None is all fixed formats with one phrase each.

    Raises:
        UserError: see `make_dialogues`; a diversity that is not a number.
    """
    formats, diversity = [], "1"
    for word in (subset or "").split():
        name, given, value = word.partition(":")
        if given and name == "diversity":
            diversity = value
        else:
            formats.append(word)
    if not diversity.isdecimal():
        raise UserError(f"subset '{subset}': diversity must be a whole number, got '{diversity}'")
    return make_dialogues(split=split, count=count, formats=formats or None, diversity=int(diversity))  # type: ignore[arg-type]


def as_traces(dialogues: Sequence[Dialogue], *, where: str = "generated_agents") -> list[Trace]:
    """Dialogues as traces: request and output, then the tool's result and the report, if there is one.

    `id` is the place in the list, `answer` the call as `evaluation.tool_calls` spells it (a report's is its result).
    """
    traces = []
    for i, dialogue in enumerate(dialogues):
        turns = [
            Message("user", dialogue.request),
            Message("assistant", dialogue.text, calls=STYLES.get(dialogue.format, "")),
        ]
        answer = canonical_calls([dialogue.call])
        if dialogue.report:
            told = "".join(piece.text for piece in dialogue.report)
            turns += [Message("tool", dialogue.result), Message("assistant", told)]
            answer = dialogue.report[1].text
        traces.append(Trace(i, tuple(turns), f"{where}:{i}", answer))
    return traces


def reasoning_characters(pieces: Sequence[Piece]) -> np.ndarray:
    """Which characters of an output depend on the request, bool `[characters]`."""
    parts = [np.zeros(0, dtype=bool)]
    for text, choices in pieces:
        alike = list(choices)
        branches = np.zeros(len(text), dtype=bool)
        for i, character in enumerate(text if choices else ""):
            branches[i] = len({choice[i : i + 1] for choice in alike}) > 1
            alike = [choice for choice in alike if choice[i : i + 1] == character]
        parts.append(branches)
    return np.concatenate(parts)


def true_groups(rows: Rows, dialogues: Sequence[Dialogue], decode: Callable[[list[int]], str]) -> np.ndarray:
    """The true class of every token of encoded dialogues, uint8 `[N]`: 1 reasoning, 0 boilerplate (and prompt).

    A token is reasoning if one of its characters is. `rows` come from `as_traces(dialogues)`, in any order, one turn
    or `turns: each`; the end-of-turn token is boilerplate.

    Args:
        rows: the encoded dialogues, `N` tokens in all.
        dialogues: the dialogues they were made from; a row's id is its dialogue's index.
        decode: token ids to text.

    Raises:
        UserError: a row whose id matches no dialogue, or whose text is not its dialogue's.
    """
    groups = np.zeros(len(rows.tokens), dtype=np.uint8)
    scored = scored_tokens(rows)
    for row, row_id in enumerate(rows.ids.tolist()):
        start, stop = rows.row_start[row], rows.row_start[row + 1]
        output = start + np.flatnonzero(scored[start:stop])
        number = row_id % (1 << TURN_SHIFT)
        if number >= len(dialogues):
            raise UserError(f"row {row_id} is not among the {len(dialogues)} dialogues")
        dialogue = dialogues[number]
        pieces = decode_pieces(rows.tokens[output].tolist(), decode)
        text = "".join(piece.text for piece in pieces)
        parts = [part for part in (dialogue.report, dialogue.output) if part]
        told = next((part for part in parts if text.startswith("".join(piece for piece, _ in part))), None)
        if told is None:
            raise UserError(f"row {row_id} has another text than dialogue {number}")
        branches = np.zeros(len(text), dtype=bool)
        truth = reasoning_characters(told)
        branches[: len(truth)] = truth
        end = 0
        classes = []
        for piece in pieces:
            classes += [branches[end : end + len(piece.text)].any()] * piece.num_tokens
            end += len(piece.text)
        groups[output] = classes
    return groups


def agent_truth(
    rows: Rows,
    decode: Callable[[list[int]], str],
    *,
    split: str = "train",
    subset: str | None = None,
    max_rows: int = 4000,
) -> np.ndarray:
    """The true classes of rows of the source `generated_agents`, uint8 `[N]`; settings as for the data set.

    Raises:
        UserError: the rows are not these dialogues; a setting that `agent_dialogues` refuses.
    """
    return true_groups(rows, agent_dialogues(split, max_rows, subset), decode)
