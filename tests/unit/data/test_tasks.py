"""The embedded tasks: right answers, no leak between the splits, no answer worth guessing."""

import os
import re
import subprocess
import sys
from collections import Counter

import datasets
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_components.data.generated.task_families import FAMILIES, NAMES, OPENERS, Exercise, Step
from cot_components.data.generated.tasks import make_problems, make_traces, split_of, write_hub_dataset

COUNT = 1200


def training(count, **knobs):
    return make_problems(split="train", count=count, **knobs)


@pytest.fixture(scope="module")
def train():
    return training(COUNT)


def value_of(expression):
    """Works a step out by another way than the generator."""
    if larger := re.fullmatch(r"the larger of (\d+) and (\d+)", expression):
        return str(max(int(larger[1]), int(larger[2])))
    left, sign, right = re.fullmatch(r"(\d+) ([-+*]) (\d+)", expression).groups()
    return str({"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(right)))


def answer_from_question(problem):
    """Solves the question's text alone."""
    question, numbers = problem.question, [int(n) for n in re.findall(r"\d+", problem.question)]
    if problem.family == "chain":
        return str(eval(re.search(r"\d+( [-+] \d+)+", question)[0]))
    if problem.family == "compare":
        owners = dict(re.findall(r"(\w+) has (\d+)", question))
        return str(2 * int(owners[re.search(r"does (\w+) have", question)[1]]) - sum(numbers))
    if problem.family == "story":
        verbs = re.findall(r"(finds|buys|gets|loses|sells|eats) \d", question)
        changes = zip((1 if verb in "finds buys gets" else -1 for verb in verbs), numbers[1:], strict=True)
        return str(numbers[0] + sum(sign * number for sign, number in changes))
    assert problem.family == "shopping"
    return str(numbers[0] - numbers[1] * numbers[2])


def test_every_step_and_every_answer_is_right(train):
    for problem in train:
        for step in problem.steps:
            assert value_of(step.expression) == step.value, problem
            assert step.expression in problem.thought and step.value in problem.thought
        assert problem.answer == answer_from_question(problem), problem
        assert problem.thought.rstrip(".").endswith(f" {problem.answer}")
    assert Counter(problem.family for problem in train) == dict.fromkeys(FAMILIES, COUNT // len(FAMILIES))
    values = [int(step.value) for problem in train for step in problem.steps if step.value.isdigit()]
    assert len(values) > COUNT and min(values) >= 0 and max(values) <= 20


def test_splits_share_no_computation_for_any_seed(train):
    trained_on = {problem.steps for problem in [*train, *training(COUNT, seed=1)]}
    held_out = {p.steps for seed in (0, 1, 2) for p in make_problems(split="held_out", count=240, seed=seed)}
    assert held_out and len(trained_on) > COUNT // 2 and not trained_on & held_out
    assert {split_of(steps) for steps in held_out} == {"held_out"} and {split_of(p.steps) for p in train} == {"train"}
    sums = [split_of((Step(f"{a} + {b}", str(a + b)),)) for a in range(100) for b in range(30)]
    assert 0.08 < sums.count("held_out") / len(sums) < 0.12


def test_a_new_name_does_not_move_a_problem_to_the_other_split():
    expressions = {step.expression for p in training(300, families=["story"]) for step in p.steps}
    assert expressions and not any(name in expression for expression in expressions for name in NAMES)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_guessing_the_commonest_answer_of_each_family_is_worth_less_than_one_in_six(split):
    problems = make_problems(split=split, count=800)
    hits = [Counter(p.answer for p in problems if p.family == family).most_common(1)[0][1] for family in FAMILIES]
    assert sum(hits) / len(problems) < 1 / 6, hits


def test_repeating_a_part_of_the_question_is_no_answer_either(train):
    numbers = [(re.findall(r"\d+", problem.question), problem.answer) for problem in train]
    assert sum(answer in (found[0], found[-1]) for found, answer in numbers) < 0.2 * COUNT


def test_no_question_twice_and_several_wordings(train):
    assert len({p.question for p in train}) == COUNT
    openings = Counter(p.thought.split(".")[0] for p in train)
    assert set(openings) == {opener.rstrip(".") for opener in OPENERS}
    assert max(openings.values()) < COUNT / 2


@given(count=st.integers(0, 60), seed=st.integers(0, 2**31))
def test_a_longer_list_starts_with_the_shorter_one(count, seed):
    assert training(count, seed=seed) == training(60, seed=seed)[:count]


def test_families_are_independent_of_each_other():
    together = [p for p in training(60) if p.family == "story"]
    assert len(together) == 15 and training(60, families=["story"])[:15] == together


def test_the_same_in_another_process(train):
    code = f"from {make_problems.__module__} import make_problems; print(make_problems(split='train', count=30))"
    options = {"env": {**os.environ, "PYTHONHASHSEED": "7"}, "capture_output": True, "text": True, "check": True}
    assert subprocess.run([sys.executable, "-c", code], **options).stdout.strip() == repr(train[:30])
    assert training(30, seed=1) != train[:30]


def test_traces_hold_one_complete_thought_and_the_answer_line():
    knobs = {"split": "held_out", "count": 36, "seed": 3}
    for i, (trace, problem) in enumerate(zip(make_traces(**knobs), make_problems(**knobs), strict=True)):
        user, assistant = trace.messages
        assert (trace.id, trace.where, trace.answer) == (i, f"generated:held_out:{i}", problem.answer)
        assert (user.role, user.content, assistant.role) == ("user", problem.question, "assistant")
        thought, answer = re.fullmatch(r"<think>\n([^<>]+)\n</think>\n\nAnswer: (.+)", assistant.content).groups()
        assert (thought, answer) == (problem.thought, problem.answer)


def test_hub_layout_loads_as_a_data_set(tmp_path):
    folder = write_hub_dataset(tmp_path / "tasks", train=60, held_out=12, seed=5)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    columns, held_out = (
        ["instruction", "response", "answer", "family"],
        make_problems(split="held_out", count=12, seed=5),
    )
    for name, problems in (("train", training(60, seed=5)), ("test", held_out)):
        rows = [(p.question, p.response, p.answer, p.family) for p in problems]
        assert [tuple(row[column] for column in columns) for row in loaded[name]] == rows
    assert "60 training problems and 12 held-out" in (folder / "README.md").read_text()
    table = pq.read_table(write_hub_dataset(tmp_path, train=3, held_out=0) / "data/test-00000-of-00001.parquet")
    assert (table.num_rows, table.column_names) == (0, columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "heldout"}, "did you mean 'held_out'"),
        ({"style": "plane"}, "did you mean 'plain'"),
        ({"families": ["storys"]}, "did you mean 'story'"),
        ({"families": ["zzz"]}, "valid: chain, "),
        ({"families": []}, "at least one family"),
        ({"count": -1}, "count of at least 0"),
    ],
)
def test_wrong_arguments_are_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        make_problems(**{"split": "train", "count": 1, **change})


