"""Methods combine, or are refused at once: every cell is answered, few that hold all pairs train."""

import json
import math
import os

import pytest
import torch
from combinations import STEPS, Cell, cells, config_of, covering, name_of, refused, score_rows, train, validate, written
from safetensors.torch import load_file
from tally import count

from cot_components.errors import UserError
from cot_components.models import reference
from cot_components.training.combination import combine
from cot_components.training.refusals import REFUSALS

SOAK = bool(os.environ.get("COT_SOAK"))
PLAIN = Cell("none", "none", "none", "sft", "none", False, False)


@pytest.fixture(scope="module", autouse=True)
def _scored(hub):
    score_rows(hub)


@pytest.fixture
def _teacher_checked_once(monkeypatch):
    """Its folder, which thousands of cells share: four fifths of the time."""
    check, checked = reference.check_start, set()

    def once(model, where="model"):
        if (node := json.dumps(model)) not in checked:
            check(model, where)
            checked.add(node)

    monkeypatch.setattr(reference, "check_start", once)


@pytest.mark.usefixtures("_teacher_checked_once")
def test_every_cell_is_answered(hub, tmp_path):
    """By `combine`, which is what `cot validate` asks: trained or refused, as the table written by hand says. All of
    them in `make soak`; otherwise every seventh, which no choice has a period of.
    """
    answers, asked = {"trains": 0, "refused": 0}, cells()[:: 1 if SOAK else 7]
    for cell in asked:
        config, sentence = config_of(cell, hub, tmp_path / "out"), None
        try:
            combine(config)
        except UserError as error:
            sentence = str(error)
        expected = refused(cell)
        assert (sentence is None) == (expected is None), (cell, sentence)
        assert expected is None or str(sentence).startswith(expected), (cell, sentence)
        answers["trains" if sentence is None else "refused"] += 1
    assert len(cells()) == 25344 and min(answers.values()) > len(asked) / 100, answers
    count("combinations", len(asked))
    assert not list(tmp_path.iterdir())


TRAINED = covering() if not SOAK else [cell for cell in cells() if refused(cell) is None]
"""Few cells that hold all pairs; in `make soak` all that train."""


@pytest.mark.parametrize("cell", TRAINED, ids=name_of)
def test_every_pair_of_methods_trains(cell, hub, tmp_path, capsys):
    config = written(config_of(cell, hub, tmp_path / "out"), tmp_path)
    assert validate(config, capsys) is None
    code, losses, said = train(config, capsys)
    assert (code, said) == (0, None)
    assert len(losses) == STEPS and all(0 < loss < math.inf for loss in losses)
    before, after = (load_file(folder / "model.safetensors") for folder in (hub / "model", tmp_path / "out" / "model"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


COT = "cot_components"
BLUR, HIGHLIGHT = ({"_component_": f"{COT}.transforms.{name}"} for name in ("Blur", "Highlight"))
ANSWERS = {"_component_": f"{COT}.evaluation.AnswerEvaluation", "source": "generated"}
PLANE = {"_component_": f"{COT}.selectors.QTuning", "nll": "original", "entropy": "shuffled"}
CASES = {
    # refusal: (a cell, the keys that change in its config)
    "loss_on_logits": ({}, {"loss": {"_component_": "torch.nn.CrossEntropyLoss"}}),
    "per_token_gradient": ({}, {"loss.per_token_grad": True}),
    "missing_or_unused_reference": ({"loss": "asft"}, {}),
    "no_classes": ({"rule": "GroupSoftmax"}, {}),
    "unknown_column": ({}, {"loss": {"_component_": f"{COT}.losses.psft"}}),
    "split_step": (
        {"rule": "GroupSoftmax", "transform": "Highlight"},
        {"loss.weight_rule.group_by": "batch", "gradient_accumulation_steps": 2},
    ),
    "factors_without_classes": ({}, {"dataset.transforms.f": {"_component_": f"{COT}.transforms.ByGroup"}}),
    "looked_up_too_late": ({"transform": "Cap"}, {"dataset.transforms.late": {**HIGHLIGHT, "scores": "{hub}"}}),
    "two_planes": (
        {"transform": "QTuning"},
        {"dataset.select": {"rows": {**PLANE, "scores": "{hub}", "keep": 0.25}}},
    ),
    "packed_and_shortened": ({"curriculum": "Stepwise", "packed": True}, {}),
    "stored_teacher": ({"curriculum": "Stepwise", "loss": "asft", "reference": "TopKFile"}, {}),
    "no_adapters": (
        {"loss": "asft", "reference": "FrozenModel"},
        {"reference": {"_component_": f"{COT}.models.AdaptersOff"}},
    ),
    "trained_beside_adapters": (
        {"loss": "asft", "reference": "AdaptersOff"},
        {"trainable": {"_component_": f"{COT}.trainable.Half"}},
    ),
    "taken_name": ({"curriculum": "Stepwise"}, {"dataset.transforms.remove": BLUR}),
    "answers_with_gaps": ({"curriculum": "Stepwise"}, {"curriculum.keep_position": True, "evaluation": ANSWERS}),
    "paced_by_nothing": ({"curriculum": "accuracy"}, {}),
}


def with_changes(config, changes, hub):
    text = json.dumps(changes).replace("{hub}", str(hub / "matrix_scores" / "scores"))
    for key, value in json.loads(text).items():
        *above, last = key.split(".")
        node = config
        for part in above:
            node = node[part]
        node[last] = value
    return config


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.__name__)
def test_what_does_not_combine_is_refused_before_anything_is_built(refusal, hub, tmp_path, capsys):
    """By the same sentence from `cot validate` and from the run, which leaves nothing behind."""
    cell, changes = CASES[refusal.__name__]
    values = with_changes(config_of(PLAIN._replace(**cell), hub, tmp_path / "out"), changes, hub)
    config = written(values, tmp_path)
    said = validate(config, capsys)
    code, losses, again = train(config, capsys)
    assert code == 2 and not losses and said == again and said is not None
    assert not (tmp_path / "out").exists()
    assert what_applies(values) == refusal.__name__


def what_applies(values):
    """The refusal that `combine` ends with."""
    with pytest.raises(UserError) as error:
        combine(values)
    frame = error.traceback[-1].frame.f_locals
    return frame["refusal"].__name__
