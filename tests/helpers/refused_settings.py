"""Losses, transforms and curricula that are given what they refuse; each case takes an empty folder."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from rows import random_store

from cot_components import losses
from cot_components.clock import Clock
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.selection import Selection, select_rows
from cot_components.datasets import build_selectors, reasoning_dataset
from cot_components.huggingface import ReasoningCollator, ReasoningTrainerMixin
from cot_components.huggingface.settings import refuse_divided_rows
from cot_components.losses import GroupShares, GroupSoftmax, TopK
from cot_components.losses.topk_store import TopKStore, TopKWriter
from cot_components.models import hf_tokenizer
from cot_components.models.lora import Lora, add_adapters
from cot_components.models.tiny import tiny_llama
from cot_components.schedules import Anneal, Schedule, check_finishes
from cot_components.selectors import GRAPE, AtRandom, PerplexityBand, PoFT, QTuning
from cot_components.trainable import CoFiTune, Half, Only, weights_of
from cot_components.training.trained import TrainedWeights
from cot_components.transforms import Blur, ByGroup, ByPattern, ByRole, Cap, Released, Threshold
from cot_components.transforms import QTuning as Tokens
from cot_components.transforms.remove import Remove

NAN, INF = float("nan"), float("inf")
N, D, V = 5, 4, 7
LABELS = torch.arange(N)
ONCE = Schedule(ticks_per_epoch=1)


def fused(loss: losses.Loss, **changed) -> None:
    batch = {"hidden": torch.ones(N, D), "head": torch.ones(V, D), "labels": LABELS}
    loss.fused(**(batch | changed))


def store(at: Path, **changed) -> None:
    facts = {"vocab_size": 30, "tokenizer": "tok-1", "data": "data-1"}
    writer = TopKWriter(at, k=5, **facts)
    writer.add(7, torch.ones(4, 30))
    writer.flush()
    TopKStore(at, **(facts | changed)).lookup(np.array([4]), np.array([1]))


BLURRED = {"_component_": "cot_components.transforms.Blur"}
RISING = {"_component_": "cot_components.curriculum.Anneal", "first": 0.0, "last": 1.0, "num_steps": 3}


def rows(at: Path, source: object = "generated", **transforms) -> ReasoningDataset:
    tokenizer = hf_tokenizer(str(write_byte_tokenizer(at)))
    return reasoning_dataset(tokenizer, source=source, max_rows=2, transforms=transforms)


class Loop:
    """What our mixin needs of a trainer."""

    def __init__(self, model: object, args: object, **more) -> None:
        self.model, self.args, self.accelerator = model, args, SimpleNamespace(num_processes=1)

    def add_callback(self, callback: object) -> None: ...


class Ours(ReasoningTrainerMixin, Loop):
    """In front of it."""


def trainer(at: Path, args: dict[str, object] | None = None, **settings) -> Ours:
    head = torch.nn.Linear(D, V)
    model = SimpleNamespace(training=True, get_output_embeddings=lambda: head)
    given = SimpleNamespace(gradient_accumulation_steps=1, **(args or {}))
    return Ours(model, given, train_dataset=rows(at), **settings)


def fused_step(at: Path) -> None:
    made = trainer(at, fused=True)
    made.compute_loss(made.model, made.collator([made.collator.rows()[0]]))


def scores(at: Path) -> str:
    """A folder with the columns `nll` and `entropy` of three rows."""
    columns = {name: Column("m") for name in ("nll", "entropy")}
    score_rows(random_store(3), lambda f: dict.fromkeys(columns, f.tokens * 1.0), at, columns=columns, tokenizer="t")
    return str(at)


def chosen(trainable: Only | CoFiTune) -> None:
    trainable.choose(weights_of(tiny_llama(60)), 0)


def tiny_adapted() -> torch.nn.Module:
    model = tiny_llama(60)
    add_adapters(model, Lora(rank=2))
    return model


LOSSES = [
    lambda at: fused(losses.sft(), hidden=torch.ones(1, N, D)),
    lambda at: fused(losses.sft(), labels=torch.arange(4)),
    lambda at: fused(losses.sft(), weights=torch.ones(6)),
    lambda at: fused(losses.sft(), columns={"roles": torch.ones(2)}),
    lambda at: fused(losses.sft(), head=torch.ones(V, D + 1)),
    lambda at: fused(losses.sft(), head=torch.ones(V, D).bfloat16()),
    lambda at: fused(losses.sft(), head=lambda h: h),
    lambda at: fused(losses.sft(), head=lambda h: [(h, torch.ones(V, D)), (h, torch.ones(V + 1, D))]),
    lambda at: fused(losses.sft(), labels=torch.tensor([0, 1, 7, 2, 3])),
    lambda at: fused(losses.sft(), labels=torch.tensor([0, -1, 6, 2, 3])),
    lambda at: fused(losses.sft(ignore_index=-1), labels=torch.full((N,), -100)),
    lambda at: fused(losses.sft(), weights=torch.tensor([1, 1, -0.5, 1, 1])),
    lambda at: fused(losses.sft(), weights=torch.tensor([1, NAN, 1, 1, 1])),
    lambda at: fused(losses.sft(), weights=torch.tensor([1, 1, 1, 1, 1e9])),
    lambda at: fused(losses.distill()),
    lambda at: fused(losses.psft()),
    lambda at: fused(losses.dft(floor={"answer": 1.0})),
    lambda at: fused(losses.sft(weight_rule=GroupSoftmax(tau=1)), columns={"sample": torch.zeros(N)}),
    lambda at: fused(losses.distill(), reference=(torch.ones(N, D), torch.ones(V + 2, D))),
    lambda at: fused(losses.distill(), reference=(torch.ones(N - 1, D), torch.ones(V, D))),
    lambda at: fused(losses.distill(), reference=TopK(torch.zeros(N, 3).long(), torch.zeros(N, 2), torch.zeros(N))),
    lambda at: losses.distill().from_logits(torch.ones(N, V), LABELS, reference=torch.ones(N, V + 1)),
    lambda at: losses.distill().from_logits(torch.ones(N, V), LABELS, reference=torch.ones(N + 1, V)),
    lambda at: losses.asft()(torch.ones(N, V), LABELS),
    lambda at: losses.psft()(torch.ones(N, V), LABELS),
    lambda at: losses.dft()([torch.ones(N, V)], LABELS),
    lambda at: losses.target_sft(eta=1.2),
    lambda at: losses.target_sft(eta=NAN),
    lambda at: losses.label_smoothing(smoothing=-0.1),
    lambda at: losses.beyond_log(exponent=0.0),
    lambda at: losses.profit(threshold=2.0),
    lambda at: losses.eaft(k=1),
    lambda at: losses.otr(temperature=0.0),
    lambda at: losses.asft(kl_weight=-1.0),
    lambda at: losses.sft_kl(kl_weight=INF),
    lambda at: losses.hybrid_distill(teacher_weight=1.1),
    lambda at: losses.psft(epsilon=-0.1),
    lambda at: losses.gem(beta=0.0),
    lambda at: losses.sft(chunk_rows=0),
    lambda at: losses.dft(floor={"anwser": 1.0}),
    lambda at: losses.dft(floor={"answer": 1.5}),
    lambda at: GroupSoftmax(tau=0),
    lambda at: GroupSoftmax(tau=1, num_groups=0),
    lambda at: GroupSoftmax(tau=1, reduce="max"),
    lambda at: GroupSoftmax(tau=1, group_by="rank"),
    lambda at: GroupShares(shares=[-1.0, 2.0]),
    lambda at: GroupShares(shares=[0.0, 0.0]),
    lambda at: GroupShares(shares=[]),
    lambda at: TopKStore(at / "nowhere", vocab_size=30, tokenizer="t", data="d"),
    lambda at: TopKWriter("/proc/store", k=5, vocab_size=30, tokenizer="t", data="d"),
    lambda at: TopKWriter(at, k=31, vocab_size=30, tokenizer="t", data="d"),
    lambda at: store(at),
    lambda at: store(at, tokenizer="tok-2"),
    lambda at: store(at, data="data-2"),
    lambda at: store(at, vocab_size=31),
]
TRANSFORMS = [
    lambda at: Blur(ratio=1.5),
    lambda at: Blur(ratio=-0.1),
    lambda at: Blur(ratio=Anneal(first=0.0, last=1.5, num_steps=3)),
    lambda at: Blur(ratio=Anneal(first=1.1, last=0.5, num_steps=3)),
    lambda at: Blur(span_length=0),
    lambda at: Blur(keep_first=-1),
    lambda at: Blur(granularity="word"),
    lambda at: Blur(redraw="never"),
    lambda at: Blur(ratio=lambda clock: 20.0)(SimpleNamespace(roles=np.full(9, 3)), Clock(0, 3)),
    lambda at: Released(ratio=3.0),
    lambda at: Released(header_tokens=-1),
    lambda at: Released(seed=2**64),
    lambda at: Cap(max_tokens=0),
    lambda at: Cap(max_tokens=3, scope="all"),
    lambda at: Remove(schedule=ONCE, side="middle"),
    lambda at: Remove(schedule=ONCE, unit="word"),
    lambda at: Remove(schedule=ONCE, unit="step"),
    lambda at: Remove(schedule=ONCE, smoothing=0.0),
    lambda at: Remove(schedule=ONCE, seed=2**63),
    lambda at: Remove(schedule=ONCE, seed=-1),
    lambda at: ByGroup(boilerplate=-1),
    lambda at: ByGroup(reasoning=INF),
    lambda at: ByRole({"thought": None}),
    lambda at: ByRole({"thought": "0.5"}),
    lambda at: ByRole({"call": NAN}),
    lambda at: ByRole({"thought": -1.0}),
    lambda at: ByRole({"thougt": 1}),
    lambda at: ByRole({2: 0.5}),
    lambda at: ByRole({"prompt": 2}),
    lambda at: ByRole({"observation": 2}),
    lambda at: ByRole({"pad": 2}),
    lambda at: ByPattern(tokenizer=None),
    lambda at: ByPattern(tokenizer="/a/path"),
    lambda at: ByPattern(tokenizer=str, patterns=[1]),
    lambda at: ByPattern(tokenizer=str, patterns="abc"),
    lambda at: ByPattern(tokenizer=str, patterns=[]),
    lambda at: ByPattern(tokenizer=str, patterns=["("]),
]
TRANSFORMS += [
    lambda at: Threshold(scores=scores(at)),
    lambda at: Threshold(scores=scores(at), keep=0.2, value=1.0),
    lambda at: Threshold(scores=scores(at), keep=1.2),
    lambda at: Threshold(scores=scores(at), value=INF),
    lambda at: Threshold(scores=scores(at), keep=0.2, side="top"),
    lambda at: Threshold(scores=scores(at), keep=0.2, factor=-1),
    lambda at: Threshold(scores=scores(at), keep=0.2, column="entrpy"),
    lambda at: Tokens(scores=scores(at), keep_rows=0),
    lambda at: Tokens(scores=scores(at), keep_tokens=1.5),
    lambda at: Tokens(scores=scores(at), smoothing=-0.1),
]
SELECTORS = [
    lambda at: GRAPE(scores=str(at)),
    lambda at: GRAPE(scores=scores(at), column="nl"),
    lambda at: GRAPE(scores=scores(at), keep=0),
    lambda at: GRAPE(scores=scores(at), by="median"),
    lambda at: AtRandom(),
    lambda at: AtRandom(keep=0.0),
    lambda at: AtRandom(per_prompt=0),
    lambda at: AtRandom(keep=0.5, seed=-1),
    lambda at: PerplexityBand(scores=scores(at)),
    lambda at: PerplexityBand(scores=scores(at), at_least=2.0, at_most=1.0),
    lambda at: PerplexityBand(scores=scores(at), at_least=1.5, quantiles=True),
    lambda at: PoFT(scores=scores(at), aligned="teacher_nll"),
    lambda at: PoFT(scores=scores(at), aligned=["teacher_nll"]),
    lambda at: QTuning(scores=scores(at), keep=0),
    lambda at: QTuning(scores=scores(at), entropy="entropi"),
    lambda at: select_rows(random_store(9), {"fit": GRAPE(scores=scores(at))}),
    lambda at: select_rows(random_store(3, seed=1), {"plane": QTuning(scores=scores(at))}),
    lambda at: select_rows(random_store(3), {"band": PerplexityBand(scores=scores(at), at_most=1.0)}),
    lambda at: select_rows(random_store(3), {"mine": lambda rows: rows.lengths > 4}),
    lambda at: select_rows(random_store(3), {"mine": lambda rows: Selection({"odd": np.ones(2, dtype=bool)})}),
    lambda at: select_rows(random_store(3), {"mine": lambda rows: Selection(factors=np.array([1.0, NAN, 1.0]))}),
    lambda at: build_selectors({"fit": {"_component_": "cot_components.selectors.GRAP"}}),
    lambda at: build_selectors({"fit": {"scores": "x"}}),
]
CURRICULUM = [
    lambda at: Schedule(ticks_per_epoch=0),
    lambda at: Schedule(ticks_per_epoch=10, per_epoch=-1),
    lambda at: Schedule(ticks_per_epoch=10, per_epoch=INF),
    lambda at: Schedule(ticks_per_epoch=10, per_epoch=NAN),
    lambda at: Schedule(ticks_per_epoch=10, per_epoch=1e-7),
    lambda at: Schedule(ticks_per_epoch=10, start=-1),
    lambda at: Schedule(ticks_per_epoch=10, start=2**70),
    lambda at: Schedule(ticks_per_epoch=10, start="everything"),
    lambda at: Schedule(ticks_per_epoch=10, pretrain_epochs=-1),
    lambda at: Schedule(ticks_per_epoch=10, remove_all_from=0),
    lambda at: Schedule(ticks_per_epoch=10, pace="slow"),
    lambda at: Schedule(ticks_per_epoch=10, pace="rounded", per_epoch=30),
    lambda at: check_finishes(Schedule(ticks_per_epoch=10, per_epoch=8), longest=47, epochs=5),
    lambda at: check_finishes(Schedule(ticks_per_epoch=10, per_epoch=0), longest=47, epochs=99),
    lambda at: Anneal(first=1.0, last=0.0, num_steps=0),
    lambda at: Anneal(first=NAN, last=0.0, num_steps=3),
    lambda at: Anneal(first=-0.1, last=0.0, num_steps=3),
]
HUGGING_FACE = [
    lambda at: ReasoningCollator(rows(at, blur={**BLURRED, "ratio": RISING})),
    lambda at: ReasoningCollator(rows(at, source={"a": {"source": "generated", "weight": 2}})),
    lambda at: ReasoningCollator(rows(at), train=rows(at)),
    lambda at: trainer(at, loss=losses.asft(), reference="teacher"),
    lambda at: fused_step(at),
    lambda at: trainer(at, {"label_smoothing_factor": 0.1}),
    lambda at: trainer(at, {"loss_type": "dft"}),
    lambda at: trainer(at, {"router_aux_loss_coef": 0.01}),
    lambda at: trainer(at, {"use_liger_kernel": True}),
    lambda at: trainer(at, {"packing": True}),
    lambda at: trainer(at, {"completion_only_loss": False}),
    lambda at: trainer(at, {"world_size": 2, "average_tokens_across_devices": False}),
    lambda at: trainer(at, compute_loss_func=losses.hf_loss(losses.sft())),
    lambda at: refuse_divided_rows(SimpleNamespace(get_cp_size=lambda: 2)),
]
TRAINABLE = [
    lambda at: Only(layers=[8]),
    lambda at: Only(layers=[3, 2]),
    lambda at: Only(kinds=[]),
    lambda at: Half(redraw=0),
    lambda at: chosen(Only(kinds=["q_proj", "dwon_proj"])),
    lambda at: chosen(Only(kinds="embed_tokens", layers=[0, 1])),
    lambda at: chosen(Only(layers=[1, 2])),
    lambda at: chosen(CoFiTune(kinds=["c_fc"])),
    lambda at: TrainedWeights(Half(), tiny_adapted(), plans=None),
]
