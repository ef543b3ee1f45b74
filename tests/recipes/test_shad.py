"""`tune run shad`, as typed: scores, classes, going on after a kill, and what does not fit."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from commands import CONFIGS, TUNE, cot, must, tune, user_error
from lookalikes import shared_data

from cot_components.data.rows.scores import open_scores
from cot_components.models.tiny import write_tiny_checkpoint

SHORT = ["dataset.max_rows=24", "at_least=8", "epochs=1", "batch_size=8", "shown_rows=1", "lr_scheduler=null"]
LORA = [
    "model.lora.targets=[q_proj,v_proj]",
    "model.lora.rank=4",
    "model.lora.alpha=8",
]


def arguments(hub, *overrides):
    paths = [f"tokenizer.path={hub / 'model'}", f"model.path={hub / 'model'}"]
    return ["shad", "--config", "shad/quickstart", *paths, *SHORT, *overrides]


def shad(hub, cwd, *overrides):
    return tune(*arguments(hub, *overrides), cwd=cwd)


def test_scores_classes_and_the_same_again(hub, tmp_path):
    printed = must(shad(hub, tmp_path, "output_dir=out"))
    for part in ("true boilerplate", "error rate", "reasoning found", "most boilerplate-like", "tool_call"):
        assert part in printed
    report = json.loads((tmp_path / "out" / "classes.json").read_text())
    counts = np.array(report["confusion"])
    assert counts.sum() == report["num_tokens"] and counts[:, 1].sum() == report["num_reasoning"]
    assert report["error_rate"] == pytest.approx((counts[0, 1] + counts[1, 0]) / counts.sum())
    scores = open_scores(tmp_path / "out" / "scores")
    assert len(scores.finished("original")) == len(scores.finished("shuffled")) == report["num_tokens"]
    assert (scores.finished("original") != scores.finished("shuffled")).any()

    again = shad(hub, tmp_path, "output_dir=out")
    assert "tuning on" not in must(again) and "error rate" in again.stdout
    compared = must(cot("compare", tmp_path / "out", cwd=tmp_path))
    assert f"{report['error_rate']:.2%}" in compared and f"{report['recall']:.2%}" in compared


def test_lora_scores_with_adapters_off_and_on_in_one_pass(hub, tmp_path):
    """The adapters start at zero and learn little in a step: off is the base model, as full tuning scores it."""
    must(shad(hub, tmp_path, "output_dir=full"))
    must(shad(hub, tmp_path, *LORA, "output_dir=lora", "optimizer.lr=1e-1"))
    full, lora = (open_scores(tmp_path / name / "scores") for name in ("full", "lora"))
    np.testing.assert_allclose(lora.finished("original"), full.finished("original"), rtol=1e-5)
    assert lora.meta["columns"]["original"] == full.meta["columns"]["original"]
    assert np.abs(lora.finished("shuffled") - lora.finished("original")).max() > 1e-3


def test_a_killed_run_goes_on_and_ends_with_the_same_scores(hub, tmp_path):
    settings = ["dataset.max_rows=400", "tokens_per_pass=100"]
    must(shad(hub, tmp_path, *settings, "output_dir=whole"))
    folder = tmp_path / "killed" / "scores"
    command = [str(part) for part in (TUNE, "run", *arguments(hub, *settings, "output_dir=killed"))]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while process.poll() is None and not some_scores(folder):
            time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    missing = int(np.isnan(np.load(folder / "original.npy")).sum())
    must(shad(hub, tmp_path, *settings, "output_dir=killed"))
    whole, killed = (open_scores(tmp_path / name / "scores") for name in ("whole", "killed"))
    assert missing > np.isnan(killed.column("original")).sum()
    for name in ("original", "shuffled"):
        np.testing.assert_array_equal(killed.column(name), whole.column(name))


def some_scores(folder) -> bool:
    """Whether the first column has begun."""
    path = folder / "original.npy"
    return (folder / "meta.json").exists() and path.exists() and bool((~np.isnan(np.load(path))).any())


def test_a_second_model_scores_for_rho_1(hub, tmp_path):
    write_tiny_checkpoint(tmp_path / "other", seed=1)
    text = (CONFIGS / "shad" / "quickstart.yaml").read_text()
    reference = """
reference:
  _component_: cot_components.models.FrozenModel
  model:
    _component_: cot_components.models.from_folder
    path: other
"""
    (tmp_path / "rho.yaml").write_text(text + reference)
    given = arguments(hub, "output_dir=out")
    given[2] = "rho.yaml"
    must(tune(*given, cwd=tmp_path))
    scores = open_scores(tmp_path / "out" / "scores")
    assert not np.allclose(scores.finished("reference"), scores.finished("original"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset.subset=json", "truth=null"], "none of the 24 rows has a tool call"),
        (["share=0"], "share must lie in (0, 1], got 0"),
        (["at_least=1"], "at_least must be 2 or more, got 1"),
        (["dataset.max_rows=1"], "outputs cannot be shuffled among 1 rows"),
        (["truth.max_rows=5"], "row 5 is none of the 5 dialogues"),
        (["truth.subset=react"], "row 0 is another text than dialogue 0"),
        (["dataset.subset=tagged diversity:no"], "diversity must be a whole number, got 'no'"),
        (["shar=0.5"], "unknown key 'shar'; did you mean 'share'?"),
        (["model.max_seq_len=64"], "the longest, has"),
    ],
)
def test_what_does_not_fit_is_one_sentence(hub, tmp_path, overrides, sentence):
    assert sentence in user_error(shad(hub, tmp_path, "output_dir=out", *overrides))


def test_a_folder_of_other_data_or_another_tuning_is_refused(hub, tmp_path):
    must(shad(hub, tmp_path, "output_dir=out"))
    other = user_error(shad(hub, tmp_path, "output_dir=out", "dataset.max_rows=23", "truth.max_rows=23"))
    assert "holds scores of other data (24 rows of" in other
    settings = {
        "optimizer": "optimizer.lr=1e-5",
        "clip_grad_norm": "clip_grad_norm=0.5",
        "model": "model.dropout=0.5",
    }
    for name, override in settings.items():
        tuned = user_error(shad(hub, tmp_path, "output_dir=out", override))
        assert f"shuffled.safetensors was tuned with another {name}" in tuned and "name another output_dir" in tuned


REAL = {
    "think_toolrl/messages.jsonl": [],
    "glaive_toolcall/glaive_toolcall_en_demo.json": [],
    "tau_bench/gpt-4o-airline.json": ["dataset.columns={messages: traj}"],
}


@pytest.mark.parametrize("name", REAL)
def test_real_agent_data_run_through(hub, tmp_path, name):
    """The command on data of three publishers (look-alikes where they are not at hand), phrases at both ends listed."""
    roomy = write_tiny_checkpoint(tmp_path / "roomy")
    config = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    settings = [
        f"dataset.source={shared_data(tmp_path / 'data') / name}",
        "dataset.subset=null",
        "dataset.max_rows=5",
        "at_least=4",
        "batch_size=1",
        "dataset.turns=each",
        "dataset.strict=false",
        "dataset.max_dropped=0.9",
        "tokenizer.max_seq_len=5200",
        f"model.path={roomy}",
        "model.max_seq_len=5200",
        "truth=null",
        "needs_calls=true",
        *REAL[name],
    ]
    printed = must(shad(hub, tmp_path, *settings, "output_dir=out"))
    report = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert report["confusion"] is None and report["boilerplate"] and report["boilerplate"][0][1] < 0
    assert "most reasoning-like" in printed
