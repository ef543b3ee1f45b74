"""`tune run rft`, as typed: classes reach the loss, everything composes, and what does not fit is one sentence."""

import pytest
from commands import CONFIGS, must, tune, user_error

from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.runs.log import read_log

SHORT = ["dataset.max_rows=24", "evaluation=null", "dataset_val.max_rows=8", "batch_size=8", "log_every_n_steps=1"]
STILL = ["evaluate_before_training=false", "dataset_val=null"]


@pytest.fixture(scope="module")
def scored(hub, tmp_path_factory):
    """A folder in which `shad` has scored the data set of these tests."""
    folder = tmp_path_factory.mktemp("scored")
    settings = [f"tokenizer.path={hub / 'model'}", f"model.path={hub / 'model'}"]
    settings += ["dataset.max_rows=24", "at_least=12", "epochs=6", "batch_size=4", "lr_scheduler=null", "shown_rows=0"]
    must(tune("shad", "--config", "shad/quickstart", *settings, cwd=folder))
    return folder / "runs" / "shad_quickstart" / "scores"


def rft(hub, cwd, scored, *overrides, config="rft/quickstart", recipe="rft"):
    paths = [f"tokenizer.path={hub / 'model'}", f"model.path={hub / 'model'}"]
    paths += [f"dataset.transforms.highlight.scores={scored}"]
    return tune(recipe, "--config", config, *paths, *SHORT, *overrides, cwd=cwd)


def test_classes_reach_the_loss_and_the_log(hub, tmp_path, scored):
    printed = must(rft(hub, tmp_path, scored, "output_dir=out", "lr_scheduler=null"))
    assert "supervised tokens are reasoning" in printed
    plain = ["output_dir=plain", "lr_scheduler=null", "loss.weight_rule=null"]
    must(rft(hub, tmp_path, scored, *plain, recipe="cot_sft"))
    highlighted, plain = (
        [record for record in read_log(tmp_path / name) if "objective" in record] for name in ("out", "plain")
    )
    assert len(highlighted) == len(plain) == 3
    first, same = highlighted[0], plain[0]
    assert first["loss"] == pytest.approx(same["loss"], rel=1e-5) and first["objective"] != same["objective"]
    assert same["objective"] == pytest.approx(same["loss"], rel=1e-5)
    for record in highlighted:
        assert record["loss_reasoning"] > 0 and record["loss_boilerplate"] > 0
    assert highlighted[-1]["loss_reasoning"] != plain[-1]["loss_reasoning"]


COMPOSED = """
    blur:
      _component_: cot_components.transforms.Blur
      ratio: 0.3
      keep_first: 0
      seed: 1
"""


def test_it_composes_with_a_target_and_with_blur_in_one_file(hub, tmp_path, scored):
    """Target-SFT's distribution, RFT's weights and blurred thoughts; blur hides nothing where no token is thought."""
    write_tiny_checkpoint(tmp_path / "teacher", seed=1)
    text = (CONFIGS / "rft" / "quickstart.yaml").read_text()
    text = text.replace("  transforms:\n", "  transforms:" + COMPOSED, 1)
    text = text.replace("cot_components.losses.sft", "cot_components.losses.target_sft\n  eta: 0.5")
    teacher = "{_component_: cot_components.models.from_folder, path: teacher}"
    text += f"\nreference:\n  _component_: cot_components.models.FrozenModel\n  model: {teacher}\n"
    (tmp_path / "composed.yaml").write_text(text)
    must(rft(hub, tmp_path, scored, "output_dir=out", *STILL, config="composed.yaml"))
    records = [record for record in read_log(tmp_path / "out") if "objective" in record]
    assert len(records) == 3 and records[0]["objective"] != pytest.approx(records[0]["loss"], rel=1e-3)


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "loss.weight_rule._component_=cot_components.losses.GroupShares",
            "~loss.weight_rule.tau",
            "loss.weight_rule.shares=[0.3,0.7]",
        ],
        ["loss.weight_rule.group_by=batch", "loss.weight_rule.reduce=sum"],
    ],
)
def test_the_variants_train(hub, tmp_path, scored, overrides):
    must(rft(hub, tmp_path, scored, "output_dir=out", *STILL, *overrides))
    assert [record["objective"] > 0 for record in read_log(tmp_path / "out") if "objective" in record] == [True] * 3


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset.transforms=null"], "loss.weight_rule weighs classes of tokens, and no transform makes any"),
        (["dataset.subset=json"], "was scored with other tokens; tokenizer, template, tags and max_seq_len must be"),
        (["dataset.max_rows=25"], "row 24 has no scores; other data were scored"),
        (["dataset.tags.open=<t>", "dataset.tags.close=</t>", "dataset.max_rows=26"], "has no scores"),
        (["dataset.transforms.highlight.scores=nowhere"], "nowhere: no scores here (no meta.json)"),
        (["loss.weight_rule.group_by=batch", "gradient_accumulation_steps=2"], "needs a whole step in one micro-batch"),
        (["loss.weight_rule.tau=0"], "tau must be above 0, got 0"),
        (["loss.weight_rule.reduce=max"], "loss.weight_rule.reduce must be 'mean' or 'sum', got 'max'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(hub, tmp_path, scored, overrides, sentence):
    assert sentence in user_error(rft(hub, tmp_path, scored, "output_dir=out", *STILL, *overrides))
