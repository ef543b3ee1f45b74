"""What counts as a secret, and what is written in its place."""

import json

import pytest
from omegaconf import OmegaConf

from cot_components.config import find_config
from cot_components.runs.folder import enter_folder, release
from cot_components.runs.same_config import refuse_other_config
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