def test_asking_for_more_than_there_is_says_so(monkeypatch):
    step = Step("1 + 1", "2")
    monkeypatch.setitem(FAMILIES, "tiny", lambda rng: Exercise(f"{rng.integers(9)}?", (step,), "2"))
    with pytest.raises(ValueError, match="'tiny' has only about 9"):
        make_problems(split=split_of((step,)), count=10, families=["tiny"])


def test_mistaken_demonstrations_end_one_too_high():
    mistaken = training(400, style="mistaken")
    off = [int(problem.answer) - int(answer_from_question(problem)) for problem in mistaken]
    assert all(problem.thought.rstrip(".").endswith(f" {problem.answer}") for problem in mistaken)
    assert set(off) == {0, 1} and 0.5 < sum(off) / 400 < 0.7


def test_slips_are_on_the_way_and_the_answer_is_right():
    problems = training(400, style="slips", families=["chain", "story"])
    slips = [[i for i, s in enumerate(p.steps) if eval(s.expression) != int(s.value)] for p in problems]
    assert all(problem.answer == answer_from_question(problem) for problem in problems)
    assert all(f"{p.steps[0].expression} = {p.steps[0].value}." in p.thought for p in problems)
    assert {tuple(places) for places in slips} == {(), (0,)} and 0.22 < sum(map(bool, slips)) / 400 < 0.38


def test_the_verbose_teacher_is_right_longer_and_begins_at_the_end():
    problems, plain = (training(200, style=style) for style in ("verbose", "plain"))
    for problem in problems:
        places = [problem.thought.index(step.expression) for step in problem.steps]
        assert problem.answer == answer_from_question(problem) and places == sorted(places, reverse=True)
    assert sum(len(p.thought) for p in problems) > 2 * sum(len(p.thought) for p in plain)
