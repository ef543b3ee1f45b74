"""Configs, rows, models, runs and commands that are refused; each case takes an empty folder."""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from chats import PLAIN
from thinking import THINKING

from cot_components.cli.main import main as cot_main
from cot_components.config import build, check, check_nodes, find_config, walk
from cot_components.config.components import locate, only_known
from cot_components.config.files import read_keys
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.read.messages import Message
from cot_components.data.read.traces import read_traces
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import ChatTemplate
from cot_components.datasets import chat_format
from cot_components.errors import UserError
from cot_components.evaluation import AnswerEvaluation
from cot_components.evaluation.comparers import find_comparer
from cot_components.evaluation.evaluate import evaluate
from cot_components.evaluation.extract import find_extractor
from cot_components.evaluation.saved import read_evaluation
from cot_components.models import check_folder, from_folder, hf_tokenizer
from cot_components.models.families.gpt2 import gpt2
from cot_components.models.gpt2_bpe import gpt2_tokenizer
from cot_components.models.load import check_start, load_model
from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.models.tokenizers import as_text_tokenizer
from cot_components.runs.folder import Earlier, release
from cot_components.runs.same_config import refuse_other_config
from cot_components.training.batching import refuse_other_plan
from cot_components.training.float8 import check_float8
from cot_components.training.setup import start_run

NAN = float("nan")
Part = Literal["q_proj", "k_proj", "v_proj"]


def recipe(*, seed: int, model: dict, batch_size: int = 4, compile: bool = False, name: str | None = None) -> None: ...


def nodes(*, model: dict, logger: dict | None) -> None: ...


def lists(*, modules: list[Part] = (), rates: tuple[float, ...] = (), sizes: Sequence[int] | None = None) -> None: ...


def rule(*, rule: Callable[..., float] | None = None) -> None: ...


def keys(**changed) -> None:
    check(recipe, {"seed": 1, "model": {}, **changed})


def node(path: str, **settings) -> None:
    walk({"data": {"x": {"_component_": path, **settings}}})


def known(path: str) -> None:
    with only_known():
        locate(path, "dataset")


