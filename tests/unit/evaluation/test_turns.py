"""Questions whose verdict changed, over the evaluations of a run and from run to run."""

import pytest
from evaluations import evaluation_of

from cot_components.evaluation.turns import disagreements, turns


@pytest.mark.parametrize(
    ("verdicts", "kind"),
    [
        ("wr", "wrong, then right"),
        ("rw", "right, then wrong"),
        ("wrw", "right, then wrong"),
        ("rwr", "right"),
        ("wwr", "wrong, then right"),
        ("www", "still wrong"),
        ("w", "still wrong"),
        ("r", "right"),
        ("--", "no reference"),
    ],
)
def test_kinds_over_the_evaluations_of_a_run(verdicts, kind):
    (found,) = turns({str(step): evaluation_of(verdict) for step, verdict in enumerate(verdicts)})
    assert found.kind == kind and list(found.answers) == [str(step) for step in range(len(verdicts))]


def test_questions_are_those_of_the_last_evaluation_each_with_its_first_sample():
    found = turns({"0": evaluation_of("rrwr", num_samples=2), "9": evaluation_of("wwr"), "10": evaluation_of("")})
    assert [(one.kind, list(one.answers)) for one in found] == [
        ("right, then wrong", ["0", "9"]),
        ("still wrong", ["0", "9"]),
        ("right", ["9"]),
    ]
    assert turns({}) == [] and turns({"0": evaluation_of("")}) == []


def test_runs_that_disagree_come_first_and_share_their_questions():
    found = disagreements({"a": evaluation_of("rwrw-r"), "b": evaluation_of("rwwr-"), "c": evaluation_of("rwrw-")})
    kinds = ["right in some", "right in b alone", "right in all", "wrong in all", "no reference"]
    assert [one.kind for one in found] == kinds and list(found[0].answers) == ["a", "b", "c"]
