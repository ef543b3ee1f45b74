"""`tune run bt_sft`, as typed."""

import json

import pytest
import torch
from commands import CONFIGS, cot, must, tune, user_error

from cot_components.models.adapter import logits
from cot_components.models.load import load_model
from cot_components.runs.log import read_log

ON_CPU = ["device=cpu", "dtype=fp32", "compile=false", "num_workers=0", "batch_size=4", "gradient_accumulation_steps=2"]


def overrides(hub, out):
    return [f"model.path={hub / 'model'}", f"dataset.source={hub / 'data'}", f"output_dir={out}"]


@pytest.fixture(scope="module")
def finished(hub, tmp_path_factory):
    """A short quickstart run, from its shipped name, in a folder that is not the repository."""
    cwd = tmp_path_factory.mktemp("anywhere")
    result = tune(
        "bt_sft",
        "--config",
        "bt_sft/quickstart",
        f"tokenizer.path={hub / 'model'}",
        "output_dir=out",
        "dataset.max_rows=96",
        "epochs=1",
        "batch_size=8",
        "dataset_val.max_rows=8",
        "evaluation.max_rows=4",
        "evaluation.max_new_tokens=8",
        "log_blurred_every=5",
        "evaluate_every_n_steps=6",
        cwd=cwd,
    )
    return must(result), cwd / "out"


def test_it_prints_before_and_after(finished):
    printed, _ = finished
    for line in (
        "answers correct",
        "well formed",
        "thought, mean tokens",
        "loss on thoughts",
        "loss on blurred",
        "loss on answers",
        "speed: ",
        "of the positions hold a token",
        "time waiting for data",
    ):
        assert line in printed
    for name in ("model", "tokens.html", "curves.png"):
        assert name in printed


def test_a_second_run_does_not_write_over_the_first(finished, hub):
    _, out = finished
    before = (out / "log.jsonl").read_bytes()
    common = ["bt_sft", "--config", "bt_sft/quickstart", f"tokenizer.path={hub / 'model'}", f"output_dir={out}"]
    error = user_error(tune(*common, cwd=out))
    assert "a run with another config (dataset.max_rows was 96, is 12800, dataset_val.max_rows was 8" in error
    never = user_error(tune(*common, "resume=never", cwd=out))
    assert never.endswith("already holds a run; name another (output_dir=...) or remove it")
    assert (out / "log.jsonl").read_bytes() == before


def test_it_leaves_a_log_with_the_loss_by_role(finished):
    _, out = finished
    records = read_log(out)
    training = [record for record in records if "loss" in record]
    assert len([r for r in training if "loss_blurred" in r]) == 3  # steps 0, 5, 10 of 12
    for record in training:
        assert {
            "loss",
            "objective",
            "loss_thought",
            "loss_answer",
            "supervised_fraction",
            "tokens_per_second",
            "lr",
            "grad_norm",
        } <= set(record)
        assert 0 < record["supervised_fraction"] < 1
    assert len(training) > 0
    evaluations = [record for record in records if "answer_accuracy" in record]
    assert [record["step"] for record in evaluations] == [0, 6, 12]
    assert all("val_loss_blurred" in record for record in evaluations)
    assert evaluations[-1]["val_loss"] < evaluations[0]["val_loss"]


def test_it_leaves_a_folder_that_transformers_loads(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, out = finished
    theirs = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    node = {"_component_": "cot_components.models.from_folder", "path": str(out / "model")}
    ours = load_model(node, device=torch.device("cpu"), dtype=torch.float32)
    tokens = torch.randint(0, 384, (2, 40))
    with torch.no_grad():
        assert (logits(ours, tokens) - theirs(tokens).logits).abs().max() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )


def test_it_leaves_pictures_and_evaluations(finished):
    _, out = finished
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "tokens.html").read_text()
    assert "epoch 0" in page and "http://" not in page and "https://" not in page
    saved = json.loads((out / "evaluations" / "step_12.json").read_text())
    assert len(saved["examples"]) == 4 and saved["losses"]["val_loss_thought"] > 0
    assert (out / "config.yaml").is_file()


def test_its_samples_stand_side_by_side(finished, tmp_path):
    _, out = finished
    shown = must(cot("samples", out, "--n", "2", cwd=tmp_path))
    assert "before" in shown and "step 12" in shown and shown.count("wrong:") + shown.count("right:") == 4
    assert "holds no evaluation" in user_error(cot("samples", tmp_path, cwd=tmp_path))
    assert "--n must be at least 1" in user_error(cot("samples", out, "--n", "0", cwd=tmp_path))