def cot(*words: object) -> None:
    """A command that ends with exit code 2."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        assert cot_main([str(word) for word in words]) == 2
    raise UserError(told.getvalue().removeprefix("error: ").rstrip())


def rows(at: Path, *lines: str, **settings) -> None:
    (at / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    list(read_traces(at / "rows.jsonl", **settings))


def folder(
    at: Path, *, lora: dict | None = None, max_seq_len: int | None = None, backbone: Any = "auto", **config
) -> None:
    """A model folder whose config.json says something else."""
    path = write_tiny_checkpoint(at / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    check_folder(path.parent, max_seq_len=max_seq_len, backbone=backbone)
    from_folder(path=str(path.parent), lora=lora, backbone=backbone, quiet=True)


def start(at: Path, **settings) -> None:
    config = {"device": "cpu", "dtype": "fp32", "seed": 0, **settings}
    try:
        start_run(output_dir=str(at), config=config, **{name: config[name] for name in ("device", "seed")})
    finally:
        release()


def float8(capability: tuple[int, int], **settings) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
        check_float8(True, **{"device": torch.device("cuda"), "dtype": "bf16", "compile": True, **settings})


def saved(at: Path, text: str) -> None:
    (at / "step_0.json").write_text(text)
    read_evaluation(at / "step_0.json")


def asked(traces: Sequence = (), said: Sequence = (), **settings) -> None:
    evaluate(traces, lambda prompts: said, tags=Tags(), count_tokens=len, **settings)


def answered(at: Path, source: str, answer: str = "a", policy: str = "template") -> None:
    """A conversation of one answer, written by a chat template."""
    tokenizer = as_text_tokenizer(hf_tokenizer(str(write_byte_tokenizer(at))))
    format = ChatFormat(tokenizer, ChatTemplate("t", source), Tags(), policy)
    format.turn([Message("user", "q"), Message("assistant", answer)])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def bpe(at: Path, vocabulary: str, merges: str) -> Path:
    write(at / "vocab.bpe", merges)
    return write(at / "encoder.json", vocabulary).parent


CONFIGS = [
    lambda at: keys(batch_sise=4),
    lambda at: check(recipe, {"model": {}}),
    lambda at: keys(seed=None),
    lambda at: keys(seed="None"),
    lambda at: keys(seed=True),
    lambda at: keys(batch_size="two"),
    lambda at: keys(compile="yes"),
    lambda at: keys(name=3),
    lambda at: keys(model=3),
    lambda at: check(recipe, {2: 1, "seed": 1, "model": {}}),
    lambda at: check(recipe, {True: 1, "seed": 1, "model": {}}),
    lambda at: check(lambda **anything: None, {"a": 1, True: 1}),
    lambda at: check(lists, {"modules": ["q_proj", "vproj"]}),
    lambda at: check(lists, {"modules": [3]}),
    lambda at: check(lists, {"modules": "q_proj"}),
    lambda at: check(lists, {"rates": [1, 0.5, True]}),
    lambda at: check(lists, {"sizes": [1, 2.5]}),
    lambda at: check(lists, {"sizes": "12"}),
    lambda at: check(rule, {"rule": "x"}),
    lambda at: check_nodes(nodes, {"model": {}}),
    lambda at: check_nodes(nodes, {"model": {"_component_": "x.y"}, "logger": {"a": 1}}),
    lambda at: node("cot_components.transforms.Blur", ration=1.0),
    lambda at: node("cot_components.transforms.Blur", granularity="word"),
    lambda at: node("cot_components.transforms.Blurr"),
    lambda at: node("no_such_module.f"),
    lambda at: walk({"data": {"x": {"_component_": 3}}}),
    lambda at: node("cot_components.curriculum.Stepwise", per_epok=3),
    lambda at: node("cot_components.curriculum.Released", per_epoch="two"),
    lambda at: locate("math.pi", "x"),
    lambda at: known("os.system"),
    lambda at: known("cot_components.models.tiny.write_tiny_checkpoint"),
    lambda at: build({"_component_": "torch.optim.SGD", "lr": -1}, [torch.ones(1)], where="optimizer"),
    lambda at: build({"_component_": "torch.load", "f": "/no/such/file"}, where="x"),
    lambda at: find_config("bt_sft/quikstart"),
    lambda at: read_keys(write(at / "c.yaml", "[1]")),
    lambda at: read_keys(write(at / "c.yaml", "a: [1\n")),
    lambda at: read_keys(write(at / "c.yaml", "a: " + "[" * 3000 + "]" * 3000)),
    lambda at: read_keys(write(at / "c.yaml", "a: 1\nb: &b [*b]\n")),
]
DATA = [
    lambda at: list(read_traces(at / "nowhere.jsonl")),
    lambda at: list(read_traces(write(at / "rows.pkl", ""))),
    lambda at: rows(at, "{"),
    lambda at: rows(at, "[1]"),
    lambda at: rows(at, '{"a": 1}'),
    lambda at: rows(at, '{"messages": []}'),
    lambda at: rows(at, '{"messages": [{"role": "boss", "content": "x"}]}'),
    lambda at: rows(at, '{"messages": [{"role": "user", "content": "x"}]}'),
    lambda at: rows(at, '{"question": "q", "answer": "a"}', format="gsm8k"),
    lambda at: rows(at, '{"prompt": "q", "completion": 3}'),
    lambda at: rows(at, '{"prompt": "q"}', columns={"prompt": "q"}),
    lambda at: rows(at, '{"prompt": "q", "completion": "a"}', format="sharegp"),
    lambda at: answered(at, THINKING["switched"], policy="refuse"),
    lambda at: answered(at, THINKING["opens or closes"], policy="none"),
    lambda at: answered(at, THINKING["switched"], policy="drop"),
    lambda at: answered(at, PLAIN + "{{ '</think>' if add_generation_prompt }}", answer="<think>t</think>a"),
    lambda at: answered(at, "{% for tool in tools %}{{ tool.name }}{% endfor %}"),
]
MODELS = [
    lambda at: check_start({"_component_": "cot_components.models.from_folder", "path": str(at / "nowhere")}),
    lambda at: folder(at, model_type="mamba", backbone="torchtune"),
    lambda at: folder(at, model_type="nowhere"),
    lambda at: folder(at, model_type="nowhere", auto_map={"AutoConfig": "own.Config"}),
    lambda at: folder(at, model_type="vit"),
    lambda at: folder(at, lora={"targets": ["lm_head"]}, backbone="transformers"),
    lambda at: folder(at, lora={"targets": "wq"}, backbone="transformers"),
    lambda at: folder(at, lora={"quantize": True}, backbone="transformers"),
    lambda at: folder(at, num_hidden_layers=3, backbone="transformers"),
    lambda at: folder(at, max_seq_len=10**6, backbone="transformers"),
    lambda at: folder(at, model_type="t5", is_encoder_decoder=True),
    lambda at: folder(at, quantization_config={"quant_method": "gptq"}),
    lambda at: folder(at, rope_scaling={"rope_type": "dynamic", "factor": 2.0}, backbone="torchtune"),
    lambda at: folder(at, hidden_act="gelu", backbone="torchtune"),
    lambda at: folder(at, hidden_size="32", backbone="torchtune"),
    lambda at: folder(at, num_hidden_layers=4),
    lambda at: folder(at, max_seq_len=10**6),
    lambda at: folder(at, lora={"rnak": 4}),
    lambda at: folder(at, lora={"rank": 0}),
    lambda at: folder(at, lora={"targets": ["q_proj", "wq"]}),
    lambda at: check_folder(write(at / "pytorch_model.bin", "PK").parent),
    lambda at: load_model(
        {"_component_": "torchtune.models.llama3.llama3", "vocab_size": 60, "max_seq_len": 64, "num_layers": 0}
        | {"num_heads": 2, "num_kv_heads": 1, "embed_dim": 32, "intermediate_dim": 48},
        device=torch.device("cpu"),
        dtype=torch.float32,
    ),
    lambda at: gpt2(embed_dim=10, num_heads=3),
    lambda at: gpt2(dropout=1.0),
    lambda at: gpt2(dropout=-0.1),
    lambda at: gpt2_tokenizer(str(at)),
    lambda at: gpt2_tokenizer(str(write(at / "encoder.json", "{}").parent)),
    lambda at: (
        write(at / "vocab.bpe", "#version: 0.2\n"),
        gpt2_tokenizer(str(write(at / "encoder.json", "x").parent)),
    ),
    lambda at: as_text_tokenizer(3),
    lambda at: hf_tokenizer(str(write_tiny_checkpoint(at / "model")), template=str(at / "no.jinja")),
]
EVALUATION = [
    lambda at: find_extractor("boxd"),
    lambda at: find_extractor(["boxed", "boxd"]),
    lambda at: find_extractor([]),
    lambda at: find_comparer("maths"),
    lambda at: asked(),
    lambda at: asked([SimpleNamespace(answer="1", messages=[], where="x:1")], num_samples=0),
    lambda at: AnswerEvaluation(source="generated", max_rows=2, temperature=NAN),
    lambda at: AnswerEvaluation(source="generated", max_rows=2, temperature=-0.5),
    lambda at: AnswerEvaluation(source="generated", max_rows=2, seed=10**20),
    lambda at: AnswerEvaluation(source="generated", max_rows=2, comparer="mat"),
    lambda at: AnswerEvaluation(source="generated", max_rows=2, thinking=True).prompts(
        chat_format(hf_tokenizer(str(write_byte_tokenizer(at))))
    ),
    lambda at: saved(at, '{"metrics": '),
    lambda at: saved(at, '{"a": 1}'),
    lambda at: read_evaluation(at / "no.json"),
]
RUNS = [
    lambda at: start(at, num_workers=-1),
    lambda at: start(at, shown_rows=-1),
    lambda at: start(at, seed=10**20),
    lambda at: start(at, device="meta"),
    lambda at: start(at, device="xpu:1"),
    lambda at: start(at, device="gpu"),
    lambda at: start(at, model={"path": str(at / "model")}, keep_checkpoints=2),
    lambda at: float8((8, 0)),
    lambda at: float8((9, 0), dtype="fp32"),
    lambda at: float8((9, 0), compile=False),
    lambda at: check_float8(True, device=torch.device("cpu"), dtype="bf16", compile=True),
    lambda at: refuse_other_config({"seed": 1}, {"seed": 2}, at),
    lambda at: refuse_other_config(
        *[{"dataset": {"transforms": dict.fromkeys(order, 1)}} for order in ("ab", "ba")], at
    ),
    lambda at: refuse_other_plan(Earlier(at, {"plan": {"total_steps": 3}}), {"total_steps": 4}),
]
COMMANDS = [
    lambda at: cot("report", at / "run"),
    lambda at: cot("compare", at),
    lambda at: cot("speed", at),
    lambda at: cot("memory", "--tokens", "0"),
    lambda at: cot("validate", write(at / "c.yaml", "output_dirr: x\n")),
    lambda at: cot("validate", "bt_sft/quikstart"),
    lambda at: cot("validate", "bt_sft/quickstart", "epochs=two"),
    lambda at: cot("validate", "bt_sft/quickstart", "dataset.transforms.blur.ration=0.5"),
    lambda at: cot("validate", "bt_sft/quickstart", "dataset=" + "[" * 2000 + "]" * 2000),
    lambda at: cot("validate", write(at / "c.yaml", "seed: ${seed}\n"), "--recipe", "bt_sft"),
    lambda at: cot("cp", "bt_sfft", at / "mine.py"),
    lambda at: cot("s3ft", at),
    lambda at: cot("s3ft", at, "--out", at / "rows.jsonl"),
]
