"""Batches for Hugging Face trainers: what the recipes see, aligned with the tokens; evaluation; what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from trl import SFTConfig

from cot_components import losses
from cot_components.clock import Clock
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.huggingface import ReasoningCollator, ReasoningTrainerMixin
from cot_components.huggingface.settings import NEUTRAL, refuse_divided_rows
from cot_components.models import hf_tokenizer
from cot_components.roles import IGNORE, Role
from cot_components.transforms import Blur, ByPattern, ByRole, Cap, Corrupt, Truncate

ROWS = (3, 0, 6)


@pytest.fixture(name="data", scope="module")
def _data(hub):
    def with_transforms(*transforms, **settings):
        made = reasoning_dataset(hf_tokenizer(str(hub / "model")), source="generated", max_rows=8, **settings)
        return made.__class__(made.rows, made.shares, dict(enumerate(transforms)), made.chat, made.report)

    return with_transforms


def shifted(values, empty):
    return F.pad(values, (0, 1), value=empty)[:, 1:]


@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [Blur(ratio=0.5), ByRole(factors={"answer": 3.0, "think_open": 0})],
        [ByPattern(tokenizer=lambda ids: "".join(chr(97 + i % 26) for i in ids), patterns=["[aeiou]"])],
        [Truncate(at_least=2, at_most=9, ratio=0.7)],
        [Corrupt(ratio=0.5, by=5)],
        [Cap(max_tokens=70)],
    ],
    ids=lambda transforms: "+".join(type(t).__name__ for t in transforms) or "plain",
)
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_batch_is_the_recipe_s(data, transforms, epoch):
    rows = data(*transforms)
    collate = ReasoningCollator(rows)
    collate.set_epoch(epoch)
    found = collate([collate.rows()[row] for row in ROWS])
    expected = rows.batches().batch(ROWS, Clock(epoch, 0))
    labels = shifted(found["labels"], IGNORE)
    counted = torch.zeros(expected.tokens.numel(), dtype=torch.bool).index_fill(0, expected.rows, True)
    assert torch.equal(labels.flatten() != IGNORE, counted) and expected.num_supervised > 10
    assert (found["labels"][:, 0] == IGNORE).all()
    for name, empty, theirs in [
        ("labels", IGNORE, torch.where(counted.view_as(labels), expected.labels, IGNORE)),
        ("weights", 0.0, expected.weights),
        ("roles", int(Role.PAD), expected.roles),
        ("groups", 0, expected.groups),
    ]:
        if theirs is not None:
            torch.testing.assert_close(shifted(found[name], empty), theirs)
    assert ("groups" in found) == (expected.groups is not None)
    torch.testing.assert_close(found["input_ids"], expected.tokens)
    assert found["row_ids"].tolist() == expected.ids and found["attention_mask"][:, 0].all()
    assert int(found["attention_mask"].sum()) >= expected.num_tokens


def test_held_out_rows_stay_those_of_the_first_epoch(data):
    collate = ReasoningCollator(data(Blur(ratio=0.5)), eval=data(Blur(ratio=0.5)))
    drawn = {name: [] for name in ("train", "eval")}
    for epoch in (0, 1):
        collate.set_epoch(epoch)
        for name, labels in drawn.items():
            labels.append(collate([collate.rows(name)[0]])["labels"])
    assert torch.equal(*drawn["eval"]) and not torch.equal(*drawn["train"])
    assert collate.rows()["length"] == np.asarray(collate.data["train"].rows.lengths).tolist()


class Ours(ReasoningTrainerMixin, Trainer):
    """As users write it."""


def trainer(folder, data, **settings):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = settings.pop("model", None) or LlamaForCausalLM(LlamaConfig(vocab_size=384, **sizes))
    more = {"report_to": [], "use_cpu": True, "max_steps": 1, "disable_tqdm": True, "per_device_eval_batch_size": 8}
    more |= settings.pop("args", {})
    kind = settings.pop("kind", TrainingArguments)
    return Ours(model, kind(str(folder), **more), train_dataset=data, **settings)


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
def test_evaluation_is_the_plain_loss_of_held_out_tokens(data, tmp_path):
    """Whatever the loss trained with; also of several sets by name."""
    weighed = data(ByRole(factors={"answer": 3.0}))
    one = trainer(tmp_path, data(), eval_dataset=weighed, loss=losses.dft())
    batch = one.collator([one.collator.rows("eval")[row] for row in range(8)])
    read = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    expected = one.model(**read).loss.item()
    assert one.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    two = trainer(tmp_path, data(), eval_dataset={"a": weighed, "b": data(Blur(ratio=1.0))}, loss=losses.dft())
    found = two.evaluate()
    assert found["eval_a_loss"] == pytest.approx(expected, rel=1e-5) != found["eval_b_loss"]


def llama_with(head):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=384, **sizes))
    model.lm_head = head
    return model


class Doubled(torch.nn.Linear):
    """Looks like a plain head, but its kind is another."""


def scaled():
    model = llama_with(torch.nn.Linear(16, 384, bias=False))
    forward = model.forward
    model.forward = lambda *args, **inputs: SimpleNamespace(logits=2 * forward(*args, **inputs).logits.tanh())
    return model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: llama_with(torch.nn.Linear(16, 384)), "fused: the head"),
        (lambda: llama_with(Doubled(16, 384, bias=False)), "fused: the head"),
        (scaled, "fused: the logits"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
def test_a_head_that_is_not_one_matrix_is_not_fused(data, tmp_path, make, said):
    with pytest.raises(UserError, match=said):
        trainer(tmp_path, data(), model=make(), fused=True).train()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": losses.asft()}, "needs a reference"),
        ({"loss": losses.dft(), "reference": torch.nn.Linear(1, 1)}, "takes no reference"),
        ({"loss": losses.sft(weight_rule=losses.GroupSoftmax(tau=1.0))}, "no transform makes any"),
        ({"loss": losses.psft()}, "old_logp"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_training(data, tmp_path, settings, said):
    with pytest.raises(UserError, match=said):
        trainer(tmp_path, data(), **settings)


OTHER_LOSSES = {
    **{"label_smoothing_factor": 0.1, "loss_type": "dft", "router_aux_loss_coef": 0.01, "use_liger_kernel": True},
    **{"packing": True, "eval_packing": True, "padding_free": True},
    **{"completion_only_loss": False, "assistant_only_loss": True},
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", NEUTRAL)
def test_a_setting_that_asks_for_another_loss_is_refused_by_name(data, tmp_path, name):
    """With the classes that have it, whose default is none of them."""
    assert getattr(SFTConfig(str(tmp_path), use_cpu=True, bf16=False), name) in NEUTRAL[name][0]
    kind = TrainingArguments if hasattr(TrainingArguments, name) else SFTConfig
    args = {name: OTHER_LOSSES[name], **({} if kind is TrainingArguments else {"bf16": False})}
    with pytest.raises(UserError, match=name):
        trainer(tmp_path, data(), kind=kind, args=args)


def test_other_ways_to_another_loss_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="compute_loss_func"):
        trainer(tmp_path, data(), compute_loss_func=losses.hf_loss(losses.dft()))
    one = trainer(tmp_path, data())
    refuse_divided_rows(one)
    for kind in ("tp", "cp", "sp"):
        divided = type("Divided", (Ours,), {f"get_{kind}_size": lambda self: 2})
        one.__class__ = divided
        with pytest.raises(UserError, match=f"parallelism_config: {kind}_size 2"):
            refuse_divided_rows(one)
