"""Published token losses as members of the target family: two pulls, an alternative and the published loss value.

`loss._component_=cot_components.losses.dft` selects one, in a config for a stock torchtune recipe or for this project.
Besides its own settings, each takes those of `Loss` (`floor`, `weight_rule`, `chunk_rows`, ...). Every preset raises
`UserError` when a setting is out of range. Presets without a paper follow the project page of arXiv 2606.11189.

In the formulas `p` is the probability of the observed token, and inside `CE` and `KL` the student's distribution;
`reference` and `teacher` are the distribution of the second model passed to the loss. Factors of `nll`, `CE` and `KL`
are detached, and so is the first argument of `CE` and `KL`. Other names are settings.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from cot_components.errors import require
from cot_components.losses.loss import preset
from cot_components.losses.target import Target

# Pulls: [n] from the observed token's probability `p`, or from the logits.


def probability(p: Tensor) -> Tensor:
    """The probability itself."""
    return p


def power(p: Tensor, *, exponent: float) -> Tensor:
    """p^exponent."""
    return p**exponent


def uncertainty(p: Tensor) -> Tensor:
    """p * (1 - p): 0 at both ends, at most 1/4 at p = 1/2."""
    return p * (1.0 - p)


def doubt(p: Tensor) -> Tensor:
    """1 - p: what the observed token leaves to the others."""
    return 1.0 - p


def above(p: Tensor, *, threshold: float) -> Tensor:
    """1 where p is above the threshold, else 0."""
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
    """The same probability 1 / V for every token, `[1, 1]`."""
    return logits.new_full((1, 1), 1.0 / logits.shape[-1])


def other_model(reference: Tensor) -> Tensor:
    """The reference model's distribution."""
    return reference.softmax(-1)


def tempered(logits: Tensor, *, temperature: float) -> Tensor:
    """The student's distribution at another temperature; below 1 it is sharper."""
    return (logits / temperature).softmax(-1)


def guided(logits: Tensor, reference: Tensor, *, eta: float) -> Tensor:
    """Geometric mixture p^(1 - eta) * reference^eta, normalised; raw logits will do, their normalisers cancel."""
    return torch.lerp(logits, reference, eta).softmax(-1)


# Published values [n] that are not imitate * nll + follow * divergence.


def beyond_log_value(p: Tensor, *, exponent: float) -> Tensor:
    """(1 - p^exponent) / exponent."""
    return (1.0 - p**exponent) / exponent


def clipped_ratio_value(p: Tensor, old_logp: Tensor, *, epsilon: float) -> Tensor:
    """-min(p / p_old, 1 + epsilon)."""
    return -(p * torch.exp(-old_logp)).clamp(max=1.0 + epsilon)


# Presets.


@preset
def sft() -> Target:
    """Plain supervised fine-tuning: nll, the negative log-likelihood. Its target is the observed token."""
    return Target(imitate=1.0)


@preset
def label_smoothing(*, smoothing: float = 0.1) -> Target:
    """(1 - smoothing) * nll + smoothing * CE(uniform, p); the uniform part includes the observed token.

    Args:
        smoothing: share of the uniform distribution, 0 to 1.
    """
    require("smoothing", smoothing, 0.0, 1.0)
    return Target(imitate=1.0 - smoothing, follow=smoothing, alternative=uniform)


@preset
def dft() -> Target:
    """Dynamic fine-tuning, arXiv 2508.05629: p * nll.

    A token's value is at most 1/e, so learning rates and clipping norms tuned for SFT do not carry over.
    """
    return Target(imitate=probability)


@preset
def beyond_log(*, exponent: float = 1.0) -> Target:
    """(1 - p^exponent) / exponent: nll as the exponent goes to 0, and the gradient of DFT where it is 1.

    Args:
        exponent: above 0.
    """
    require("exponent", exponent, 0.0, above=True)
    rule = partial(power, exponent=exponent)
    return Target(imitate=rule, value=partial(beyond_log_value, exponent=exponent))


@preset
def profit(*, threshold: float) -> Target:
    """ProFiT: nll on tokens with probability above the threshold, nothing on the others.

    Args:
        threshold: a probability, 0 to 1.
    """
    require("threshold", threshold, 0.0, 1.0)
    return Target(imitate=partial(above, threshold=threshold))


