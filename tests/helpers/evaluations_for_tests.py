"""Traces, completions and an evaluation of both, without a model."""

from cot_components.data.generated.tasks import make_traces
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace
from cot_components.data.text.segments import Tags
from cot_components.evaluation.evaluate import evaluate

TAGS = Tags()
TRACES = make_traces(split="held_out", count=12)


def reply(thought, answer):
    return f"<think>{thought}</think>\n\nAnswer: {answer}"


def trace(i, content, *, answer=None, thought=None):
    return Trace(
        i, (Message("user", f"question {i}"), Message("assistant", content, thought)), f"data.jsonl:{i + 1}", answer
    )


def count_words(text):
    return len(text.split())


def run(traces, completions, **options):
    return evaluate(traces, lambda prompts: completions, tags=TAGS, count_tokens=count_words, **options)
