"""A loss as a component: one `Target` and its settings behind three ways in.

1. `loss(logits, labels)`: the mean over supervised tokens, the signature of a stock torchtune recipe.
2. `loss.fused(hidden, head, labels, weights, rows=, columns=, reference=)`: supervised rows through the head in chunks,
   used by our loop.
3. `loss.from_logits(logits, labels, weights, columns=, reference=)`: per token, from existing logits, for other
   trainers and notebooks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial, wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cot_components.errors import UserError, require
from cot_components.losses import checks
from cot_components.losses.fused import Job, RowLosses, fused, rows_of_logits, token_nll
from cot_components.losses.target import Floors, Target, asks, row_losses
from cot_components.losses.types import Head, LossOutput, Pairs, Reference, TopK
from cot_components.roles import IGNORE, Role

CPU_CHUNK_ROWS, GPU_CHUNK_ROWS = 256, 2048
"""A chunk's overhead is set by its rows, not by vocabulary or width: about 14 / rows on a CPU."""


@dataclass(frozen=True, eq=False)
class Loss:
    """A token loss, built by a preset or from your own `Target`.

    Args:
        target: the two pulls and the alternative. name: its name in errors.
        ignore_index: label of a target that is not supervised.
        floor: role name to the smallest pull of the observed token there; `{answer: 1.0}` is plain cross-entropy on the
            answer, where a pull such as p would mute tokens just when a curriculum makes them improbable.
        weight_rule: weights that depend on the current loss, `(nll, columns...) -> [n]`, on top of the batch's own;
            costs one more forward pass of the head.
        chunk_rows: rows per chunk; None is 256 on a CPU, 2048 on a GPU.
        per_token_grad: `objective` is `[n]`, so the caller may weight it again; the head's forward runs twice.
        compile_rows: whether the row function is compiled (torch.compile); None compiles on a GPU only.

    Raises:
        UserError: a floor for an unknown role or outside [0, 1]; a chunk below one row.
    """

    target: Target
    name: str = "loss"
    _: KW_ONLY
    ignore_index: int = IGNORE
    floor: Mapping[str, float] | None = None
    weight_rule: Callable[..., Tensor] | None = None
    chunk_rows: int | None = None
    per_token_grad: bool = False
    compile_rows: bool | None = None

    def __post_init__(self) -> None:
        if self.chunk_rows is not None:
            require("chunk_rows", self.chunk_rows, 1)
        for role, least in (self.floor or {}).items():
            if role.upper() not in Role.__members__:
                raise UserError(f"floor names the role '{role}'; roles are {', '.join(r.label for r in Role)}")
            require(f"floor of {role}", least, 0.0, 1.0)

    @property
    def floors(self) -> Floors:
        """`floor` as `(role, least pull)`, without those that are 0."""
        return tuple((int(Role[role.upper()]), least) for role, least in (self.floor or {}).items() if least > 0)

    @property
    def needs(self) -> tuple[str, ...]:
        """What it reads besides logits and labels: `reference`, and names of columns."""
        read = (*self.target.needs, *asks(self.weight_rule), *(("roles",) if self.floors else ()))
        return tuple(dict.fromkeys(name for name in read if name not in ("p", "nll", "logits")))

    @property
    def needs_reference(self) -> bool:
        """Whether it reads another model's distribution."""
        return "reference" in self.needs

    @property
    def whole_step(self) -> bool:
        """Whether its weight rule must see all tokens of an optimizer step at once."""
        return bool(getattr(self.weight_rule, "whole_step", False))

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the supervised tokens, fp32 scalar, 0 if there are none; logits `[..., V]`, labels `[...]` shifted.

        Raises:
            UserError: the loss needs more than logits and labels; shapes that do not fit; a label out of range.
        """
        if not isinstance(logits, Tensor):
            raise UserError(f"{self.name} takes the logits as one tensor, got a {type(logits).__name__}")
        hint = "; (logits, labels) alone cannot provide it: use loss.fused, or a recipe that does"
        checks.check_needs(self.name, self.needs, None, None, hint)
        labels = labels.flatten()
        values = self.from_logits(logits.flatten(0, -2), labels).objective
        return values.sum() / (labels != self.ignore_index).sum().clamp(min=1)

    def fused(
        self,
        hidden: Tensor,
        head: Head,
        labels: Tensor,
        weights: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        columns: Mapping[str, Tensor] | None = None,
        reference: Reference | None = None,
    ) -> LossOutput:
        """Sums over the supervised tokens, straight from hidden states; call it inside the FSDP root's forward.

        Args:
            hidden: `[N, d]`, after the final norm.
            head: weight `[V, d]`, or a function from hidden rows to pairs; weights that do not require grad get none.
            labels: int64 `[N]`, shifted: row i predicts `labels[i]`.
            weights: float `[N]`; None is ones.
            rows: int64 `[n]`, the supervised targets; their labels and weights are assumed to be checked. None finds
                and checks them here, which makes the host wait for the device.
            columns: name to `[N]`, about the target token.
            reference: `(hidden_ref [N, d_ref], head_ref)` or `TopK`.

        Raises:
            UserError: shapes, dtypes or vocabularies that do not fit; something in `needs` was not passed; a label or a
                weight out of range.
        """
        checks.check_batch(hidden, labels, weights, columns)
        checks.check_needs(self.name, self.needs, columns, reference)
        if rows is None:
            vocab_size = head.shape[0] if isinstance(head, Tensor) else None
            rows = checks.supervised_rows(labels, weights, ignore_index=self.ignore_index, vocab_size=vocab_size)
        pairs = pairs_of(head, hidden.index_select(0, rows))
        job = self._job(labels, weights, rows, columns, hidden.device)
        if reference is not None and self.needs_reference:
            job = replace(job, reference=_reference_of(reference, rows, len(labels), pairs[0][1].shape[0]))
        own_weights = job.weights
        if self.weight_rule is not None:
            job = self._reweigh(job, token_nll(_plain(job), pairs))
        objective, nll = fused(job, pairs, per_token=self.per_token_grad)
        return LossOutput(objective, (own_weights * nll).sum(), nll)

    def from_logits(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        *,
        columns: Mapping[str, Tensor] | None = None,
        reference: Tensor | TopK | None = None,
    ) -> LossOutput:
        """The same loss on logits `[N, V]`; `objective` is `[n]`, differentiable any number of times.

        `reference` is the reference's logits `[N, V]` or a `TopK`; everything else, errors included, as in `fused`.
        """
        checks.check_batch(logits, labels, weights, columns)
        checks.check_needs(self.name, self.needs, columns, reference)
        num_tokens, vocab_size = logits.shape
        rows = checks.supervised_rows(labels, weights, ignore_index=self.ignore_index, vocab_size=vocab_size)
        job = self._job(labels, weights, rows, columns, logits.device)
        if isinstance(reference, TopK):
            job = replace(job, reference=_reference_of(reference, rows, num_tokens, vocab_size))
        elif reference is not None:
            checks.check_tokens("the reference's logits", reference, num_tokens)
            checks.check_vocabulary(vocab_size, reference.shape[1])
            job = replace(job, reference=reference.detach().index_select(0, rows))
        own_weights = job.weights
        if self.weight_rule is not None:
            job = self._reweigh(job, rows_of_logits(_plain(job), logits.detach(), rows)[1])
        values, nll = rows_of_logits(job, logits, rows)
        return LossOutput(values, (own_weights * nll).sum(), nll)

    def _job(
        self,
        labels: Tensor,
        weights: Tensor | None,
        rows: Tensor,
        columns: Mapping[str, Tensor] | None,
        device: torch.device,
    ) -> Job:
        """Everything but head and reference, cut to the supervised rows."""
        one_each = torch.ones(len(rows), device=device)
        return Job(
            row_losses=self._row_losses(device),
            labels=labels.index_select(0, rows),
            weights=one_each if weights is None else weights.detach().index_select(0, rows).to(torch.float32),
            columns={name: (columns or {})[name].index_select(0, rows) for name in self.needs if name != "reference"},
            reference=None,
            chunk_rows=self.chunk_rows or (CPU_CHUNK_ROWS if device.type == "cpu" else GPU_CHUNK_ROWS),
        )

    def _reweigh(self, job: Job, nll: Tensor) -> Job:
        """The job with its weights multiplied by those of the weight rule at the current loss."""
        assert self.weight_rule is not None
        known = {**job.columns, "nll": nll}
        factor = self.weight_rule(**{name: known[name] for name in asks(self.weight_rule)})
        return replace(job, weights=job.weights * factor.detach())

    def _row_losses(self, device: torch.device) -> RowLosses:
        if not (device.type == "cuda" if self.compile_rows is None else self.compile_rows):
            return partial(row_losses, self.target, floors=self.floors)
        if self not in _COMPILED:
            _COMPILED[self] = torch.compile(partial(row_losses, self.target, floors=self.floors), fullgraph=True)
        return _COMPILED[self]


_COMPILED: WeakKeyDictionary[Loss, RowLosses] = WeakKeyDictionary()
"""Kept outside the component, which stays frozen and picklable."""


def _plain(job: Job) -> Job:
    """The same rows under plain negative log-likelihood, which is all a weight rule needs."""
    return replace(job, row_losses=partial(row_losses, Target(imitate=1.0)), columns={}, reference=None)


def pairs_of(head: Head, hidden_rows: Tensor) -> Pairs:
    """The head as pairs `[(x [n, d_i], W [V, d_i]), ...]`, logits `sum x W^T`, for hidden rows `[n, d]`.

    Args:
        head: a weight `[V, d]`, which makes one pair, or a function from hidden rows to pairs.
        hidden_rows: `[n, d]`, after the final norm.

    Raises:
        UserError: a head function that returns something else; see `checks.check_pairs`.
    """
    pairs = [(hidden_rows, head)] if isinstance(head, Tensor) else head(hidden_rows)
    if not isinstance(pairs, list) or not pairs:
        raise UserError(
            f"a head function returns pairs [(x, W), ...] with logits = sum x W^T, got {type(pairs).__name__}"
        )
    checks.check_pairs(pairs)
    return pairs


@torch.no_grad()
def _reference_of(reference: Reference, rows: Tensor, num_tokens: int, vocab_size: int) -> Pairs | TopK:
    """The reference's head pairs, or its top k, of the supervised rows."""
    if isinstance(reference, TopK):
        checks.check_topk(reference, num_tokens)
        return TopK(*(column.index_select(0, rows) for column in reference))
    hidden, head = reference
    checks.check_tokens("the reference's hidden states", hidden, num_tokens)
    pairs = pairs_of(head, hidden.index_select(0, rows))
    checks.check_vocabulary(vocab_size, pairs[0][1].shape[0])
    return pairs


def preset(build: Callable[..., Target]) -> Callable[..., Loss]:
    """Turn a function that builds a `Target` into a component that builds a `Loss` and also takes the settings of
    `Loss`.

    They are added to its signature, because configs are checked against signatures.

    Args:
        build: takes keyword settings; its name becomes the loss's name.
    """
    own = inspect.signature(build, eval_str=True)
    of_loss = [p for p in inspect.signature(Loss, eval_str=True).parameters.values() if p.kind is p.KEYWORD_ONLY]
    settings = {p.name for p in of_loss}

    @wraps(build)
    def component(**given: Any) -> Loss:
        target = build(**{key: value for key, value in given.items() if key not in settings})
        return Loss(target, build.__name__, **{key: value for key, value in given.items() if key in settings})

    parameters = [*own.parameters.values(), *of_loss]
    component.__signature__ = own.replace(parameters=parameters, return_annotation=Loss)  # type: ignore[attr-defined]
    component.__annotations__ = {**{p.name: p.annotation for p in parameters}, "return": Loss}
    return component
