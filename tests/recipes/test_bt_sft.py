"""`tune run bt_sft`, as typed."""

import json

import pytest
import torch
from commands import CONFIGS, must, tune, user_error
from models_for_tests import TINY_OVERRIDES
from omegaconf import OmegaConf

from cot_components.config import find_config
from cot_components.errors import UserError
from cot_components.models.adapter import logits
from cot_components.models.load import exported_checkpointer, load_model
from cot_components.models.tiny import SHAPE
from cot_components.viz.log import read_log

ON_CPU = ["device=cpu", "dtype=fp32", "compile=false", "num_workers=0", "batch_size=4", "gradient_accumulation_steps=2"]


def overrides(hub, out):
    return [f"checkpointer.checkpoint_dir={hub / 'model'}", f"dataset.source={hub / 'data'}", f"output_dir={out}"]


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
    node = {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": str(out / "model"),
        "model_type": "LLAMA3_2",
    }
    node |= {"checkpoint_files": ["model.safetensors"], "output_dir": str(out)}
    model = OmegaConf.to_container(OmegaConf.load(find_config("bt_sft/quickstart")))["model"]
    ours = load_model(model, node, device=torch.device("cpu"), dtype=torch.float32)
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


@pytest.mark.parametrize("config", ["bt_sft/llama3_2_1B", CONFIGS / "bt_sft" / "qwen2_5_0_5B.yaml"])
def test_real_configs_run_on_a_random_folder_in_hub_layout(hub, tmp_path, config):
    out = tmp_path / "out"
    result = tune(
        "bt_sft",
        "--config",
        config,
        *overrides(hub, out),
        *TINY_OVERRIDES,
        *ON_CPU,
        "checkpointer.model_type=LLAMA3_2",
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
        "checkpointer.checkpoint_dir=/no/such/folder",
        cwd=tmp_path,
    )
    assert user_error(result).startswith("checkpointer.checkpoint_dir: no folder /no/such/folder")
    assert list(tmp_path.iterdir()) == []


def test_an_exported_folder_is_read_and_what_torchtune_refuses_is_one_sentence(hub):
    model = {"_component_": "torchtune.models.llama3_2.llama3_2", "vocab_size": 384, **SHAPE}
    place = {"device": torch.device("cpu"), "dtype": torch.float32}
    node = exported_checkpointer(hub / "model")
    assert load_model(model, node, **place).tok_embeddings.weight.std() > 0
    with pytest.raises(UserError, match=r"^checkpointer: The output directory cannot be"):
        load_model(model, {**node, "output_dir": str(hub / "model" / "inside")}, **place)


def test_weights_that_do_not_fit_are_named(hub, tmp_path):
    result = tune(
        "bt_sft",
        "--config",
        "bt_sft/llama3_2_1B",
        *overrides(hub, tmp_path / "out"),
        *TINY_OVERRIDES,
        *ON_CPU,
        "model.embed_dim=32",
        cwd=tmp_path,
    )
    assert "tok_embeddings.weight' is [384, 64], the model wants [384, 32]" in user_error(result)


def test_an_architecture_that_weights_do_not_show_is_compared(hub, tmp_path):
    result = tune(
        "bt_sft",
        "--config",
        "bt_sft/llama3_2_1B",
        *overrides(hub, tmp_path / "out"),
        *TINY_OVERRIDES,
        *ON_CPU,
        "model.rope_base=10000",
        cwd=tmp_path,
    )
    assert "config.json has rope_theta 500000, model._component_ builds 10000" in user_error(result)


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
            "checkpointer.checkpoint_dir=out/model",
            "tags_as=token",
            "evaluation.max_rows=2",
            "evaluation.max_new_tokens=4",
            cwd=tmp_path,
        )
    )
