"""Published token losses as members of the target family: two pulls, an alternative, and the value the paper prints.

`loss._component_=cot_components.losses.dft` names one in a config, of a stock torchtune recipe or of this project.
Besides its own settings each takes those of `Loss` (`floor`, `weight_rule`, `chunk_rows`, ...).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from cot_components.losses.checks import require
from cot_components.losses.loss import preset
from cot_components.losses.target import Target

# Pulls: [n] from the observed token's probability `p`, or from the logits.


def probability(p: Tensor) -> Tensor:
    return p


def power(p: Tensor, *, exponent: float) -> Tensor:
    return p**exponent


def uncertainty(p: Tensor) -> Tensor:
    return p * (1.0 - p)


def doubt(p: Tensor) -> Tensor:
    return 1.0 - p


def above(p: Tensor, *, threshold: float) -> Tensor:
    return (p > threshold).to(p.dtype)


def top_entropy(logits: Tensor, *, k: int) -> Tensor:
    """Entropy of the k most likely tokens, renormalised to sum to 1, over its maximum log k."""
    k = min(k, logits.shape[-1])
    return torch.special.entr(logits.topk(k, dim=-1).values.softmax(-1)).sum(-1) / math.log(k)


def tempered_probability(nll: Tensor, logits: Tensor, *, temperature: float, factor: float) -> Tensor:
    """Probability of the observed token at another temperature, times `factor`."""
    observed = -nll + torch.logsumexp(logits, -1)
    return factor * torch.exp(observed / temperature - torch.logsumexp(logits / temperature, -1))


def unclipped_ratio(p: Tensor, old_logp: Tensor, *, epsilon: float) -> Tensor:
    """p / p_old while it is at most 1 + epsilon, else 0."""
    ratio = p * torch.exp(-old_logp)
    return torch.where(ratio <= 1.0 + epsilon, ratio, 0.0)


# Alternatives: distributions [n, V], or broadcastable to it.


def uniform(logits: Tensor) -> Tensor:
    return logits.new_full((1, 1), 1.0 / logits.shape[-1])


def other_model(reference: Tensor) -> Tensor:
    return reference.softmax(-1)


def tempered(logits: Tensor, *, temperature: float) -> Tensor:
    return (logits / temperature).softmax(-1)


def guided(logits: Tensor, reference: Tensor, *, eta: float) -> Tensor:
    """Geometric mixture p^(1 - eta) * reference^eta, normalised; raw logits will do, their normalisers cancel."""
    return torch.lerp(logits, reference, eta).softmax(-1)


# Published values that are not imitate * nll + follow * divergence.


def beyond_log_value(p: Tensor, *, exponent: float) -> Tensor:
    return (1.0 - p**exponent) / exponent


def clipped_ratio_value(p: Tensor, old_logp: Tensor, *, epsilon: float) -> Tensor:
    return -(p * torch.exp(-old_logp)).clamp(max=1.0 + epsilon)


# Presets.


@preset
def sft() -> Target:
    """Plain supervised fine-tuning: negative log-likelihood; Q is the observed token."""
    return Target(imitate=1.0)


@preset
def label_smoothing(*, smoothing: float = 0.1) -> Target:
    """(1 - l) * nll + l * CE(uniform, p); the uniform part includes the observed token."""
    require("smoothing", smoothing, 0.0, 1.0)
    return Target(imitate=1.0 - smoothing, follow=smoothing, alternative=uniform)


@preset
def dft() -> Target:
    """Dynamic fine-tuning, arXiv 2508.05629: p * nll, p detached.

    A token's value is at most 1/e, so learning rates and clipping norms found for SFT mean something else here.
    """
    return Target(imitate=probability)


@preset
def beyond_log(*, exponent: float = 1.0) -> Target:
    """(1 - p^a) / a: nll as a goes to 0, and the gradient of DFT at a = 1."""
    require("exponent", exponent, 0.0, above=True)
    rule = partial(power, exponent=exponent)
    return Target(imitate=rule, value=partial(beyond_log_value, exponent=exponent))


@preset
def profit(*, threshold: float) -> Target:
    """ProFiT: nll on tokens with probability above the threshold, nothing on the others."""
    require("threshold", threshold, 0.0, 1.0)
    return Target(imitate=partial(above, threshold=threshold))


@preset
def eaft(*, k: int = 20) -> Target:
    """Entropy-adaptive fine-tuning: nll times the entropy of the k most likely tokens, renormalised, over log k."""
    require("k", k, 2)
    return Target(imitate=partial(top_entropy, k=k))


@preset
def chord_phi() -> Target:
    """The phi of CHORD, p * (1 - p) * nll: neither what is known nor what is out of reach.

    Published as one term beside GRPO; alone, as here, it was not measured.
    """
    return Target(imitate=uncertainty)


@preset
def otr(*, temperature: float = 1.3, penalty: float = -0.1) -> Target:
    """One-token rollout in expectation, without sampling: reward 1 for the observed token, `penalty` for any other.

    The tokens would be drawn at `temperature`; at temperature 1 it is DFT times (1 - penalty).
    """
    require("temperature", temperature, 0.0, above=True)
    imitate = partial(tempered_probability, temperature=temperature, factor=1.0 - penalty)
    return Target(imitate=imitate, follow=penalty, alternative=partial(tempered, temperature=temperature))


@preset
def sft_kl(*, kl_weight: float) -> Target:
    """nll + l * KL(reference, p)."""
    require("kl_weight", kl_weight, 0.0)
    return Target(imitate=1.0, follow=kl_weight, alternative=other_model, divergence="kl")


@preset
def asft(*, kl_weight: float = 0.05) -> Target:
    """Anchored SFT: DFT + l * KL(reference, p). A token the model finds impossible is led to the reference."""
    require("kl_weight", kl_weight, 0.0)
    return Target(imitate=probability, follow=kl_weight, alternative=other_model, divergence="kl")


@preset
def distill() -> Target:
    """Cross-entropy to a teacher; the observed token is not looked at."""
    return Target(imitate=0.0, follow=1.0, alternative=other_model)


@preset
def hybrid_distill(*, teacher_weight: float) -> Target:
    """(1 - l) * nll + l * KL(teacher, p)."""
    require("teacher_weight", teacher_weight, 0.0, 1.0)
    return Target(imitate=1.0 - teacher_weight, follow=teacher_weight, alternative=other_model, divergence="kl")


@preset
def psft(*, epsilon: float = 0.2) -> Target:
    """Proximal SFT: -min(r, clip(r, 1 - epsilon, 1 + epsilon)) with r = p / p_old.

    Needs the column `old_logp`: log-probability of the observed token under the old policy.
    """
    require("epsilon", epsilon, 0.0)
    return Target(
        imitate=partial(unclipped_ratio, epsilon=epsilon), value=partial(clipped_ratio_value, epsilon=epsilon)
    )


@preset
def target_sft(*, eta: float) -> Target:
    """Target-SFT, arXiv 2606.11189: trust p in the observed token, the rest goes to p^(1 - eta) * teacher^eta.

    At eta = 0 the gradient is that of DFT. The published eta is not known, hence no default.
    """
    require("eta", eta, 0.0, 1.0)
    return Target(imitate=probability, follow=doubt, alternative=partial(guided, eta=eta))


@preset
def gem(*, beta: float = 0.7) -> Target:
    """GEM: nll - CE(q, p), q the student at temperature beta. Pushes away from q: s is 0, and Q can be negative."""
    require("beta", beta, 0.0, above=True)
    return Target(imitate=1.0, follow=-1.0, alternative=partial(tempered, temperature=beta))