@preset
def eaft(*, k: int = 20) -> Target:
    """Entropy-adaptive fine-tuning: nll times the entropy of the k most likely tokens, renormalised, over log k.

    Args:
        k: at least 2; a smaller vocabulary is taken whole.
    """
    require("k", k, 2)
    return Target(imitate=partial(top_entropy, k=k))


@preset
def chord_phi() -> Target:
    """The phi of CHORD, arXiv 2508.11408: p * (1 - p) * nll, which mutes both known and out-of-reach tokens.

    Published as one term alongside GRPO; the paper did not measure it alone, as it is here.
    """
    return Target(imitate=uncertainty)


@preset
def otr(*, temperature: float = 1.3, penalty: float = -0.1) -> Target:
    """One-token rollout, arXiv 2509.26313, in expectation: what the paper samples is summed over the vocabulary.

    With q the student at `temperature`: (1 - penalty) * q(observed) * nll + penalty * CE(q, p). At temperature 1 its
    gradient is that of DFT times (1 - penalty).

    Args:
        temperature: sampling temperature of the student's tokens, above 0.
        penalty: reward of every token but the observed one, which gets 1; any number.
    """
    require("temperature", temperature, 0.0, above=True)
    imitate = partial(tempered_probability, temperature=temperature, factor=1.0 - penalty)
    return Target(imitate=imitate, follow=penalty, alternative=partial(tempered, temperature=temperature))


@preset
def sft_kl(*, kl_weight: float) -> Target:
    """nll + kl_weight * KL(reference, p).

    Args:
        kl_weight: at least 0.
    """
    require("kl_weight", kl_weight, 0.0)
    return Target(imitate=1.0, follow=kl_weight, alternative=other_model, divergence="kl")


@preset
def asft(*, kl_weight: float = 0.05) -> Target:
    """Anchored SFT, arXiv 2509.23753: p * nll + kl_weight * KL(reference, p).

    A token to which the model gives no probability is pulled toward the reference.

    Args:
        kl_weight: at least 0.
    """
    require("kl_weight", kl_weight, 0.0)
    return Target(imitate=probability, follow=kl_weight, alternative=other_model, divergence="kl")


@preset
def distill() -> Target:
    """CE(teacher, p); the observed token is ignored."""
    return Target(imitate=0.0, follow=1.0, alternative=other_model)


@preset
def hybrid_distill(*, teacher_weight: float) -> Target:
    """(1 - teacher_weight) * nll + teacher_weight * KL(teacher, p).

    Args:
        teacher_weight: 0 to 1.
    """
    require("teacher_weight", teacher_weight, 0.0, 1.0)
    return Target(imitate=1.0 - teacher_weight, follow=teacher_weight, alternative=other_model, divergence="kl")


@preset
def psft(*, epsilon: float = 0.2) -> Target:
    """Proximal SFT: -min(r, clip(r, 1 - epsilon, 1 + epsilon)) with r = p / p_old.

    Needs the column `old_logp`: log-probability of the observed token under the old policy, in nats.

    Args:
        epsilon: at least 0; a token whose r is above 1 + epsilon has no gradient. The lower bound never binds.
    """
    require("epsilon", epsilon, 0.0)
    return Target(
        imitate=partial(unclipped_ratio, epsilon=epsilon), value=partial(clipped_ratio_value, epsilon=epsilon)
    )


@preset
def target_sft(*, eta: float) -> Target:
    """Target-SFT, arXiv 2606.11189: p * nll + (1 - p) * CE(guided, p).

    `guided` is the student's distribution to the power 1 - eta times the teacher's to the power eta, normalised.
    At eta = 0 the gradient is that of DFT. The published eta is not known, hence no default.

    Args:
        eta: the teacher's share in the guided distribution, 0 to 1.
    """
    require("eta", eta, 0.0, 1.0)
    return Target(imitate=probability, follow=doubt, alternative=partial(guided, eta=eta))


@preset
def gem(*, beta: float = 0.7) -> Target:
    """GEM: nll - CE(q, p), q the student at temperature beta.

    It pushes away from q as strongly as it pulls toward the observed token e: the induced target is p + e - q, whose
    entries can leave [0, 1].

    Args:
        beta: temperature, above 0.
    """
    require("beta", beta, 0.0, above=True)
    return Target(imitate=1.0, follow=-1.0, alternative=partial(tempered, temperature=beta))
