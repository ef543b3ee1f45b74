"""`cot audit`: inspect everything a config trains on, row by row. Nothing is trained.

A finding is a fault if it is certain and does harm: rows left out, rows that teach nothing or never end, test rows that
are trained on. Other findings are heuristic, or may be intended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cot_components.clock import Clock
from cot_components.config import build
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.flat import index_in_row
from cot_components.data.rows.odd_rows import (
    count_in_rows,
    prompt_hashes,
    seen_before,
    with_gap,
    without_end,
    without_role,
)
from cot_components.data.rows.scores import row_hashes
from cot_components.data.rows.store import Rows
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.oddities import goes_round, looks_cut, stray_tags
from cot_components.roles import IGNORE, Role
from cot_components.tools.audit_places import Traces
from cot_components.tools.preview import preview

ROWS_AT_ONCE = 512
LEAST_THOUGHT = 40
"""Equal thoughts shorter than this many characters are not reported."""
PERCENTILES = (0, 50, 90, 99, 100)


class Finding(NamedTuple):
    """Something that may be wrong, with the places of the rows; a fault, or only worth a look."""

    about: str
    places: tuple[str, ...]
    fault: bool = False


class Stage(NamedTuple):
    """What is left at one point: tokens, tokens with a label and a weight above 0, and the sum of their weights."""

    name: str
    tokens: int
    supervised: int
    weight: float


@dataclass(frozen=True)
class Audit:
    """The results of an audit.

    read:       the reader's report, as one line
    findings:   those with at least one row, faults first
    lengths:    name -> percentiles 0, 50, 90, 99, 100 of tokens per row
    roles:      role -> tokens
    habits:     what the template adds and leaves out, a sentence each
    stages:     rows as encoded, after each transform, and at later times of a curriculum
    compared:   what test rows were compared with the training data, a sentence each
    """

    read: str
    findings: tuple[Finding, ...]
    lengths: Mapping[str, tuple[int, ...]]
    roles: Mapping[str, int]
    habits: tuple[str, ...]
    stages: tuple[Stage, ...]
    compared: tuple[str, ...]

    @property
    def faults(self) -> int:
        """Findings that are faults."""
        return sum(finding.fault for finding in self.findings)


def leniently(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values changed so that bad rows are left out and counted, whatever the config says (if its nodes support
    that), and without a pack size, above which a run refuses rows.
    """
    lenient = {**values, "packed_tokens": None}
    settings: dict[str, dict[str, Any]]
    settings = {"dataset": {"strict": False, "max_dropped": 1.0}, "evaluation": {"strict": False}}
    for key, changed in settings.items():
        node = values.get(key)
        if isinstance(node, Mapping) and "source" in node:
            lenient[key] = {**node, **changed}
    return lenient


def audit(values: Mapping[str, Any]) -> tuple[Audit, ReasoningDataset, Traces]:
    """Audit all training rows of a checked config.

    Args:
        values: a recipe's keys with their values; see `training.recipe.read_config`.

    Returns:
        The findings, the data with all transforms, and the places of its rows.

    Raises:
        UserError: the data cannot be read at all; see `preview`.
    """
    found = preview(leniently(values))
    data, rows = found.data, found.data.rows
    traces = Traces(values["dataset"], data)
    first, *later = found.clocks.items()
    stages, labelled = after_transforms(data, first[1])
    last = [after_transforms(data, clock)[0][-1]._replace(name=name) for name, clock in later[-1:]]
    tests, compared = trained_on_tests(leniently(values), data, found.held_out)
    findings = [
        *(Finding(f"left out: {reason}", tuple(at), True) for reason, at in data.report.commonest()),
        *(
            Finding(about, tuple(traces.place(i) for i in at), fault)
            for about, at, fault in (*odd_rows(data, labelled), *too_long(values, rows))
        ),
        *(
            Finding(f"left out by select.{choice.name}: {reason}", tuple(map(traces.place_of, ids.tolist())))
            for choice in data.choices
            for reason, ids in choice.left_out.items()
        ),
        *tests,
    ]
    found_ones = sorted((f for f in findings if f.places), key=lambda f: not f.fault)
    roles = rows.tokens_by_role()
    lengths = {"row": rows.lengths} | {
        role.label: count_in_rows(rows.roles == role, rows.row_start) for role in Role if role.label in roles
    }
    percentiles = {name: tuple(int(q) for q in np.percentile(n, PERCENTILES)) for name, n in lengths.items()}
    read = f"{data.report.summary().splitlines()[0]}, {len(rows):,} trained on"
    # A curriculum's final stage matters; redraws of later epochs are like the first.
    stages += [stage for stage in last if stage.tokens != stages[-1].tokens]
    return (
        Audit(read, tuple(found_ones), percentiles, roles, traces.habits(), tuple(stages), tuple(compared)),
        data,
        traces,
    )


def after_transforms(data: ReasoningDataset, clock: Clock) -> tuple[list[Stage], np.ndarray]:
    """What is left after each transform, starting with the rows as encoded, and the labelled tokens of each row at the
    end `[B]`."""
    names = ["as encoded", *data.transforms]
    sums, labelled = np.zeros((len(names), 3)), []
    for begin in range(0, len(data.rows), ROWS_AT_ONCE):
        flat = data.rows.flat(range(begin, min(begin + ROWS_AT_ONCE, len(data.rows))))
        for number, transform in enumerate([None, *data.transforms.values()]):
            flat = flat if transform is None else transform(flat, clock)
            counted = (flat.labels != IGNORE) & (flat.weights != 0) & (index_in_row(flat) > 0)
            sums[number] += len(flat.tokens), counted.sum(), flat.weights[counted].sum(dtype=np.float64)
        labelled.append(count_in_rows(counted, flat.row_start))
    stages = [Stage(name, int(n), int(s), float(w)) for name, (n, s, w) in zip(names, sums, strict=True)]
    return stages, np.concatenate([np.empty(0, np.int64), *labelled])


