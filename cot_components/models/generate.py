"""Batched generation from the recipe's own model, with a KV cache that exists only during the call."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cot_components.errors import UserError
from cot_components.models.adapter import PADDING, check_token_id
from cot_components.models.kv_cache import KeyValues

if TYPE_CHECKING:
    from cot_components.evaluation.budget import Thought, ThoughtBudget

Choose = Callable[[Tensor, Sequence[int]], Tensor]
"""From next-token scores `[n, V]` of these `n` rows of a batch to the chosen tokens, `[n]`."""


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    pad_id: int,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    stops_per_answer: int = 1,
    budget: ThoughtBudget | None = None,
    between_batches: Callable[[], None] | None = None,
    after_batch: Callable[[int], object] = lambda num_prompts: None,
) -> list[list[int]]:
    """Continue each prompt until a stop token; prompts of similar length are decoded together.

    The order of the prompts makes no difference: which prompts share a batch depends only on the set of prompts, and
    random draws depend on `seed`, the prompt itself and its number in `samples`.

    Args:
        model: a model that went through `adapt`.
        prompts: token ids, not empty.
        max_new_tokens: at most this many new tokens per prompt.
        stop_ids: ids that end a completion; the last stop token is not part of the result.
        pad_id: left padding; never attended to.
        temperature: 0 is greedy; otherwise softmax sampling at this temperature.
        batch_size: prompts decoded together.
        seed: seed of the sampling.
        samples: number of each prompt among the completions of the same prompt; by default equal prompts are numbered
            in order.
        stops_per_answer: number of stop tokens after which a completion ends.
        budget: closes thoughts that are too long; None sets no limit. Draws are made, and discarded, for the tag tokens
            it writes, so up to there a completion equals the one without a budget.
        between_batches: called before each batch; an exception from it ends the generation.
        after_batch: called with the number of prompts of each batch.

    Returns:
        New token ids per prompt, in the order of `prompts`.

    Raises:
        UserError: an empty prompt, a prompt that leaves no room in the model's context, a token id the model does not
            have.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise UserError("cannot generate from an empty prompt")
    check_token_id(model, max((max(prompt) for prompt in prompts), default=0), "a prompt")
    check_token_id(model, pad_id, PADDING)
    numbers = _occurrences(prompts) if samples is None else samples
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), tuple(prompts[i]), numbers[i]))
    completions: list[list[int]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    stops = set(stop_ids)
    was_training = model.training
    model.eval()
    try:
        for chosen in _together(
            [len(prompts[i]) for i in order], order, batch_size, model.max_seq_len - max_new_tokens
        ):
            if between_batches is not None:
                between_batches()
            streams = [random_stream(seed, prompts[i], numbers[i]) for i in chosen] if temperature else []
            choose = _sampler(temperature, streams, device)
            if budget is not None:
                choose = _closing(choose, [budget.thought(i) for i in chosen])
            new = _decode(model, [prompts[i] for i in chosen], max_new_tokens, stops, stops_per_answer, pad_id, choose)
            for index, ids in zip(chosen, new, strict=True):
                completions[index] = _until_stop(ids, stops, stops_per_answer)
            after_batch(len(chosen))
    finally:
        model.train(was_training)
    return completions


def _together(lengths: Sequence[int], order: Sequence[int], batch_size: int, room: int) -> Iterator[list[int]]:
    """Batches of `order`, whose prompts have ascending `lengths`. A prompt longer than `room`, whose completion the
    context cuts, is batched only with prompts of equal length: a longer one would cut it even earlier.
    """
    batch: list[int] = []
    before = 0
    for length, index in zip(lengths, order, strict=True):
        if batch and (len(batch) == batch_size or (length > room and length != before)):
            yield batch
            batch = []
        batch.append(index)
        before = length
    if batch:
        yield batch


def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Collection[int],
    stops_per_answer: int,
    pad_id: int,
    choose: Choose,
) -> list[list[int]]:
    """One batch, not cut at stop tokens; finished rows are dropped as soon as half of the batch has finished.

    A shorter prompt is padded on the left, and its positions start at its first token.
    """
    parameter = next(model.parameters())
    device, longest = parameter.device, max(len(prompt) for prompt in prompts)
    slots = min(longest + max_new_tokens, model.max_seq_len)
    if longest >= slots:
        raise UserError(f"a prompt of {longest} tokens leaves no room in a context of {model.max_seq_len}")
    padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    tokens = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=device)
    cache = getattr(model, "key_values", KeyValues)(padding, slots, parameter.dtype)
    written: list[list[int]] = [[] for _ in prompts]
    stops, rows = [stops_per_answer] * len(prompts), list(range(len(prompts)))
    for _ in range(min(max_new_tokens, slots - longest + 1)):
        positions = cache.advance(tokens.shape[1])
        chosen = choose(model.next_logits(tokens, mask=cache, input_pos=positions), rows)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            written[row].append(token)
            stops[row] -= token in stop_ids
        tokens, going = chosen[:, None], [index for index, row in enumerate(rows) if stops[row] > 0]
        if not going:
            break
        if len(going) <= len(rows) // 2:
            kept = torch.tensor(going, device=device)
            cache.keep(kept)
            tokens, rows = tokens[kept], [rows[index] for index in going]
    return written