@pytest.mark.parametrize("config", ["bt_sft/llama3_2_1B", CONFIGS / "bt_sft" / "qwen2_5_0_5B.yaml"])
def test_real_configs_run_on_a_random_folder_in_hub_layout(hub, tmp_path, config):
    out = tmp_path / "out"
    result = tune(
        "bt_sft",
        "--config",
        config,
        *overrides(hub, out),
        *ON_CPU,
        "tokenizer.max_seq_len=256",
        "dataset_val=0.2",
        "evaluation.max_rows=2",
        "evaluation.max_new_tokens=4",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        cwd=tmp_path,
    )
    must(result)
    assert (out / "model" / "model.safetensors").is_file() and any((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("granularity", ["token", "span"])
def test_two_runs_are_the_same_run(hub, tmp_path, granularity):
    losses = []
    for name in ("a", "b"):
        must(
            tune(
                "bt_sft",
                "--config",
                "bt_sft/quickstart",
                f"tokenizer.path={hub / 'model'}",
                f"output_dir={name}",
                "dataset.max_rows=48",
                "epochs=2",
                "batch_size=8",
                "evaluation=null",
                "~dataset_val",
                f"dataset.transforms.blur.granularity={granularity}",
                "num_workers=" + ("0" if name == "a" else "2"),
                "log_every_n_steps=1",
                cwd=tmp_path,
            )
        )
        losses.append([record["loss"] for record in read_log(tmp_path / name) if "loss" in record])
    assert len(losses[0]) == 12 and losses[0] == losses[1]


def test_a_missing_checkpoint_is_one_sentence(hub, tmp_path):
    result = tune(
        "bt_sft",
        "--config",
        "bt_sft/llama3_2_1B",
        f"dataset.source={hub / 'data'}",
        "model.path=/no/such/folder",
        cwd=tmp_path,
    )
    assert "model.path: no folder /no/such/folder" in user_error(result)
    assert list(tmp_path.iterdir()) == []


WITH_WEIGHTS = """
model:
  _component_: cot_components.models.with_weights
  weights: {hub}/model
  model:
    _component_: torchtune.models.llama3_2.llama3_2
    vocab_size: 384
    num_layers: 2
    num_heads: 4
    num_kv_heads: 2
    embed_dim: {width}
    intermediate_dim: 128
    max_seq_len: 512
    rope_base: {base}
"""


@pytest.mark.parametrize(
    ("change", "named"),
    [({"width": 32}, ["[384, 64]", "[384, 32]"]), ({"base": 10000}, ["rope_theta", "500000", "10000"])],
)
def test_a_builder_of_the_users_own_must_be_that_of_the_weights(hub, tmp_path, change, named):
    """All differences in one message; what the shapes of weights do not show is compared, too."""
    text = (CONFIGS / "bt_sft" / "quickstart.yaml").read_text()
    begin, end = text.index("model: #"), text.index("loss:")
    shape = {"hub": hub, "width": 64, "base": 500000}
    for name, given in (("right", shape), ("wrong", shape | change)):
        (tmp_path / f"{name}.yaml").write_text(text[:begin] + WITH_WEIGHTS.format(**given) + text[end:])
    words = ["dataset.max_rows=16", "batch_size=8", "epochs=1", "evaluation=null", "dataset_val=null"]
    words += [f"tokenizer.path={hub / 'model'}", "output_dir=out"]
    said = user_error(tune("bt_sft", "--config", "wrong.yaml", *words, cwd=tmp_path))
    assert all(part in said for part in named), said
    must(tune("bt_sft", "--config", "right.yaml", *words, cwd=tmp_path))


def test_tags_as_tokens_survive_export_and_reload(hub, tmp_path):
    from transformers import AutoTokenizer

    must(
        tune(
            "bt_sft",
            "--config",
            "bt_sft/quickstart",
            f"tokenizer.path={hub / 'model'}",
            "output_dir=out",
            "dataset.tags_as=token",
            "dataset.max_rows=32",
            "epochs=1",
            "evaluation=null",
            "dataset_val=null",
            cwd=tmp_path,
        )
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    ids = [tokenizer.encode(tag, add_special_tokens=False) for tag in ("<think>", "</think>")]
    assert [len(i) for i in ids] == [1, 1] and ids[0] != ids[1] and max(ids)[0] < config["vocab_size"]
    must(
        tune(
            "cot_eval",
            "--config",
            "cot_eval/quickstart",
            "model.path=out/model",
            "tags_as=token",
            "evaluation.max_rows=2",
            "evaluation.max_new_tokens=4",
            cwd=tmp_path,
        )
    )
