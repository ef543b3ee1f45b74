"""`bt_sft/any` on small folders of today's families: full and adapters, gone on with after a cut, exported."""

import json

import pytest
import torch
from commands import CONFIGS
from contract import checkpoint, copied, differences, records, run
from families_for_tests import distance, write_case
from safetensors.torch import load_file

from cot_components.cli.main import main
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.models import from_folder
from cot_components.models.adapter import adapt, logits

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # peft 0.18 asks for an old name

ANY = str(CONFIGS / "bt_sft" / "any.yaml")
TINY = [
    "dataset.source=generated",
    "dataset.max_rows=80",
    "dataset.max_seq_len=400",
    "dataset_val=null",
    "evaluation.max_rows=2",
    "evaluation.max_new_tokens=3",
    "packed_tokens=768",
    "gradient_accumulation_steps=1",
    "optimizer.lr=1e-2",
    "lr_scheduler=null",
    "device=cpu",
    "dtype=fp32",
    "save_every_n_steps=1",
    "keep_checkpoints=100",
]


@pytest.mark.parametrize("adapters", ["null", "{rank: 4, alpha: 16, dropout: 0.1}"])
@pytest.mark.parametrize("case", ["qwen3", "smollm3", "olmo2"])
def test_it_learns_goes_on_and_is_exported(tmp_path, case, adapters):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub, out, again = (tmp_path / name for name in ("hub", "out", "again"))
    write_case(hub, case, vocab_size=384, max_position_embeddings=512)
    write_byte_tokenizer(hub)
    words = ["--config", ANY, f"model.path={hub}", f"model.lora={adapters}", *TINY]
    assert run("bt_sft", [*words, f"output_dir={out}"]).code == 0
    losses = [record["loss"] for record in records(out) if "loss" in record]
    assert losses[-1] < losses[0] - 0.1, losses
    last = max(int(path.name[5:]) for path in (out / "checkpoints").glob("step_*"))

    copied(out, again, until=2)
    assert run("bt_sft", [*words, f"output_dir={again}"]).code == 0
    assert differences(out, again, step=last) == []

    theirs = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    ours = adapt(from_folder(path=str(out / "model"), quiet=True)).eval()
    tokens = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert distance(logits(ours, tokens), expected) < 1e-4
        assert distance(AutoModelForCausalLM.from_pretrained(hub).eval()(tokens).logits, expected) > 1e-2
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True)
    ids = torch.tensor([prompt["input_ids"] if hasattr(prompt, "keys") else prompt])
    assert theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2).shape[1] > ids.shape[1]
    saved = load_file(checkpoint(out, last) / "model.safetensors")
    if adapters != "null":
        from peft import PeftModel

        assert saved and all("lora_" in name for name in saved)  # the base is not saved again
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(hub), out / "adapter").eval()
        assert distance(adapted(tokens).logits, expected) < 1e-4


def test_another_base_is_refused(tmp_path, capsys):
    """A checkpoint of adapters, gone on with on other weights in the same place."""
    hub, out, again = (tmp_path / name for name in ("hub", "out", "again"))
    write_case(hub, "qwen3", vocab_size=384, max_position_embeddings=512)
    write_byte_tokenizer(hub)
    words = ["--config", ANY, f"model.path={hub}", "model.lora={rank: 4}", *TINY, "evaluation=null"]
    assert run("bt_sft", [*words, f"output_dir={out}"]).code == 0
    copied(out, again, until=2)
    write_case(tmp_path / "other", "qwen3", seed=1, vocab_size=384, max_position_embeddings=512)
    (tmp_path / "other" / "model.safetensors").replace(hub / "model.safetensors")
    capsys.readouterr()
    assert run("bt_sft", [*words, f"output_dir={again}"]).code == 2
    assert "frozen weights" in capsys.readouterr().err


def test_a_folder_is_checked_before_data_are_read(tmp_path, capsys):
    hub = tmp_path / "hub"
    write_case(hub, "qwen3", vocab_size=384)
    words = ["bt_sft/any", f"model.path={hub}", "dataset.source=generated"]
    write_byte_tokenizer(hub)
    assert main(["validate", *words]) == 0
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4, "intermediate_size": 49}))
    capsys.readouterr()
    assert main(["validate", *words]) == 2
    said = capsys.readouterr().err
    assert "no tensor 'model.layers.3." in said and said.count("\n") == 1
    (hub / "config.json").write_text(json.dumps(config))
    assert main(["validate", *words, "model.lora={rnak: 3}"]) == 2
    assert "unknown key 'model.lora.rnak'" in capsys.readouterr().err
