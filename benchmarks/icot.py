"""One training step of stepwise internalisation: ours against GPT-2 of `transformers` in the released script's style.

The peer pads the batch first, removes the thought tokens row by row, runs every position through the head, and takes
the mean cross-entropy. Ours removes tokens before padding and runs only supervised positions through the head. Same
weights, same rows, dropout 0, the same clipping and the same fused AdamW; the losses are compared first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.measure import seconds
from benchmarks.report import Row
from benchmarks.surgery import remove_row_by_row
from cot_components.clock import Clock
from cot_components.data.generated.multiplication import draw_operands, multiplication_rows
from cot_components.data.rows.batches import Batches, pad
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.losses import sft
from cot_components.models.adapter import adapt
from cot_components.models.families.gpt2 import FAMILY, gpt2
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.roles import IGNORE
from cot_components.schedules import Schedule
from cot_components.transforms.remove import Remove

GATE = {"cpu": 1 / 1.8, "cuda": 1 / 4}
NUM_BATCHES = 2  # steps per round
PEER = "transformers, row by row"


class Case(NamedTuple):
    """Model, rows and stage of one comparison.

    name, vocab_size, embed_dim: of a model of two layers and four heads
    num_digits, batch_size:      of the rows
    stage:                       thought tokens removed from every row before its offset
    gated:                       whether the gate applies
    """

    name: str
    vocab_size: int
    embed_dim: int
    num_digits: int
    batch_size: int
    stage: int
    gated: bool


WIDTH_128, WIDTH_768, QUICKSTART = "width 128, 50,257 ids", "width 768, 50,257 ids", "width 64, 290 ids"
CASES = [
    *(Case(f"{WIDTH_128}, 3x3, {n} of 25 removed", 50_257, 128, 3, 32, n, True) for n in (0, 12, 25)),
    Case(f"{WIDTH_768}, 4x4, 47 of 47 removed", 50_257, 768, 4, 16, 47, False),
    *(Case(f"{QUICKSTART}, 2x2, {n} of 9 removed", 290, 64, 2, 128, n, False) for n in (0, 4, 9)),
]
"""Two layers and four heads each: a small model with GPT-2's tokenizer, the published from-scratch model, and that of
`icot_sft/quickstart`, whose tokenizer is so small that the head costs nothing: there, only surgery and padding can
be saved."""
TINY = Case("width 16, 2x2, 4 of 9 removed", 290, 16, 2, 4, 4, True)


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    """Milliseconds per step of each case."""
    for case in CASES if size != "tiny" else [TINY]:
        sizes = {"num_layers": 2, "num_heads": 4, "max_seq_len": 128, "dropout": 0.0}
        model = adapt(gpt2(vocab_size=case.vocab_size, embed_dim=case.embed_dim, **sizes).to(device))
        ours, theirs = steps(model, transformers_model(model).to(device), case, device)
        check_equal(ours(update=False), theirs(update=False))
        taken = seconds({"ours": ours, "peer": theirs}, device, rounds=4 if case.gated else 1, warm=True)
        values = (1e3 * taken[name] / NUM_BATCHES for name in ("ours", "peer"))
        yield Row(f"step, {case.name}", PEER, "ms", *values, GATE[device] if case.gated else None)


def transformers_model(model: Any) -> Any:
    """The same weights in `transformers`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    peer = GPT2LMHeadModel(GPT2Config(**FAMILY.describe(model)))
    peer.load_state_dict(FAMILY.to_hub(model.state_dict(), model), strict=False)
    return peer.train()


def steps(model: Any, peer: Any, case: Case, device: str) -> tuple[Callable, Callable]:
    """A few steps of ours and of the peer on the same rows; each returns its last loss, mean over supervised tokens."""
    chat, clock = ICoTFormat(compact_tokenizer().text), Clock(0, 0)
    encoded = multiplication_rows(*draw_operands(case.num_digits, NUM_BATCHES * case.batch_size), chat)
    remove = Remove(schedule=Schedule(ticks_per_epoch=1, per_epoch=0, start=case.stage), smoothing=4.0)
    batches = Batches(encoded, {"remove": remove}, pad_id=chat.stop_ids[0])
    indices = np.arange(NUM_BATCHES * case.batch_size).reshape(NUM_BATCHES, -1)
    loss = sft().fused
    our_optimizer, their_optimizer = (torch.optim.AdamW(m.parameters(), lr=5e-5, fused=True) for m in (model, peer))

    def finish(m: nn.Module, optimizer: torch.optim.Optimizer, objective: torch.Tensor, update: bool) -> float:
        objective.backward()
        if update:
            torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return objective.item()

    def ours(*, update: bool = True) -> float:
        for chosen in indices:
            batch = batches.batch(chosen.tolist(), clock).to(torch.device(device))
            value = finish(model, our_optimizer, model.loss(loss, batch).objective / batch.num_supervised, update)
        return value

    padded = [pad(encoded.flat(chosen), pad_id=chat.stop_ids[0]).tokens for chosen in indices]
    labels = [torch.from_numpy(encoded.flat(chosen).labels).view(padded[0].shape) for chosen in indices]

    def theirs(*, update: bool = True) -> float:
        for chosen, tokens, targets in zip(indices, padded, labels, strict=True):
            amounts = torch.from_numpy(remove.amounts(encoded.ids[chosen], clock)).to(device)
            cut = remove_row_by_row(tokens.to(device), targets.to(device), amounts, chat.stop_ids[0])
            logits = peer(input_ids=cut.tokens).logits[:, :-1].contiguous()
            flat = logits.view(-1, logits.shape[-1]), cut.labels[:, 1:].contiguous().view(-1)
            value = finish(peer, their_optimizer, nn.functional.cross_entropy(*flat, ignore_index=IGNORE), update)
        return value

    return ours, theirs


def check_equal(ours: float, theirs: float) -> None:
    """Check that both sides compute the same loss."""
    assert abs(ours - theirs) < 1e-4 * abs(theirs), (ours, theirs)