def odd_rows(data: ReasoningDataset, labelled: np.ndarray) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Descriptions of odd rows, their indices, and whether it is a fault."""
    rows = data.rows
    yield "no label left after the transforms", np.flatnonzero(labelled == 0), True
    yield "no end of turn at the end", without_end(rows, data.chat.stop_ids), True
    yield "the middle of the thought is cut out (too_long)", with_gap(rows), False
    texts = look_at_texts(data)
    opened = np.union1d(*(np.flatnonzero(count_in_rows(rows.roles == r, rows.row_start)) for r in TAGS))
    if len(opened):
        none = without_role(rows, Role.THINK_CLOSE)
        yield "no thought, and no tags", np.setdiff1d(none, texts["given"]), False
    yield "no thought: the prompt ends in an empty one, which is not learnt", texts["given"], False
    yield (
        "an empty thought between its tags, which is learnt",
        np.intersect1d(opened, texts["empty"]),
        False,
    )
    yield "a thought that repeats one sentence again and again", texts["round"], False
    yield "the thought of an earlier row", texts["again"], False
    yield "tags inside the thought", texts["tags"], False
    yield "an answer that seems cut", texts["cut"], False
    same = seen_before(row_hashes(rows))
    yield "the same as an earlier row", same, False
    yield "the prompt of an earlier row, another answer", np.setdiff1d(seen_before(prompt_hashes(rows)), same), False


def too_long(values: Mapping[str, Any], rows: Rows) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Rows that a run of this config refuses, in the form of `odd_rows`."""
    limits = {
        "packed_tokens": values.get("packed_tokens"),
        "model.max_seq_len": (values.get("model") or {}).get("max_seq_len"),
    }
    for key, limit in limits.items():
        if limit is not None:
            yield f"longer than {key}, {limit:,}: a run refuses them", np.flatnonzero(rows.lengths > limit), True


TAGS = (Role.THINK_OPEN, Role.THINK_CLOSE)


def look_at_texts(data: ReasoningDataset) -> dict[str, np.ndarray]:
    """Rows whose thought is empty, repeats itself, occurred before or contains tags, whose answer seems cut off, or
    whose prompt ends in a thought.
    """
    found: dict[str, list[int]] = {name: [] for name in ("empty", "given", "round", "again", "tags", "cut")}
    met: set[str] = set()
    for index in tqdm(range(len(data.rows)), desc="reading", unit=" rows", disable=None):
        thought, answer = (text_of(data, index, role) for role in (Role.THOUGHT, Role.ANSWER))
        tags = stray_tags(thought, data.chat.tags) if hasattr(data.chat, "tags") else []
        prompt = text_of(data, index, Role.PROMPT) if tags else ""
        seen = {
            "empty": not thought.strip(),
            "given": ends_in_thought(data, index),
            "round": goes_round(thought),
            "again": len(thought) >= LEAST_THOUGHT and thought in met,
            "tags": any(tag not in prompt for tag in tags),  # tags that occur in the prompt are quotations
            "cut": looks_cut(answer),
        }
        met.add(thought)
        for name, holds in seen.items():
            if holds:
                found[name].append(index)
    return {name: np.array(at, dtype=np.int64) for name, at in found.items()}


def text_of(data: ReasoningDataset, index: int, role: Role) -> str:
    """The text of a row's tokens of one role, without control tokens."""
    rows, tokenizer = data.rows, data.chat.tokenizer
    here = slice(int(rows.row_start[index]), int(rows.row_start[index + 1]))
    tokens = rows.tokens[here][rows.roles[here] == role]
    return tokenizer.decode(tokens[~tokenizer.is_control(tokens)])


def ends_in_thought(data: ReasoningDataset, index: int) -> bool:
    """Whether a row's prompt ends in a closed thought, as templates write it with thinking off."""
    if not isinstance(data.chat, ChatFormat):
        return False
    rows, chat = data.rows, data.chat
    here = slice(int(rows.row_start[index]), int(rows.row_start[index + 1]))
    prompt = rows.tokens[here][rows.roles[here] == Role.PROMPT]
    longest = 4 * len(chat.tags.close.encode())  # at most a token per byte, and white space after it
    return chat.tokenizer.decode(prompt[-longest:]).rstrip().endswith(chat.tags.close)


def trained_on_tests(
    values: Mapping[str, Any], data: ReasoningDataset, held_out: ReasoningDataset | None
) -> tuple[list[Finding], list[str]]:
    """Findings about test rows whose prompt is in the training data, and what was compared."""
    findings, compared = [], []
    if held_out is not None:
        rows: Rows = held_out.rows
        at = seen_before(prompt_hashes(rows), prompt_hashes(data.rows))
        places = tuple(f"dataset_val row {row_id}" for row_id in rows.ids[at])
        findings.append(Finding("a row of dataset_val has the question of a training row", places, True))
        again = seen_before(row_hashes(rows))
        findings.append(
            Finding("a row of dataset_val occurs twice", tuple(f"dataset_val row {i}" for i in rows.ids[again]))
        )
        compared.append(f"{len(at):,} of {len(rows):,} rows of dataset_val")
    answers: Any = build(values["evaluation"], where="evaluation") if values.get("evaluation") else None
    if hasattr(answers, "compare_with_training"):
        answers.prompts(data.chat)
        answers.compare_with_training(data.rows, data.chat)
        findings.append(Finding("a question of the evaluation is trained on", tuple(answers.trained_on), True))
        compared.append(f"{len(answers.trained_on):,} of {len(answers.traces):,} questions of the evaluation")
    return findings, compared
