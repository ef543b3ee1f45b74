"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168) in equation format: the thought is only its calculator annotations.

    python -m cot_components.data.read.gsm8k train.jsonl train_equations.txt

A solution `She sold 48/2 = <<48/2=24>>24 clips ... #### 72` becomes `question||<<48/2=24>> ... #### 72`. Solutions
without any annotation give an empty thought; `empty_thoughts` says whether such rows are kept (the default, as in the
published files: the model answers them without a thought from the start) or dropped.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cot_components.data.bad_rows import DropReport, TraceError
from cot_components.data.read.traces import Trace, read_traces
from cot_components.errors import UserError

EmptyThoughts = Literal["keep", "drop"]

_ANNOTATION = re.compile(r"<<.*?>>")


def equations(solution: str) -> str:
    """The calculator annotations of a solution, with a blank between them."""
    return " ".join(_ANNOTATION.findall(solution))


def with_equations(
    traces: Iterable[Trace], *, empty_thoughts: EmptyThoughts = "keep", report: DropReport | None = None
) -> Iterator[Trace]:
    """Traces of the official data set (format `gsm8k`) with equations as thoughts; ids are unchanged.

    A trace whose thought is not separate from its answer is unchanged.

    Raises:
        UserError: see `choose_empty`; no solution has an equation.
    """
    return choose_empty(_equations_of(traces), empty_thoughts=empty_thoughts, report=report)


def choose_empty(
    traces: Iterable[Trace], *, empty_thoughts: EmptyThoughts = "keep", report: DropReport | None = None
) -> Iterator[Trace]:
    """The traces, with or without those whose thought is empty; dropped ones do not count as read in the report.

    Raises:
        UserError: `empty_thoughts` is neither `keep` nor `drop`.
    """
    if empty_thoughts not in ("keep", "drop"):
        raise UserError(f"empty_thoughts must be 'keep' or 'drop', got {empty_thoughts!r}")
    for trace in traces:
        thought = trace.messages[-1].thought
        if empty_thoughts == "keep" or thought is None or thought.strip():
            yield trace
        elif report is not None:
            report.read -= 1


def _equations_of(traces: Iterable[Trace]) -> Iterator[Trace]:
    first, found = None, False
    for trace in traces:
        *before, last = trace.messages
        if last.thought is None:  # it may stand inside the answer, which `ICoTFormat` refuses
            yield trace
            continue
        thought = equations(last.thought)
        first, found = first or trace.where, found or bool(thought)
        yield replace(trace, messages=(*before, replace(last, thought=thought)))
    if first and not found:
        raise TraceError(
            first, "neither this row nor any after it has an equation (<<...>>), so every thought is empty"
        )


def icot_line(trace: Trace) -> str:
    """`question||thought #### answer`.

    Raises:
        TraceError: the question or the thought does not fit on such a line.
    """
    question, answer = trace.messages[-2].content, trace.messages[-1]
    thought = answer.thought or ""
    if any(mark in question + thought for mark in ("||", "####", "\n", "\r")):
        raise TraceError(trace.where, "question or thought holds a separator or a line break")
    return f"{question}||{thought} {answer.content}"


def convert(source: str | Path, target: str | Path, *, empty_thoughts: EmptyThoughts = "keep") -> int:
    """Write the lines of an official GSM8K file to `target`; returns their number.

    Raises:
        TraceError: a row of the source that is not GSM8K's; names file:line.
    """
    traces = read_traces(source, format="gsm8k")
    lines = [icot_line(trace) + "\n" for trace in with_equations(traces, empty_thoughts=empty_thoughts)]
    Path(target).write_text("".join(lines), encoding="utf-8")
    return len(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file; returns the exit code: 0, or 2 after an error that the user can fix."""
    parser = argparse.ArgumentParser(description="Official GSM8K to lines `question||equations #### answer`.")
    parser.add_argument("source", help="train.jsonl or test.jsonl")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--empty-thoughts", choices=["keep", "drop"], default="keep", help="rows without any equation")
    arguments = parser.parse_args(argv)
    try:
        print(convert(arguments.source, arguments.target, empty_thoughts=arguments.empty_thoughts), "lines")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {arguments.target}: {error.strerror or error}", file=sys.stderr)
    else:
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
