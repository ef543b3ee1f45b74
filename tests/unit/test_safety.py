"""Nothing that is downloaded, read or resumed can run code, and nothing secret is written down."""

import ast
import json
import os
import pickle

import pytest
import torch
from commands import ROOT, cot, must, tune, user_error

from cot_components.data.read.traces import read_traces
from cot_components.errors import UserError
from cot_components.models.load import load_model
from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.runs.folder import enter_folder, release
from cot_components.runs.same_config import config_hash
from cot_components.secrets import without_secrets

SECRET = "hf_NotARealTokenButLongEnough"


class Bomb:
    """Unpickled, it runs a command; the tests look whether it did."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_no_source_file_can_unpickle_or_run_what_it_reads():
    forbidden, checked = ("eval", "exec", "pickle.load", "pickle.loads"), 0
    for part in ("cot_components", "recipes"):
        for path in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func)
                    keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert name not in forbidden and "trust_remote_code" not in keywords, path
                    if name == "torch.load":
                        assert keywords["weights_only"] == "True", path
                    if name in ("np.load", "numpy.load"):
                        assert keywords.get("allow_pickle", "False") == "False", path
                    checked += 1
    assert checked > 2000


def test_a_pickled_checkpoint_of_a_model_runs_nothing(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"bomb": Bomb(tmp_path / "ran")}, folder / "model.bin")
    node = {"_component_": "cot_components.models.from_folder", "path": str(folder)}
    with pytest.raises(UserError, match=r"model\.bin"):
        load_model(node, device=torch.device("cpu"), dtype=torch.float32)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["data.pkl", "data.pt", "data.py"])
def test_data_that_would_run_is_refused(tmp_path, name):
    path = tmp_path / name
    code = f"import os; os.mkdir({str(tmp_path / 'ran')!r})"
    path.write_bytes(code.encode() if name.endswith(".py") else pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UserError):
        list(read_traces(str(path)))
    folder = tmp_path / "data"
    folder.mkdir()
    path.rename(folder / ("data.py" if name.endswith(".py") else name))  # named like the folder, as loaders once were
    with pytest.raises(UserError):
        list(read_traces(str(folder)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "DB_PASSWORD"])
def test_secrets_of_the_environment_are_not_written_down(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    config = {"output_dir": "out", "metric_logger": {"url": f"https://me:{SECRET}@host", "tags": [SECRET]}, "seed": 1}
    try:
        enter_folder(tmp_path / "out", config, resume="auto")
    finally:
        release()
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert SECRET.encode() not in written and f"${{oc.env:{name}}}".encode() in written
    assert SECRET not in json.dumps(without_secrets(config)) and config["metric_logger"]["tags"] == [SECRET]
    monkeypatch.setenv(name, "another secret of the same name")
    assert config_hash({"seed": 1}) == config_hash({"seed": 1})


def test_a_run_that_is_given_a_secret_writes_it_nowhere(tmp_path):
    """Config, checkpoints, log, evaluations, report and what it prints: the name of the variable, never its value."""
    write_tiny_checkpoint(tmp_path / "model")
    short = ["dataset.max_rows=16", "batch_size=8", "epochs=1", "dataset_val=null", "evaluation.max_rows=2"]
    short += ["evaluation.max_new_tokens=4", "save_every_n_steps=1", "output_dir=out"]
    logger = f"metric_logger={{_component_: torchtune.training.metric_logging.DiskLogger, log_dir: logs/{SECRET}}}"
    words = ["bt_sft", "--config", "bt_sft/quickstart", f"tokenizer.path={tmp_path / 'model'}", *short, logger]
    environment = {"HF_TOKEN": SECRET}
    must(tune(*words, cwd=tmp_path, env=environment))
    must(cot("report", "out", "--out", "report.html", cwd=tmp_path, env=environment))
    refused = tune(*words, f"device=cuda:{SECRET}", cwd=tmp_path, env=environment)
    other = tune(*words, f"optimizer.lr={SECRET}", cwd=tmp_path, env=environment)
    assert (tmp_path / "logs" / SECRET).is_dir()  # the run had it
    files = [tmp_path / "report.html", *(path for path in (tmp_path / "out").rglob("*") if path.is_file())]
    assert {"config.yaml", "log.jsonl", "report.html", "state.json"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert b"${oc.env:HF_TOKEN}" in (tmp_path / "out" / "report.html").read_bytes()
    for ended in (refused, other):
        assert SECRET not in ended.stdout + ended.stderr
    assert "${oc.env:HF_TOKEN}" in user_error(refused) + user_error(other)


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_a_locale_without_utf8_changes_nothing(tmp_path, utf8):
    """Files are UTF-8 whatever the terminal is, and what it cannot show is spelled."""
    write_tiny_checkpoint(tmp_path / "model")
    rows = [{"question": f"Größe {n}?", "thought": "漢字 denken", "answer": f"#### {n}"} for n in range(16)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    environment = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    data = ["dataset.source=rows.jsonl", "evaluation.source=rows.jsonl", "dataset.max_rows=16", "dataset_val=null"]
    data += ["evaluation.max_rows=2", "evaluation.max_new_tokens=4", "batch_size=8", "epochs=1"]
    data += ["evaluation.split=train", "evaluation.subset=null", f"tokenizer.path={tmp_path / 'model'}"]
    words = ["bt_sft", "--config", "bt_sft/quickstart", "output_dir=out", *data]
    must(tune(*words, cwd=tmp_path, env=environment))
    must(cot("report", "out", "--out", "report.html", cwd=tmp_path, env=environment))
    must(cot("view", *words[2:], "--n", "1", cwd=tmp_path, env=environment))
    assert "Größe 1?" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "it is finished" in must(tune(*words, cwd=tmp_path, env=environment))
    assert "nö: no such run" in user_error(cot("report", "nö", cwd=tmp_path)), "said as it is where it can be"
    assert "no such run" in user_error(cot("report", "nö", cwd=tmp_path, env=environment))
