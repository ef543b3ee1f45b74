"""Before the first step: numbers that mean nothing, data that do not fit, losses that cannot train, whole states."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from tiny_models import build
from tiny_runs import read
from torch.optim import lr_scheduler
from torchtune.models.llama3_2 import lora_llama3_2
from torchtune.modules.peft import get_adapter_params, set_trainable_params

from cot_components.data.rows.plans import Plans
from cot_components.errors import UserError
from cot_components.models.adapter import adapt
from cot_components.models.load import load_model
from cot_components.runs.checkpoint import read_state, write_checkpoint
from cot_components.runs.folder import Earlier, release
from cot_components.runs.same_config import refuse_other_config
from cot_components.schedules import MicroBatchTick, Schedule
from cot_components.training import setup
from cot_components.training.batching import plan_facts, refuse_other_plan
from cot_components.training.distributed import World
from cot_components.training.recipe import recipe
from cot_components.training.resume.state import capture, restore
from cot_components.training.setup import fit_rows, prepare_model, start_run
from cot_components.transforms.cap import Cap
from cot_components.transforms.remove import Remove

SHAPE = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 32, "intermediate_dim": 48}
SHAPE |= {"vocab_size": 60, "max_seq_len": 64}
LENGTHS = np.arange(5, 29)
CPU = {"device": "cpu", "seed": 0}
CONFIG = {**CPU, "dtype": "fp32"}


def data_of(*tokens, transforms=None, pad_id=0, vocab_size=60, tag_ids=None):
    columns = {
        "lengths": np.array([len(row) for row in tokens]),
        "tokens": np.array([token for row in tokens for token in row]),
        "ids": np.arange(len(tokens)),
    }
    rows = SimpleNamespace(**columns, training_hash=lambda: "hash")
    chat = SimpleNamespace(tokenizer=SimpleNamespace(pad_id=pad_id, vocab_size=vocab_size))
    return SimpleNamespace(rows=rows, tag_ids=tag_ids or {}, transforms=transforms or {}, chat=chat, choices=())


def test_held_out_rows_must_fit_the_model_too():
    model, fine = adapt(build("llama_tied")), data_of([1, 2, 3])
    fit_rows(model, fine, None)
    for data, said in (
        ((fine, data_of([1] * 65)), "65 tokens.*64"),
        ((data_of([1] * 65),), r"dataset\.max_seq_len"),
        ((fine, data_of([9999])), "id 9999"),
        ((data_of([1, 2, 3], pad_id=60),), "pad_token.*60"),
    ):
        with pytest.raises(UserError, match=said):
            fit_rows(model, *data)


def lora_with_tags(*, reserved: float | None = None, same: bool = False):
    """An adapted model whose ids 10 and 11 are tags, trained ones unless said otherwise."""
    model = lora_llama3_2(["q_proj"], False, False, **SHAPE, lora_rank=2, lora_alpha=4)
    set_trainable_params(model, get_adapter_params(model))
    with torch.no_grad():
        if reserved is not None:
            model.tok_embeddings.weight[10] *= reserved
        if same:
            model.tok_embeddings.weight[10] = model.tok_embeddings.weight[11]
    return adapt(model)


def test_adapters_cannot_learn_tags_whose_rows_are_not_trained():
    tags, new = {"<think>": 10, "</think>": 11}, {"<think>": 60, "</think>": 61}
    grown = data_of([1, 60], vocab_size=62, tag_ids=new)
    reserved = data_of([1, 10], tag_ids=tags)
    untrained = ((lora_with_tags(same=True), reserved), (lora_with_tags(reserved=1e-20), reserved))
    for model, data in ((lora_with_tags(), grown), *untrained):
        with pytest.raises(UserError, match=r"^dataset\.tags_as: token"):
            fit_rows(model, data)
    fit_rows(lora_with_tags(), reserved)
    whole = adapt(build("llama_tied"))
    fit_rows(whole, grown)
    assert whole.tok_embeddings.num_embeddings == 62


def test_the_largest_seed_serves_every_process(monkeypatch):
    monkeypatch.setattr(setup, "shard", lambda model, world: None)
    drawn = []
    with torch.random.fork_rng():
        for rank in range(4):
            torch.manual_seed(2**63 - 1)
            prepare_model(
                SimpleNamespace(layers=[]), World(rank, 4), compile=False, enable_activation_checkpointing=False
            )
            drawn.append(torch.initial_seed())
    assert len(set(drawn)) == 4


def test_prompts_are_read_before_the_first_step():
    data, seen = data_of([1, 2, 3]), []
    data.chat = SimpleNamespace(tokenizer=SimpleNamespace(pad_id=0))
    answers = SimpleNamespace(
        prompts=lambda chat, max_seq_len: seen.append((chat, max_seq_len)),
        compare_with_training=lambda *compared: seen.append(compared),
    )
    fit_rows(adapt(build("llama_tied")), data, None, answers=answers)
    assert seen == [(data.chat, 64), (data.rows, data.chat)]


@pytest.mark.parametrize("settings", [{"num_workers": -1}, {"seed": 10**20}, {"device": "mps"}])
def test_numbers_and_devices_that_mean_nothing_leave_no_folder(tmp_path, settings):
    config = {**CONFIG, **settings}
    with pytest.raises(UserError, match=next(iter(settings))):
        start_run(output_dir=str(tmp_path / "out"), config=config, **{name: config[name] for name in CPU})
    assert list(tmp_path.iterdir()) == []


def test_the_split_of_a_step_matters_where_it_is_counted():
    counting = Remove(schedule=Schedule(ticks_per_epoch=6, per_epoch=2, tick=MicroBatchTick(3, 2, 6)))
    plain = Remove(schedule=Schedule(ticks_per_epoch=6, per_epoch=2))
    assert counting.counts_micro_batches and Cap(max_tokens=4, scope="batch").counts_micro_batches
    assert not plain.counts_micro_batches and not Cap(max_tokens=4).counts_micro_batches
    one, other = Plans(LENGTHS, batch_size=4, gradient_accumulation_steps=2), Plans(LENGTHS, batch_size=8)
    facts = [[plan_facts(data_of([1], transforms={"remove": t}), p) for p in (one, other)] for t in (plain, counting)]
    refuse_other_plan(Earlier(None, {"plan": facts[0][0]}), facts[0][1])
    with pytest.raises(UserError, match=r"4 x 2.*8 x 1"):
        refuse_other_plan(Earlier(None, {"plan": facts[1][0]}), facts[1][1])


def test_what_an_older_checkpoint_does_not_note_is_not_refused():
    older = Earlier(None, {"plan": {"total_steps": 3}})
    refuse_other_plan(older, {"total_steps": 3, "base": "hash", "reference": "hash", "scores": {"weigh": "hash"}})


def test_a_folder_below_home(tmp_path, monkeypatch, hub):
    """No folder named `~` where the run was started: neither its own nor the one torchtune wants."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "start").symlink_to(hub / "model")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    kept = read("target_sft/quickstart", "output_dir=~/runs/x")
    assert kept["output_dir"] == str(tmp_path / "home" / "runs" / "x")
    assert start_run(output_dir="~/out", config=CONFIG, **CPU).output_dir == tmp_path / "home" / "out"
    release()
    node = {"_component_": "cot_components.models.from_folder", "path": "~/start"}
    load_model(node, device=torch.device("cpu"), dtype=torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_recipe_that_writes_no_model_may_lie_around_one(tmp_path):
    start_run(output_dir=str(tmp_path), config={**CONFIG, "model": {"path": str(tmp_path / "model")}}, **CPU)
    release()


WORKER = "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
WORKER += '  File "x.py", line 1\ncot_components.errors.UserError: row 3: bad\n'


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "a/b.json"), "error: a/b.json: No space left on device\n"),
        (OSError(28, "No space left on device"), "error: OSError: [Errno 28] No space left on device\n"),
        (ConnectionError("no answer from the hub\nmore"), "error: ConnectionError: no answer from the hub\n"),
        (SafetensorError("header too small"), "error: SafetensorError: header too small\n"),
        (UserError(WORKER), "error: row 3: bad\n"),
    ],
)
def test_what_the_disk_or_a_worker_refuses_is_one_sentence(tmp_path, monkeypatch, capsys, error, said):
    def main(*, output_dir: str) -> None:
        raise error

    (tmp_path / "c.yaml").write_text("output_dir: out\n")
    monkeypatch.setattr("sys.argv", ["x", "--config", str(tmp_path / "c.yaml")])
    with pytest.raises(SystemExit) as end:
        recipe(main)()
    assert end.value.code == 2 and capsys.readouterr().err == said


