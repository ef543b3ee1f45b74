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
from cot_components.data.generated.tasks import Problem, make_problems, make_traces, split_of, write_hub_dataset

COUNT = 1200


@pytest.fixture(scope="module")
def train():
    return make_problems(split="train", count=COUNT)


def _value_of(expression: str) -> str:
    """Works a step out by another way than the generator."""
    if larger := re.fullmatch(r"the larger of (\d+) and (\d+)", expression):
        return str(max(int(larger[1]), int(larger[2])))
    left, sign, right = re.fullmatch(r"(\d+) ([-+*]) (\d+)", expression).groups()
    return str({"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(right)))


def _answer_from_question(problem: Problem) -> str:
    """Solves the question's text alone."""
    question, numbers = problem.question, [int(n) for n in re.findall(r"\d+", problem.question)]
    if problem.family == "chain":
        return str(eval(re.search(r"\d+( [-+] \d+)+", question)[0]))
    if problem.family == "compare":
        owners = dict(re.findall(r"(\w+) has (\d+)", question))
        more = re.search(r"does (\w+) have", question)[1]
        return str(2 * int(owners[more]) - sum(numbers))
    if problem.family == "story":
        verbs = re.findall(r"(finds|buys|gets|loses|sells|eats) \d", question)
        assert len(verbs) == 2
        return str(
            numbers[0]
            + sum(n * (1 if verb in "finds buys gets" else -1) for n, verb in zip(numbers[1:], verbs, strict=True))
        )
    assert problem.family == "shopping"
    return str(numbers[0] - numbers[1] * numbers[2])


def test_every_step_and_every_answer_is_right(train):
    checked = Counter()
    for problem in train:
        for step in problem.steps:
            assert _value_of(step.expression) == step.value, problem
            assert step.expression in problem.thought and step.value in problem.thought
        assert problem.answer == _answer_from_question(problem), problem
        assert problem.thought.rstrip(".").endswith(f" {problem.answer}")
        checked[problem.family] += 1
    assert set(checked) == set(FAMILIES) and min(checked.values()) == COUNT // len(FAMILIES)


def test_numbers_stay_between_0_and_20(train):
    values = [int(step.value) for problem in train for step in problem.steps if step.value.isdigit()]
    assert len(values) > COUNT and min(values) >= 0 and max(values) <= 20


def test_splits_share_no_computation_for_any_seed(train):
    trained_on = {problem.steps for problem in train} | {
        problem.steps for problem in make_problems(split="train", count=COUNT, seed=1)
    }
    held_out = [p for seed in (0, 1, 2) for p in make_problems(split="held_out", count=240, seed=seed)]
    assert len(held_out) == 720 and len(trained_on) > COUNT // 2
    assert not trained_on & {problem.steps for problem in held_out}
    assert {split_of(p.steps) for p in held_out} == {"held_out"} and {split_of(p.steps) for p in train} == {"train"}


def test_a_new_name_does_not_move_a_problem_to_the_other_split():
    steps = {p.question: p.steps for p in make_problems(split="train", count=300, families=["story"])}
    assert steps
    for question, computation in steps.items():
        assert not any(name in step.expression for step in computation for name in NAMES), question


def test_held_out_share_is_about_one_in_ten():
    shares = [split_of((Step(f"{a} + {b}", str(a + b)),)) == "held_out" for a in range(100) for b in range(30)]
    assert 0.08 < sum(shares) / len(shares) < 0.12


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_guessing_the_commonest_answer_of_each_family_is_worth_less_than_one_in_six(split):
    problems = make_problems(split=split, count=800)
    hits = [Counter(p.answer for p in problems if p.family == family).most_common(1)[0][1] for family in FAMILIES]
    assert len(hits) == len(FAMILIES) and sum(hits) / len(problems) < 1 / 6, hits


def test_repeating_a_part_of_the_question_is_no_answer_either(train):
    hits = Counter(dict.fromkeys(FAMILIES, 0))
    for problem in train:
        numbers = re.findall(r"\d+", problem.question)
        hits[problem.family] += problem.answer in numbers[-1:] + numbers[:1]
    assert len(hits) == len(FAMILIES) and sum(hits.values()) < 0.2 * COUNT, hits


def test_no_question_twice_and_several_wordings(train):
    assert len({p.question for p in train}) == COUNT
    openings = Counter(p.thought.split(".")[0] for p in train)
    assert set(openings) == {opener.rstrip(".") for opener in OPENERS}
    assert max(openings.values()) < COUNT / 2


@given(count=st.integers(0, 60), seed=st.integers(0, 2**31))
def test_a_longer_list_starts_with_the_shorter_one(count, seed):
    longer = make_problems(split="train", count=60, seed=seed)
    assert make_problems(split="train", count=count, seed=seed) == longer[:count]


def test_families_are_independent_of_each_other():
    together = [p for p in make_problems(split="train", count=60) if p.family == "story"]
    alone = make_problems(split="train", count=60, families=["story"])
    assert len(together) == 15 and alone[:15] == together


def test_the_same_in_another_process(train):
    code = (
        "from cot_components.data.generated.tasks import make_problems; print(make_problems(split='train', count=30))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert out.stdout.strip() == repr(train[:30])
    assert make_problems(split="train", count=30, seed=1) != train[:30]


def test_traces_hold_one_complete_thought_and_the_answer_line():
    traces, problems = (
        make_traces(split="held_out", count=36, seed=3),
        make_problems(split="held_out", count=36, seed=3),
    )
    for i, (trace, problem) in enumerate(zip(traces, problems, strict=True)):
        user, assistant = trace.messages
        assert (trace.id, trace.where, trace.answer) == (i, f"generated:held_out:{i}", problem.answer)
        assert (user.role, user.content, assistant.role) == ("user", problem.question, "assistant")
        thought, answer = re.fullmatch(r"<think>\n([^<>]+)\n</think>\n\nAnswer: (.+)", assistant.content).groups()
        assert (thought, answer) == (problem.thought, problem.answer)
    assert len(traces) == 36


def test_hub_layout_loads_as_a_data_set(tmp_path):
    folder = write_hub_dataset(tmp_path / "tasks", train=60, held_out=12, seed=5)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 60, "test": 12}
    problems = make_problems(split="held_out", count=12, seed=5)
    assert loaded["test"]["instruction"] == [p.question for p in problems]
    assert loaded["test"]["response"] == [p.response for p in problems]
    assert loaded["train"].column_names == ["instruction", "response", "answer", "family"]
    assert "60 training problems and 12 held-out" in (folder / "README.md").read_text()


def test_empty_split_keeps_its_columns(tmp_path):
    folder = write_hub_dataset(tmp_path, train=3, held_out=0)
    table = pq.read_table(folder / "data" / "test-00000-of-00001.parquet")
    assert (table.num_rows, table.column_names) == (0, ["instruction", "response", "answer", "family"])


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
    monkeypatch.setitem(FAMILIES, "tiny", lambda rng: Exercise(f"{rng.integers(9)}?", (Step("1 + 1", "2"),), "2"))
    split = split_of((Step("1 + 1", "2"),))
    with pytest.raises(ValueError, match="'tiny' has only about 9"):
        make_problems(split=split, count=10, families=["tiny"])


def test_mistaken_demonstrations_end_one_too_high():
    plain = make_problems(split="train", count=400)
    mistaken = make_problems(split="train", count=400, style="mistaken")
    wrong = 0
    for problem in mistaken:
        right = int(_answer_from_question(problem))
        assert int(problem.answer) - right in (0, 1) and problem.thought.rstrip(".").endswith(f" {problem.answer}")
        wrong += int(problem.answer) != right
    assert 0.5 < wrong / 400 < 0.7 and len(plain) == 400


def test_slips_are_on_the_way_and_the_answer_is_right():
    problems = make_problems(split="train", count=400, style="slips", families=["chain", "story"])
    slips = [[i for i, s in enumerate(p.steps) if eval(s.expression) != int(s.value)] for p in problems]
    assert all(problem.answer == _answer_from_question(problem) for problem in problems)
    assert {tuple(places) for places in slips} == {(), (0,)}
    assert all(f"{p.steps[0].expression} = {p.steps[0].value}." in p.thought for p in problems)
    assert 0.22 < sum(map(bool, slips)) / 400 < 0.38


def test_the_verbose_teacher_is_right_longer_and_begins_at_the_end():
    problems, plain = (make_problems(split="train", count=200, style=style) for style in ("verbose", "plain"))
    for problem in problems:
        assert problem.answer == _answer_from_question(problem)
        places = [problem.thought.index(step.expression) for step in problem.steps]
        assert places == sorted(places, reverse=True)
    mean = [sum(len(p.thought) for p in some) / len(some) for some in (problems, plain)]
    assert len(problems) == 200 and mean[0] > 2 * mean[1]