def random_stream(seed: int, prompt: Sequence[int], number: int) -> np.random.Generator:
    """The random numbers of one completion: a function of the seed, the prompt and its number alone."""
    key = np.array([seed, number, *prompt], dtype=np.int64).tobytes()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.blake2b(key, digest_size=16).digest())))


def _occurrences(prompts: Sequence[Sequence[int]]) -> list[int]:
    """How many equal prompts come before each."""
    seen: Counter[tuple[int, ...]] = Counter()
    numbers = []
    for prompt in map(tuple, prompts):
        numbers.append(seen[prompt])
        seen[prompt] += 1
    return numbers


def _sampler(temperature: float, streams: Sequence[np.random.Generator], device: torch.device) -> Choose:
    """Greedy without a temperature; else inverse-CDF sampling with one uniform number from each row's own stream."""

    def choose(scores: Tensor, rows: Sequence[int]) -> Tensor:
        if temperature == 0.0:
            return scores.argmax(dim=-1)
        up_to = torch.softmax(scores.float() / temperature, dim=-1).double().cumsum(dim=-1)
        drawn = torch.tensor([[streams[row].random()] for row in rows], dtype=torch.float64).to(device)
        return torch.searchsorted(up_to, drawn * up_to[:, -1:], right=True).squeeze(1).clamp(max=scores.shape[-1] - 1)

    return choose


def _closing(choose: Choose, thoughts: Sequence[Thought]) -> Choose:
    """`choose`, except where a close tag has to be written."""

    def write(scores: Tensor, rows: Sequence[int]) -> Tensor:
        chosen = choose(scores, rows).tolist()
        written = [thoughts[row].write(token) for row, token in zip(rows, chosen, strict=True)]
        return torch.tensor(written, device=scores.device)

    return write


@dataclass
class Decoder:
    """`generate` with one model, in the form evaluations call: `(new ids, was_cut)` per prompt. See `decode_with`."""

    model: Any
    between_batches: Callable[[], None] | None = None
    progress: bool = False
    new_tokens: int = 0
    seconds: float = 0.0

    def __call__(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **how: Any
    ) -> list[tuple[list[int], bool]]:
        began = time.perf_counter()
        with tqdm(
            total=len(prompts), desc="answers", unit="answer", leave=False, disable=None if self.progress else True
        ) as bar:
            how |= {"between_batches": self.between_batches, "after_batch": bar.update}
            found = generate(self.model, prompts, max_new_tokens=max_new_tokens, **how)
        self.seconds += time.perf_counter() - began
        self.new_tokens += sum(map(len, found))
        return [(new, was_cut(self.model, ids, new, max_new_tokens)) for ids, new in zip(prompts, found, strict=True)]

    def speed(self) -> dict[str, float]:
        """Log values for all answers so far: new tokens per second, on this process."""
        return {"answer_tokens_per_second": self.new_tokens / self.seconds} if self.new_tokens else {}


def decode_with(model: Any, between_batches: Callable[[], None] | None = None, *, progress: bool = False) -> Decoder:
    """A `Decoder` for a model.

    Args:
        model: a model that went through `adapt`.
        between_batches: see `generate`.
        progress: whether to show a progress bar.
    """
    return Decoder(model, between_batches, progress)


def was_cut(model: Any, prompt: Sequence[int], new: Sequence[int], max_new_tokens: int) -> bool:
    """Whether a completion of `generate` ended for lack of room, not at a stop token."""
    return len(new) > 0 and (len(new) >= max_new_tokens or len(prompt) + len(new) > model.max_seq_len)


def _until_stop(ids: list[int], stop_ids: set[int], stops_per_answer: int) -> list[int]:
    stops = [index for index, token in enumerate(ids) if token in stop_ids]
    return ids[: stops[stops_per_answer - 1]] if len(stops) >= stops_per_answer else ids
