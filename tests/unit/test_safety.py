"""Nothing that is downloaded, read or resumed can run code, and nothing secret is written down."""

import ast
import json
import os
import pickle

import pytest
import torch
from commands import ROOT, cot, must, tune, user_error
from degenerate import HOSTILE
from omegaconf import OmegaConf

from cot_components.config import find_config
from cot_components.data.read.traces import read_traces
from cot_components.errors import UserError
from cot_components.models.load import load_model
from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.runs.folder import enter_folder, release
from cot_components.runs.same_config import config_hash, refuse_other_config
from cot_components.secrets import FromEnvironment, agree, is_secret, without_secrets
from cot_components.training.recipe import read_config


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "DB_PASS", "OPENAI_KEY", "GITHUB_PAT", "AWS_SESSION_TOKEN", "AWS_SESSION", "PGPASSWORD"),
        *("githubToken", "MY_CREDENTIALS", "BASIC_AUTH", "WANDB_API_KEY", "openai_key", "MYSQL_PWD"),
    ],
)
def test_names_of_secrets(name):
    assert is_secret(name)


NO_SECRETS = "TOKENIZER_DIR TOKENIZERS_PARALLELISM MONKEY COMPASS PATH PATIENCE AUTHOR KEYBOARD PWD XDG_SESSION_ID"


@pytest.mark.parametrize("name", [*NO_SECRETS.split(), "SSH_AUTH_SOCK"])
def test_names_of_no_secrets(name):
    assert not is_secret(name)


def test_values_are_replaced_by_the_name_the_longest_first(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "secret")
    monkeypatch.setenv("B_TOKEN", "secret-and-more")
    assert without_secrets("x secret-and-more, secret") == "x ${oc.env:B_TOKEN}, ${oc.env:A_TOKEN}"
    monkeypatch.setenv("TOKENIZER_DIR", "/models/secretive")
    assert without_secrets({"path": "/models/secretive"}) == {"path": "/models/${oc.env:A_TOKEN}ive"}


def test_user_and_password_of_an_address_are_replaced():
    said = without_secrets({"source": "https://ann:pw@host/rows?a=b@c", "other": "https://host/a@b"})
    assert said == {"source": "https://${oc.env:CREDENTIALS}@host/rows?a=b@c", "other": "https://host/a@b"}


def test_a_key_of_the_config_names_a_secret_too():
    usual = {"pad_token": "<pad>", "packed_tokens": 5, "tags_as": "token"}
    said = without_secrets({"api_key": "k-1", "logger": {"password": "p", **usual}})
    assert said == {"api_key": "${oc.env:API_KEY}", "logger": {"password": "${oc.env:PASSWORD}", **usual}}


def main(*, output_dir: str, source: str, place: str = "", lr: float = 1.0) -> None:
    pass


def read(path, text):
    path.write_text(text)
    return read_config(main, ["--config", str(path)], {})


TAKES = "output_dir: out\nsource: ${oc.env:WHERE}/rows\nplace: ${source}/x\nlr: ${oc.decode:${oc.env:RATE}}\n"


def test_what_comes_from_the_environment_stays_as_it_is_written(tmp_path, monkeypatch):
    """Short values too, whose text could not be found again; the run itself has them."""
    monkeypatch.setenv("WHERE", "ab")
    monkeypatch.setenv("RATE", "0.5")
    values = read(tmp_path / "c.yaml", TAKES)
    assert (values["source"], values["place"], values["lr"]) == ("ab/rows", "ab/rows/x", 0.5)
    assert isinstance(values["source"], FromEnvironment) and json.dumps(values["source"]) == '"ab/rows"'
    try:
        enter_folder(tmp_path / "out", values, resume="auto")
    finally:
        release()
    saved = (tmp_path / "out" / "config.yaml").read_text()
    assert "source: ${oc.env:WHERE}/rows" in saved and "ab/rows" not in saved
    assert OmegaConf.to_container(OmegaConf.create(saved), resolve=True)["place"] == "ab/rows/x"


def test_sentences_do_not_say_it_either(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "/very/private")
    monkeypatch.setenv("RATE", "0.5")
    read(tmp_path / "c.yaml", TAKES)
    assert without_secrets("no folder /very/private/rows") == "no folder ${oc.env:WHERE}/rows"


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_a_run_is_the_same_run_when_a_variable_comes_or_goes(tmp_path, monkeypatch, first, second):
    config = {"dataset": {"source": "data/hunter2hunter2/rows"}, "seed": 1}

    def written(is_set):
        monkeypatch.setenv("DB_PASS", "hunter2hunter2") if is_set else monkeypatch.delenv("DB_PASS", raising=False)
        return without_secrets(config)

    before = written(first)
    written(second)
    refuse_other_config(before, config, tmp_path)
    with pytest.raises(ValueError, match=r"dataset\.source was"):
        refuse_other_config(before, {"dataset": {"source": "data/hunter2hunter2/others"}, "seed": 1}, tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a/${oc.env:X}/b", "a/anything/b", True),
        ("a/${oc.env:X}/b", "a/anything/c", False),
        ("a/anything/b", "a/${oc.env:X}/b", True),
        ("${oc.env:X}", "${oc.env:Y}", True),
        ("a", "b", False),
        (1, "${oc.env:X}", False),
        (None, "${oc.env:X}", False),
    ],
)
def test_values_that_can_be_the_same(one, other, same):
    assert agree(one, other) is same


def test_a_config_without_the_environment_is_left_alone():
    text = find_config("bt_sft/quickstart").read_text()
    assert "oc.env" not in text and without_secrets({"a": 1, "b": [True, None]}) == {"a": 1, "b": [True, None]}


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


def test_a_locale_without_utf8_changes_nothing(tmp_path):
    """Files are UTF-8 whatever the terminal is, the config's too, and what it cannot show is spelled."""
    write_tiny_checkpoint(tmp_path / "model")
    rows = [{"question": f"Größe {n}?", "thought": f"漢字 {HOSTILE}", "answer": f"#### {n}"} for n in range(16)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    environment = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    data = ["dataset.source=rows.jsonl", "evaluation.source=rows.jsonl", "dataset.max_rows=16", "dataset_val=null"]
    data += ["evaluation.max_rows=2", "evaluation.max_new_tokens=4", "batch_size=8", "epochs=1"]
    data += ["evaluation.split=train", "evaluation.subset=null", f"tokenizer.path={tmp_path / 'model'}"]
    config = (ROOT / "configs" / "bt_sft" / "quickstart.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(f"# Größe\n{config}", encoding="utf-8")
    words = ["bt_sft", "--config", "mine.yaml", "output_dir=out", *data]
    must(tune(*words, cwd=tmp_path, env=environment))
    assert "Größe 0?" in (tmp_path / "out" / "tokens.html").read_text(encoding="utf-8")
    must(cot("report", "out", "--out", "report.html", cwd=tmp_path, env=environment))
    must(cot("view", *words[2:], "--n", "1", cwd=tmp_path, env=environment))
    assert "Größe 1?" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "already finished" in must(tune(*words, cwd=tmp_path, env=environment))
    assert "nö: no such run" in user_error(cot("report", "nö", cwd=tmp_path)), "said as it is where it can be"
    assert "no such run" in user_error(cot("report", "nö", cwd=tmp_path, env=environment))
