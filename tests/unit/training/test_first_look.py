"""What a run looks at before a model is built: is there anything to learn, do scores belong to the rows."""

import json

import pytest
from combinations import Cell, config_of, train, written

from cot_components.data.rows.plans import Plans
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.models import hf_tokenizer
from cot_components.training.first_look import check_learns, check_scored

PLAIN = Cell("none", "none", "none", "sft", "none", False, False)
NOTHING = {"think_open": 0, "think_close": 0, "answer": 0}
SILENT = {
    "blur": {"_component_": "cot_components.transforms.Blur", "ratio": 1.0, "keep_first": 0},
    "rest": {"_component_": "cot_components.transforms.ByRole", "factors": NOTHING},
}


def data_with(hub, transforms):
    tokenizer = hf_tokenizer(str(hub / "model"))
    return reasoning_dataset(tokenizer, source="generated", max_rows=12, transforms=transforms)


def test_a_run_with_nothing_to_learn_is_refused_before_a_model_is_built(hub, tmp_path, capsys):
    """By the run itself: today's other end is an untrained model under the name of a trained one."""
    config = config_of(PLAIN, hub, tmp_path / "out")
    config["dataset"]["transforms"] = SILENT
    code, losses, said = train(written(config, tmp_path), capsys)
    assert code == 2 and not losses and said.startswith("dataset.transforms: no token")
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize("left", [{"answer": 1}, {"think_open": 1}])
def test_one_kind_of_token_is_enough(hub, left):
    data = data_with(hub, {**SILENT, "rest": {**SILENT["rest"], "factors": {**NOTHING, **left}}})
    check_learns(data, Plans(data.rows.lengths, batch_size=4))


def test_a_mask_that_opens_later_is_something_to_learn(hub):
    """An annealed blur hides all at the first step and nothing at the last."""
    anneal = {"_component_": "cot_components.curriculum.Anneal", "first": 1.0, "last": 0.0, "num_steps": 3}
    data = data_with(hub, {**SILENT, "blur": {**SILENT["blur"], "ratio": anneal}})
    check_learns(data, Plans(data.rows.lengths, batch_size=4, epochs=2))
    with pytest.raises(UserError, match=r"^dataset\.transforms: no token of any step"):
        check_learns(data, Plans(data.rows.lengths, batch_size=12))


def test_all_processes_come_to_one_answer(hub):
    """The only rows with a label may be those of one of them."""
    data = data_with(hub, {"cap": {"_component_": "cot_components.transforms.Cap", "max_tokens": 70}})
    plans, batches = Plans(data.rows.lengths, batch_size=1), data.batches()
    kept = [batch.num_supervised for step in plans for batch in batches[step].micro_batches]
    assert 0 < sum(bool(count) for count in kept) < 12
    for rank in range(2):
        check_learns(data, Plans(data.rows.lengths, batch_size=6, rank=rank, world_size=2))


def test_rows_without_scores_are_found_before_the_first_step(hub, tmp_path):
    class NotScored:
        needs_whole_rows = True

        def __call__(self, flat, clock):
            raise UserError(f"row {flat.ids[0]} has no scores")

    plain, looked_up = data_with(hub, {}), data_with(hub, {})
    object.__setattr__(looked_up, "transforms", {"scores": NotScored()})
    check_scored(plain, None)
    for data, held_out in ((looked_up, None), (plain, looked_up)):
        with pytest.raises(UserError, match="has no scores"):
            check_scored(data, held_out)


@pytest.mark.parametrize(("key", "value"), [("epochs", 0), ("max_steps_per_epoch", 0), ("batch_size", 0)])
def test_a_run_of_no_steps_is_refused(hub, tmp_path, capsys, key, value):
    config = config_of(PLAIN, hub, tmp_path / "out") | {key: value}
    code, losses, said = train(written(config, tmp_path), capsys)
    assert code == 2 and not losses and key in said and json.dumps(value) in said
