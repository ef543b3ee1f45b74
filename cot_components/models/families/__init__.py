"""The families of models whose Hugging Face folders are read and written: one file each."""

from __future__ import annotations

from typing import Any

from torch.nn import SiLU

from cot_components.errors import UserError
from cot_components.models.families import gpt2, llama, mistral, olmo2, phi3, qwen2, qwen3, smollm3
from cot_components.models.families.family import Family

FAMILIES = {
    module.FAMILY.model_type: module.FAMILY
    for module in (llama, mistral, qwen2, qwen3, smollm3, olmo2, phi3, gpt2)  # in the order of the docs
}
"""`model_type` of a config.json -> family."""


def family_of(model: Any) -> Family:
    """The family of a decoder: that of the folder it was loaded from, else recognised by its modules.

    Raises:
        UserError: an architecture that is not known.
    """
    if (hub := getattr(model, "hub", None)) is not None:
        family: Family = hub.family
        return family
    if isinstance(model, gpt2.GPT2Decoder):
        return FAMILIES["gpt2"]
    if _computes_as_llama(model):
        has_bias = getattr(model.layers[0].attn.q_proj, "bias", None) is not None
        return FAMILIES["qwen2" if has_bias else "llama"]
    raise UserError(
        f"cannot write {type(model).__name__} as a Hugging Face folder; known: "
        + "; ".join(family.name for family in FAMILIES.values())
    )


def _computes_as_llama(model: Any) -> bool:
    """Whether it also computes as Llama does, beyond equal shapes and names: Gemma has other norms and another
    activation."""
    attention, mlp = model.layers[0].attn, model.layers[0].mlp
    gated = getattr(mlp, "w3", None) is not None and isinstance(getattr(mlp, "activation", None), SiLU)
    plain = getattr(attention, "q_norm", None) is None and hasattr(attention.q_proj, "weight")
    turned = hasattr(attention.pos_embeddings, "base")
    return gated and plain and turned and type(model.norm).__name__ == "RMSNorm"
