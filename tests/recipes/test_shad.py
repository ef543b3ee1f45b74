"""`tune run shad`, as typed: scores, classes, going on after a kill, and what does not fit."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from commands import CONFIGS, TUNE, environment, must, tune
from lookalikes import shared_data
from omegaconf import OmegaConf
from tiny_runs import run

from cot_components.cli.main import main
from cot_components.data.rows.scores import open_scores
from cot_components.models.tiny import write_tiny_checkpoint

SHORT = ["dataset.max_rows=24", "at_least=8", "epochs=1", "batch_size=8", "shown_rows=1", "lr_scheduler=null"]
LORA = ["model.lora.targets=[q_proj,v_proj]", "model.lora.rank=4", "model.lora.alpha=8", "optimizer.lr=1e-1"]


def arguments(hub, out, *overrides):
    paths = [f"tokenizer.path={hub / 'model'}", f"model.path={hub / 'model'}", f"output_dir={out}"]
    return [*paths, *SHORT, *overrides]


@pytest.fixture(scope="module")
def scored(hub, tmp_path_factory):
    """A folder that the command, as typed, has scored into; never written to again."""
    cwd = tmp_path_factory.mktemp("scored")
    printed = must(tune("shad --config shad/quickstart", *arguments(hub, "out"), cwd=cwd))
    for part in ("true boilerplate", "error rate", "reasoning found", "most boilerplate-like", "tool_call"):
        assert part in printed
    return cwd / "out"


def test_scores_classes_and_the_same_again(hub, scored, capsys):
    report = json.loads((scored / "classes.json").read_text())
    counts = np.array(report["confusion"])
    assert counts.sum() == report["num_tokens"] and counts[:, 1].sum() == report["num_reasoning"]
    assert report["error_rate"] == pytest.approx((counts[0, 1] + counts[1, 0]) / counts.sum())
    scores = open_scores(scored / "scores")
    assert len(scores.finished("original")) == len(scores.finished("shuffled")) == report["num_tokens"]
    assert (scores.finished("original") != scores.finished("shuffled")).any()
    assert run("shad", arguments(hub, scored)).code == 0
    again = capsys.readouterr().out
    assert "tuning on" not in again and "error rate" in again
    assert main(["compare", str(scored)]) == 0
    compared = capsys.readouterr().out
    assert f"{report['error_rate']:.2%}" in compared and f"{report['recall']:.2%}" in compared


def test_lora_scores_with_adapters_off_and_on_in_one_pass(hub, scored, tmp_path):
    """The adapters start at zero and learn little in a step: off is the base model, as full tuning scores it."""
    assert run("shad", arguments(hub, tmp_path / "lora", *LORA)).code == 0
    full, lora = open_scores(scored / "scores"), open_scores(tmp_path / "lora" / "scores")
    np.testing.assert_allclose(lora.finished("original"), full.finished("original"), rtol=1e-5)
    assert lora.meta["columns"]["original"] == full.meta["columns"]["original"]
    assert np.abs(lora.finished("shuffled") - lora.finished("original")).max() > 1e-3


def test_a_killed_run_goes_on_and_ends_with_the_same_scores(hub, tmp_path):
    settings = ["dataset.max_rows=400", "tokens_per_pass=100"]
    assert run("shad", arguments(hub, tmp_path / "whole", *settings)).code == 0
    folder, again = tmp_path / "killed" / "scores", arguments(hub, tmp_path / "killed", *settings)
    command = [TUNE, "run", "shad", "--config", "shad/quickstart", *again]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment()
    )
    try:
        while process.poll() is None and not some_scores(folder):
            time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    missing = int(np.isnan(np.load(folder / "original.npy")).sum())
    assert run("shad", again).code == 0
    whole, killed = (open_scores(tmp_path / name / "scores") for name in ("whole", "killed"))
    assert missing > np.isnan(killed.column("original")).sum()
    for name in ("original", "shuffled"):
        np.testing.assert_array_equal(killed.column(name), whole.column(name))


def some_scores(folder) -> bool:
    """Whether the first column has begun."""
    path = folder / "original.npy"
    return (folder / "meta.json").exists() and path.exists() and bool((~np.isnan(np.load(path))).any())


def test_a_second_model_scores_for_rho_1(hub, tmp_path):
    config = OmegaConf.load(CONFIGS / "shad" / "quickstart.yaml")
    other = {"_component_": "cot_components.models.from_folder", "path": str(hub / "teacher")}
    config.reference = {"_component_": "cot_components.models.FrozenModel", "model": other}
    OmegaConf.save(config, tmp_path / "rho.yaml")
    assert run("shad", arguments(hub, tmp_path / "out"), config=tmp_path / "rho.yaml").code == 0
    scores = open_scores(tmp_path / "out" / "scores")
    assert not np.allclose(scores.finished("reference"), scores.finished("original"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset.subset=json", "truth=null"], "none of the 24 rows has a tool call"),
        (["truth.max_rows=5"], "row 5 is not among the 5 dialogues"),
        (["dataset.subset=tagged diversity:no"], "diversity must be a whole number, got 'no'"),
        (["shar=0.5"], "unknown key 'shar'; did you mean 'share'?"),
        (["model.max_seq_len=64"], "the longest, has"),
    ],
)
def test_what_does_not_fit_is_one_sentence(hub, tmp_path, refused, overrides, said):
    assert said in refused(run("shad", arguments(hub, tmp_path / "out", *overrides)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.max_rows=23", "holds scores of other data (24 rows of"),
        ("optimizer.lr=1e-5", "shuffled.safetensors was tuned with another optimizer"),
        ("clip_grad_norm=0.5", "shuffled.safetensors was tuned with another clip_grad_norm"),
        ("model.dropout=0.5", "shuffled.safetensors was tuned with another model"),
    ],
)
def test_a_folder_of_other_data_or_another_tuning_is_refused(hub, scored, refused, override, said):
    truth = ["truth.max_rows=23"] if "max_rows" in override else []
    assert said in refused(run("shad", arguments(hub, scored, override, *truth)))


REAL = {
    "think_toolrl/messages.jsonl": [],
    "glaive_toolcall/glaive_toolcall_en_demo.json": [],
    "tau_bench/gpt-4o-airline.json": ["dataset.columns={messages: traj}"],
}


@pytest.mark.parametrize("name", REAL)
def test_real_agent_data_run_through(hub, tmp_path, capsys, name):
    """The command on data of three publishers (look-alikes where they are not at hand), phrases at both ends listed."""
    roomy = write_tiny_checkpoint(tmp_path / "roomy")
    config = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    settings = "dataset.subset=null dataset.max_rows=5 at_least=4 batch_size=1 dataset.turns=each dataset.strict=false "
    settings += "dataset.max_dropped=0.9 tokenizer.max_seq_len=5200 model.max_seq_len=5200 truth=null needs_calls=true"
    paths = [f"dataset.source={shared_data(tmp_path / 'data') / name}", f"model.path={roomy}"]
    words = arguments(hub, tmp_path / "out", *settings.split(), *REAL[name])
    assert run("shad", [*(word for word in words if not word.startswith("model.path")), *paths]).code == 0
    report = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert report["confusion"] is None and report["boilerplate"] and report["boilerplate"][0][1] < 0
    assert "most reasoning-like" in capsys.readouterr().out
