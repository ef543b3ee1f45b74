"""The target family: every token loss here pulls toward two distributions. All the mathematics is here.

With `p` the student's probabilities, `e` the one-hot observed token and `r` an alternative distribution, all members
have the gradient

    dL/dz = imitate * (p - e) + follow * (p - r)  =  s * (p - M),    M = a * e + (1 - a) * r

so the scale is `s = imitate + follow`, and the mixture `M` gives the observed token the share `a = imitate / s`. The
induced target, which `induced_target` computes for any loss, is

    Q = p - dL/dz  =  p + imitate * (e - p) + follow * (r - p)  =  (1 - s) * p + s * M

It equals `M` only where `s` is 1. Where `s` is 0 (`gem`) there is no `M`, only `Q`. `Q` always sums to 1; its entries
can leave [0, 1] where `s` is above 1 or a pull is negative.

An alternative equal to `p` (the student itself) does not pull, so it needs no `r` and has `follow = 0`. `imitate`,
`follow` and `r` are computed from the detached model: the target must not move with the gradient. (Undetached, DFT
would push the observed token down wherever its probability is below 1/e.)

Rules (`imitate`, `follow`, `alternative`, `value`) are plain functions, and the names of their positional parameters
say what they read: `p` [n] probability of the observed token, `nll` [n] in nats, `logits` [n, V] up to a constant per
row, `reference` [n, V] logits of the reference model; any other name is a column of the batch, one value per target
token. Settings are keyword-only, bound with `functools.partial`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from cot_components.losses.types import TopK

Rule = Callable[..., Tensor]
Floors = tuple[tuple[int, float], ...]
"""`(role, floor)`: on that role the observed token pulls with at least `floor`, the alternative at most `1 - floor`."""


def asks(rule: object) -> tuple[str, ...]:
    """What a rule reads, by name: its positional parameters. A constant reads nothing."""
    if not callable(rule):
        return ()
    parameters = inspect.signature(rule).parameters.values()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """One member of the family.

    imitate:     pull to the observed token, a number or a rule giving `[n]`
    follow:      pull to the alternative, a number or a rule giving `[n]`
    alternative: rule giving the distribution `r`, `[n, V]` or broadcastable to it; None is the student itself
    divergence:  the alternative's published term, cross-entropy `ce(r, p)` or `kl(r, p)`; their gradient is one
    value:       rule giving the published value `[n]` where it is not `imitate * nll + follow * divergence`
    reads:       what each of the four rules reads, by field name; derived, not set
    """

    imitate: Rule | float
    follow: Rule | float = 0.0
    alternative: Rule | None = None
    divergence: Literal["ce", "kl"] = "ce"
    value: Rule | None = None
    reads: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        rules = {name: asks(getattr(self, name)) for name in ("imitate", "follow", "alternative", "value")}
        object.__setattr__(self, "reads", rules)

    @property
    def needs(self) -> tuple[str, ...]:
        """Everything its rules read, without repetition."""
        return tuple(dict.fromkeys(name for names in self.reads.values() for name in names))

    def apply(self, rule: str, known: Mapping[str, Tensor]) -> Any:
        """The value of one of its rules; a constant is returned unchanged."""
        function = getattr(self, rule)
        return function(**{name: known[name] for name in self.reads[rule]}) if callable(function) else function


def row_losses(
    target: Target,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    columns: Mapping[str, Tensor],
    reference: Tensor | TopK | None,
    *,
    floors: Floors = (),
    want_grad: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The row function shared by all entry points: values and logit gradients of `n` supervised tokens, without
    autograd.

    Args:
        target: the two pulls and the alternative.
        logits: `[n, V]`, overwritten; computed in fp32 whatever their dtype, or in float64 if they are.
        labels: int64 `[n]`, token ids; weights: float `[n]`.
        columns: name to `[n]`, at least those that the target's rules and the floors (`roles`) read.
        reference: logits `[n, V]` or `TopK` of the same rows; None where no rule reads it.
        floors: see `Floors`.
        want_grad: whether to compute the gradient as well.

    Returns:
        weight * published value `[n]`, nll in nats `[n]`, and weight * d value / d logits `[n, V]` in the dtype of
        `logits` (None unless wanted).
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    z = z.sub_(z.amax(-1, keepdim=True))
    index = labels[:, None]
    z_observed = z.gather(1, index).squeeze(1)
    observed_only = target.alternative is None and "logits" not in target.needs
    exp_z = z.exp_() if observed_only else z.exp()  # one buffer instead of two where no rule looks at the logits
    total = exp_z.sum(-1)
    nll = total.log() - z_observed
    known = {**columns, "p": torch.exp(-nll), "nll": nll, "logits": z}
    if reference is not None:
        known["reference"] = spread_tail(reference, z) if isinstance(reference, TopK) else reference.to(z.dtype)
    imitate, follow, r, value = _pulls(target, known, floors)
    if not want_grad:
        return value * weights, nll, None
    grad = exp_z.mul_(((imitate + follow) * weights / total)[:, None])
    if r is not None:
        grad = grad.sub_((follow * weights)[:, None] * r)
    grad = grad.scatter_add_(1, index, -(imitate * weights)[:, None])
    return value * weights, nll, grad if grad.dtype == logits.dtype else logits.copy_(grad)


def _pulls(target: Target, known: Mapping[str, Tensor], floors: Floors) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """`imitate [n]`, `follow [n]`, `r` and the published value `[n]`, after the floors."""
    nll = known["nll"]
    imitate = imitate_free = _column(target.apply("imitate", known), nll)
    follow = follow_free = _column(target.apply("follow", known), nll)
    for role, floor in floors:
        here = known["roles"] == role
        imitate = torch.where(here, imitate.clamp(min=floor), imitate)
        follow = torch.where(here, follow.clamp(floor - 1.0, 1.0 - floor), follow)
    value = imitate * nll
    r = target.apply("alternative", known)
    if r is not None:
        value = value + follow * _divergence(r, known, target.divergence)
    if target.value is not None:
        floored = (imitate != imitate_free) | (follow != follow_free)
        value = torch.where(floored, value, target.apply("value", known))
    return imitate, follow, r, value


def _column(pull: Tensor | float, like: Tensor) -> Tensor:
    """A pull as `[n]`, constant or not."""
    return pull if isinstance(pull, Tensor) else torch.full_like(like, pull)


def _divergence(r: Tensor, known: Mapping[str, Tensor], kind: str) -> Tensor:
    """Cross-entropy or KL divergence from `r` to the student, in nats, `[n]`."""
    z = known["logits"]
    r = r.expand_as(z)
    cross_entropy = torch.logsumexp(z, -1) - torch.linalg.vecdot(r, z)
    return cross_entropy if kind == "ce" else cross_entropy - torch.special.entr(r).sum(-1)


def spread_tail(top: TopK, logits: Tensor) -> Tensor:
    """Log-probabilities `[n, V]` of a reference known by its top k; the tail is spread as the student spreads it."""
    outside = torch.logsumexp(logits.scatter(1, top.ids, -torch.inf), -1)
    log_tail = top.tail.to(logits.dtype).clamp(min=torch.finfo(logits.dtype).tiny).log()
    return (logits + (log_tail - outside)[:, None]).scatter(1, top.ids, top.logp.to(logits.dtype))
