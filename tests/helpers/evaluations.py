"""Traces, completions and an evaluation of both, without a model."""

import dataclasses

from cot_components.data.generated.tasks import make_traces
from cot_components.data.read.formats import Message
from cot_components.data.read.traces import Trace
from cot_components.data.text.segments import Tags
from cot_components.evaluation.evaluate import Evaluation, Example, evaluate

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


def evaluation_of(right, *, num_samples=1, thought_tokens=5, **changes):
    """One example for each letter of `right`: r, w or - for one without a reference; several samples of one follow."""
    examples = []
    for at, letter in enumerate(right):
        number = at // num_samples
        reference = None if letter == "-" else "a"
        correct = {"r": True, "w": False, "-": None}[letter]
        prompt = ({"role": "user", "content": f"q{number}"},)
        example = Example(f"x:{number}", at % num_samples, prompt, "a", "a", reference, correct, True, thought_tokens)
        examples.append(dataclasses.replace(example, **changes))
    return Evaluation(tuple(examples), num_samples=num_samples, losses={"val_loss": 0.5})