def test_the_order_of_transforms_is_part_of_the_config(tmp_path):
    a, b = {"_component_": "a"}, {"_component_": "b"}
    before = {"dataset": {"transforms": {"a": a, "b": b}, "source": "x"}}
    refuse_other_config(before, {"dataset": {"source": "x", "transforms": {"a": a, "b": b}}}, tmp_path)
    with pytest.raises(UserError, match=r"dataset\.transforms: order"):
        refuse_other_config(before, {"dataset": {"source": "x", "transforms": {"b": b, "a": a}}}, tmp_path)


def sequential(optimizer):
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
    return lr_scheduler.SequentialLR(optimizer, [warm_up, lr_scheduler.CosineAnnealingLR(optimizer, 9)], [3])


def chained(optimizer):
    by_number = lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    return lr_scheduler.ChainedScheduler([by_number, lr_scheduler.MultiStepLR(optimizer, [2, 5])], optimizer)


@pytest.mark.parametrize("make", [sequential, chained])
def test_a_schedule_of_schedules_goes_on_exactly(tmp_path, make):
    def rates(trainer, steps):
        seen = []
        for _ in range(steps):
            seen.append(trainer.optimizer.param_groups[0]["lr"])
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        return seen

    def new():
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        parts = {"model": model, "optimizer": optimizer, "lr_scheduler": make(optimizer)}
        return SimpleNamespace(**parts, world=World(), device=torch.device("cpu"))

    whole = rates(new(), 12)
    stopped, again = new(), new()
    rates(stopped, 5)
    tensors, state = capture(stopped)
    path = write_checkpoint(tmp_path, 5, tensors=tensors, state=state)
    restore(again, path, read_state(path))
    assert rates(again, 7) == pytest.approx(whole[5:], rel=1e-12)
