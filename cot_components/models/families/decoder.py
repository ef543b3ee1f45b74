"""The decoder shared by Llama's descendants, with options for their differences: biases, norms, positions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torchtune.modules import (
    FeedForward,
    MultiHeadAttention,
    RMSNorm,
    TiedLinear,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)

from cot_components.models.families.positions import (
    NONE,
    ScaledPositions,
    describe_positions,
    read_positions,
)

MODULES = {
    "tok_embeddings": "embed_tokens",
    "norm": "norm",
    "output": "lm_head",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w3": "mlp.up_proj",
    "mlp.w2": "mlp.down_proj",
    "sa_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
"""Our module -> Llama's on the hub."""

NORMED = {
    f"attn.{letter}_proj.{ours}": f"self_attn.{letter}_{hub}"
    for letter in "qk"
    for ours, hub in (("linear", "proj"), ("norm", "norm"))
}
"""The same for normalised queries and keys."""

SIZES = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
}
"""transformers' defaults of Llama."""

LLAMA = {
    **SIZES,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}


class NormedProjection(nn.Module):
    """A projection whose output is normalised before the rotary positions, per head or over all heads.

    torchtune's own `q_norm` comes after the positions, which is a different model.

    Args:
        linear: `[..., in] -> [..., heads * d]`.
        norm: over `d`, or over `heads * d`.
    """

    def __init__(self, linear: nn.Linear, norm: RMSNorm) -> None:
        super().__init__()
        self.linear, self.norm = linear, norm

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., heads * d]`."""
        return self.norm(self.linear(x).unflatten(-1, (-1, *self.norm.normalized_shape))).flatten(-2)


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Fill in the keys that follow from others: key heads, head width, and positions in one form, `rope`."""
    heads = config["num_attention_heads"]
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = heads
    if config.get("head_dim") is None:
        config["head_dim"] = config["hidden_size"] // heads
    return {**config, "rope": read_positions(config, config["rope_theta"])}


def sliding_window(config: Mapping[str, Any]) -> int | None:
    """The sliding window of a config with the key `use_sliding_window`; None if it has none."""
    return config["sliding_window"] if config["use_sliding_window"] else None


def build_decoder(
    config: Mapping[str, Any],
    max_seq_len: int,
    dropout: float | None,
    *,
    biased: Collection[str] | None = None,
    normed: str | None = None,
    norms_after: bool = False,
    turned: Collection[int] | None = None,
) -> TransformerDecoder:
    """A decoder as config.json describes it.

    Args:
        config: completed, see `complete`.
        max_seq_len: the longest row.
        dropout: of attention weights; None uses the config's.
        biased: which of `q k v output` have a bias; None follows `attention_bias` for all.
        normed: `head` or `all` for norms of queries and keys.
        norms_after: norms come after attention and feed-forward instead of before.
        turned: layers with positions; None is all.
    """
    width, eps = config["hidden_size"], config["rms_norm_eps"]
    if biased is None:
        biased = ("q", "k", "v", "output") if config["attention_bias"] else ()
    base, scaling = config["rope"]["rope_theta"], {k: v for k, v in config["rope"].items() if k != "rope_theta"}
    rope = ScaledPositions(config["head_dim"], max_seq_len, base, scaling)
    dropout = config["attention_dropout"] if dropout is None else dropout
    layers = []
    for index in range(config["num_hidden_layers"]):
        has_positions = turned is None or index in turned
        attention = _attention(config, max_seq_len, dropout, biased, normed, rope if has_positions else None)
        first, second = RMSNorm(width, eps=eps), RMSNorm(width, eps=eps)
        norms = {"sa_scale": first, "mlp_scale": second} if norms_after else {"sa_norm": first, "mlp_norm": second}
        mlp = _feed_forward(width, config["intermediate_size"], bias=config.get("mlp_bias", False))
        layers.append(TransformerSelfAttentionLayer(attention, mlp, **norms))
    embedding = nn.Embedding(config["vocab_size"], width)
    return TransformerDecoder(
        tok_embeddings=embedding,
        layers=layers,
        max_seq_len=max_seq_len,
        num_heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        norm=RMSNorm(width, eps=eps),
        output=TiedLinear(embedding)
        if config["tie_word_embeddings"]
        else nn.Linear(width, config["vocab_size"], bias=False),
    )


def _attention(
    config: Mapping[str, Any],
    max_seq_len: int,
    dropout: float,
    biased: Collection[str],
    normed: str | None,
    rope: nn.Module | None,
) -> MultiHeadAttention:
    width, head_dim = config["hidden_size"], config["head_dim"]
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]

    def projection(letter: str, count: int) -> nn.Module:
        linear = nn.Linear(width, count * head_dim, bias=letter in biased)
        if normed is None or letter == "v":
            return linear
        return NormedProjection(
            linear, RMSNorm(head_dim if normed == "head" else count * head_dim, eps=config["rms_norm_eps"])
        )

    return MultiHeadAttention(
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=key_heads,
        head_dim=head_dim,
        q_proj=projection("q", heads),
        k_proj=projection("k", key_heads),
        v_proj=projection("v", key_heads),
        output_proj=nn.Linear(heads * head_dim, width, bias="output" in biased),
        pos_embeddings=rope,
        max_seq_len=max_seq_len,
        attn_dropout=dropout,
    )


def _feed_forward(width: int, inner: int, *, bias: bool) -> FeedForward:
    return FeedForward(
        gate_proj=nn.Linear(width, inner, bias=bias),
        down_proj=nn.Linear(inner, width, bias=bias),
        up_proj=nn.Linear(width, inner, bias=bias),
    )


def describe_decoder(model: Any) -> dict[str, Any]:
    """The part of config.json that can be derived from a decoder's modules, ours or torchtune's."""
    attention, mlp = model.layers[0].attn, model.layers[0].mlp
    rope = next((layer.attn.pos_embeddings for layer in model.layers if layer.attn.pos_embeddings is not None), None)
    positions = describe_positions(rope)
    base = positions.pop("rope_theta")
    return {
        "hidden_size": attention.embed_dim,
        "intermediate_size": mlp.w1.weight.shape[0],
        "num_hidden_layers": len(model.layers),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "vocab_size": model.tok_embeddings.weight.shape[0],
        "max_position_embeddings": model.max_seq_len,
        "rms_norm_eps": model.norm.eps,
        "rope_theta": base,
        "rope_scaling": None if positions["rope_type"] == NONE else positions,
        "attention_bias": getattr(attention.output_proj, "bias", None) is not None,
        "mlp_bias": getattr(mlp.w1, "bias", None) is not None,
        "hidden_act": "silu",
        "tie_word_embeddings": hasattr(model.output, "tied_module"),
    }


def ready_positions(model: nn.Module) -> None:
    """Compute the position tables, which have no values on a meta device, on the current default device."""
    for module in model.modules():
        if isinstance(module, ScaledPositions):
            module.rope_init()
