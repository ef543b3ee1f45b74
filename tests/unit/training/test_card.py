"""The model card of an exported folder: true, the same after a resume, without secrets."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_models import FROM_FOLDER, llama_tied
from tiny_runs import TOTAL, copied, overrides_for, run

from cot_components.datasets import reasoning_dataset
from cot_components.models import hf_tokenizer
from cot_components.training import card
from cot_components.training.card import CARD, front_matter, write_card
from cot_components.training.recipe import Running

BASE_CARD = "---\nlicense: other\nlicense_name: tiny-licence\nlanguage: en\n---\n\n# The best model of the world\n"


@pytest.fixture(name="base", scope="module")
def _base(hub, tmp_path_factory):
    """A model as the hub's cache keeps it."""
    folder = tmp_path_factory.mktemp("cache") / "models--maker--tiny" / "snapshots" / "0a1b"
    shutil.copytree(hub / "model", folder)
    (folder / CARD).write_text(BASE_CARD)
    (folder / "LICENSE.txt").write_text("You may.")
    return folder


@pytest.fixture(name="arguments", scope="module")
def _arguments(hub, base):
    kept = [word for word in overrides_for("bt_sft", hub) if not word.startswith("model.")]
    more = [f"model.path={base}", "save_every_n_steps=5", "keep_checkpoints=9", "dataset.transforms.blur.ratio=0.35"]
    return [*FROM_FOLDER, *kept, *more]


@pytest.fixture(name="whole", scope="module")
def _whole(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run("bt_sft", [*arguments, f"output_dir={out}"]).code == 0
    return out


def test_a_run_leaves_a_card_that_tells_what_was_done(whole, base):
    text = (whole / "model" / CARD).read_text()
    found = front_matter(whole / "model" / CARD)
    assert found["base_model"] == "maker/tiny" and found["library_name"] == "transformers"
    assert (found["license"], found["license_name"]) == ("other", "tiny-licence") and "language" not in found
    assert {"cot-components", "bt_sft"} <= set(found["tags"])
    assert "best model" not in text and (whole / "model" / "LICENSE.txt").read_text() == "You may."
    told = ("# tiny, trained by bt_sft", "loss: `sft`", "`Blur`", "44 rows read", "torch ", f"after step {TOTAL} |")
    for part in told:
        assert part in text, part
    assert "tune run bt_sft --config bt_sft/quickstart" in text and "dataset.transforms.blur.ratio=0.35" in text
    settings = text.partition("```yaml")[2].partition("```")[0]
    assert "ratio: 0.35" in settings and "keep_first" not in settings and "clip_grad_norm" not in settings
    assert str(whole) not in text and "save_every" not in text
    saved = (whole / "checkpoints" / "step_00000005" / "hf" / CARD).read_text()
    assert f"after step 5 of {TOTAL}" in saved and f"after step {TOTAL} |" not in saved


def test_a_resumed_run_writes_the_same_cards(whole, arguments, tmp_path):
    out = copied(whole, tmp_path / "again", until=5)
    assert run("bt_sft", [*arguments, f"output_dir={out}"]).code == 0
    cards = sorted(path.relative_to(whole) for path in whole.rglob(CARD))
    assert len(cards) == 4
    assert not [path for path in cards if (whole / path).read_bytes() != (out / path).read_bytes()]


@pytest.fixture(name="written")
def _written(hub, tmp_path, monkeypatch):
    """The card of a model from a folder, or from random weights, of a recipe that was called with a config."""

    def write(start: Path | None = None, *argv: str, defaults=None, **config):
        monkeypatch.setattr(card, "running", lambda: Running("sft", argv, config, defaults or {}))
        data = reasoning_dataset(hf_tokenizer(str(hub / "model")), source="generated", max_rows=2)
        model = llama_tied()
        if start is not None:
            model.hub = SimpleNamespace(path=start, config={})
        (tmp_path / "out").mkdir(exist_ok=True)
        write_card(tmp_path / "out", model, data, [], step=1, total_steps=1)
        return (tmp_path / "out" / CARD).read_text()

    return write


def test_what_is_not_known_is_not_claimed(written, tmp_path):
    (tmp_path / "start").mkdir()
    for start, said in [(None, "random weights"), (tmp_path / "start", "look it up")]:
        text = written(start)
        assert said in text and "Nothing was measured" in text
        assert not {"base_model", "license"} & front_matter(tmp_path / "out" / CARD).keys()


@pytest.mark.parametrize("readme", ["no YAML", "---\n: [\n---\n", "---\n- a list\n---\n", b"\xff\xfe"], ids=repr)
def test_a_readme_that_cannot_be_read_tells_nothing(written, tmp_path, readme):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / CARD).write_bytes(readme if isinstance(readme, bytes) else readme.encode())
    assert "look it up" in written(tmp_path / "start")


def test_a_run_that_starts_from_a_run_names_the_base_of_both(written, tmp_path):
    (tmp_path / "start").mkdir()
    head = "---\nbase_model: {}\ntags: [{}]\n---\n"
    (tmp_path / "start" / CARD).write_text(head.format("maker/tiny", "cot-components"))
    assert "base_model: maker/tiny" in written(tmp_path / "start")
    (tmp_path / "start" / CARD).write_text(head.format("maker/tiny", "other"))  # the base of the base is another model
    assert "base_model" not in written(tmp_path / "start")


def test_adapters_say_so(written, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_config.json").write_text("{}")
    (tmp_path / "start").mkdir()
    assert "library_name: peft" in written(tmp_path / "start") and "LoRA adapters of start" in written(
        tmp_path / "start"
    )


def test_no_secret_and_no_home_folder(written, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-value")
    home = Path.home()
    text = written(
        None,
        "--config",
        f"{home}/my.yaml",
        "dataset.columns={hf_token: typed-one, prompt: q}",
        "metric_logger.api_key=typed-two",
        f"model.path={home} b=https://ann:typed-five@host/x",
        "dataset.password=typed-three",
        "note=s3cr3t-value",
        "output_dir=/somewhere/else",
        dataset={"source": f"{home}/rows.jsonl", "api_key": "typed-four"},
        metric_logger={"api_key": "typed-two"},
        seed=0,
        defaults={"seed": 0},
    )
    for hidden in ("typed", "s3cr3t", f"{home}/", f"{home} ", "somewhere"):
        assert hidden not in text, hidden
    assert "~/my.yaml" in text and "~/rows.jsonl" in text and "prompt: q" in text and "seed" not in text
