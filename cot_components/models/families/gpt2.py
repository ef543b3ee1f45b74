"""GPT-2 (Radford et al. 2019) from torchtune's modules, in every size, pretrained or from scratch.

torchtune has no model with learned positions. Everything else of GPT-2 is stock: biased projections, a feed-forward
without a gate, layer norms, a tied head. So the decoder is one small subclass that adds the position embedding, and the
residual dropout sits in the `sa_scale` and `mlp_scale` slots of torchtune's layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchtune.modules import (
    FeedForward,
    MultiHeadAttention,
    TiedLinear,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)

from cot_components.errors import UserError
from cot_components.models.families.family import Family

INIT_STD = 0.02


class GPT2Decoder(TransformerDecoder):
    """torchtune's decoder with learned absolute positions added to the token embedding.

    Args:
        pos_embeddings: `[max_seq_len, embed_dim]`.
        emb_dropout: applied to the sum of token and position embedding.
        **decoder: what `TransformerDecoder` takes.
    """

    def __init__(self, *, pos_embeddings: nn.Embedding, emb_dropout: nn.Module, **decoder) -> None:
        super().__init__(**decoder)
        self.pos_embeddings = pos_embeddings
        self.emb_dropout = emb_dropout

    def forward(
        self,
        tokens: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        encoder_input: torch.Tensor | None = None,
        encoder_mask: torch.Tensor | None = None,
        input_pos: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Next-token logits, fp32 `[batch, seq, vocab]`.

        Args:
            tokens: `[batch, seq]`.
            mask: bool `[batch, seq, seq]`, or `[batch, seq, cache_len]` with a KV cache; True attends. None is causal.
            encoder_input: passed to the layers as torchtune's decoder does; GPT-2 has no encoder.
            encoder_mask: accepted because stock callers pass it.
            input_pos: position ids `[batch, seq]`, `[seq]`, or `[batch]` for one decoding step; they may jump. None is
                0, 1, 2, ...

        Raises:
            ValueError: more tokens than `max_seq_len`; a KV cache without `mask` or `input_pos`.
        """
        seq_len = tokens.shape[1]
        self._validate_inputs(seq_len, mask=mask, input_pos=input_pos)
        if input_pos is None:
            input_pos = torch.arange(seq_len, device=tokens.device)
        # stock `generate` passes [batch] while decoding, which would broadcast to [batch, batch, embed] silently
        input_pos = input_pos.view(-1, seq_len)
        hidden = self.emb_dropout(self.tok_embeddings(tokens) + self.pos_embeddings(input_pos))
        for layer in self.layers:
            hidden = layer(hidden, mask=mask, input_pos=input_pos, encoder_input=encoder_input)
        return self.unembed(hidden)


def gpt2(
    *,
    vocab_size: int = 50_257,
    num_layers: int = 12,
    num_heads: int = 12,
    embed_dim: int = 768,
    intermediate_dim: int | None = None,
    max_seq_len: int = 1024,
    dropout: float = 0.1,
    norm_eps: float = 1e-5,
) -> GPT2Decoder:
    """GPT-2 of any size, freshly initialised: N(0, 0.02), scaled by 1/sqrt(2 layers) where a layer adds to the residual
    stream.

    Args:
        intermediate_dim: width of the feed-forward layer; None is 4 * `embed_dim`.
        max_seq_len: number of learned positions, the longest sequence the model can read.
        dropout: on embeddings, attention weights and both residual branches.

    Raises:
        UserError: `embed_dim` is not a multiple of `num_heads`, or `dropout` is outside [0, 1).
    """
    if embed_dim % num_heads:
        raise UserError(f"embed_dim ({embed_dim}) must be a multiple of num_heads ({num_heads})")
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"dropout must be in [0, 1), got {dropout}")
    intermediate_dim = intermediate_dim or 4 * embed_dim
    tok_embeddings = nn.Embedding(vocab_size, embed_dim)
    layer_sizes = (embed_dim, num_heads, intermediate_dim, max_seq_len, dropout, norm_eps)
    model = GPT2Decoder(
        tok_embeddings=tok_embeddings,
        pos_embeddings=nn.Embedding(max_seq_len, embed_dim),
        emb_dropout=nn.Dropout(dropout),
        layers=[_layer(*layer_sizes) for _ in range(num_layers)],
        max_seq_len=max_seq_len,
        num_heads=num_heads,
        head_dim=embed_dim // num_heads,
        norm=nn.LayerNorm(embed_dim, eps=norm_eps),
        output=TiedLinear(tok_embeddings),
    )
    _initialise(model)
    return model


def gpt2_small(*, dropout: float = 0.1) -> GPT2Decoder:
    """GPT-2 Small, 124 M parameters."""
    return gpt2(num_layers=12, num_heads=12, embed_dim=768, dropout=dropout)


def gpt2_medium(*, dropout: float = 0.1) -> GPT2Decoder:
    """GPT-2 Medium, 355 M parameters."""
    return gpt2(num_layers=24, num_heads=16, embed_dim=1024, dropout=dropout)


def gpt2_large(*, dropout: float = 0.1) -> GPT2Decoder:
    """GPT-2 Large, 774 M parameters."""
    return gpt2(num_layers=36, num_heads=20, embed_dim=1280, dropout=dropout)


def gpt2_xl(*, dropout: float = 0.1) -> GPT2Decoder:
    """GPT-2 XL, 1.56 B parameters."""
    return gpt2(num_layers=48, num_heads=25, embed_dim=1600, dropout=dropout)


def _layer(
    embed_dim: int, num_heads: int, intermediate_dim: int, max_seq_len: int, dropout: float, norm_eps: float
) -> TransformerSelfAttentionLayer:
    attention = MultiHeadAttention(
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=embed_dim // num_heads,
        q_proj=nn.Linear(embed_dim, embed_dim),
        k_proj=nn.Linear(embed_dim, embed_dim),
        v_proj=nn.Linear(embed_dim, embed_dim),
        output_proj=nn.Linear(embed_dim, embed_dim),
        max_seq_len=max_seq_len,
        attn_dropout=dropout,
    )
    feed_forward = FeedForward(
        gate_proj=nn.Linear(embed_dim, intermediate_dim),
        down_proj=nn.Linear(intermediate_dim, embed_dim),
        activation=nn.GELU(approximate="tanh"),
    )
    return TransformerSelfAttentionLayer(
        attention,
        feed_forward,
        sa_norm=nn.LayerNorm(embed_dim, eps=norm_eps),
        mlp_norm=nn.LayerNorm(embed_dim, eps=norm_eps),
        sa_scale=nn.Dropout(dropout),
        mlp_scale=nn.Dropout(dropout),
    )


@torch.no_grad()
def _initialise(model: GPT2Decoder) -> None:
    residual_std = INIT_STD / (2 * len(model.layers)) ** 0.5
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            into_residual = name.endswith(("attn.output_proj", "mlp.w2"))
            module.weight.normal_(std=residual_std if into_residual else INIT_STD)
        if isinstance(module, nn.Linear):
            module.bias.zero_()


DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


def build(config: Mapping[str, Any], max_seq_len: int, dropout: float | None) -> GPT2Decoder:
    """The decoder that a config.json describes; the position table is complete, whatever the longest row.

    Raises:
        UserError: the three dropouts differ; only one value is supported.
    """
    if dropout is None and len({config[key] for key in DROPOUTS}) > 1:
        raise UserError(f"{', '.join(DROPOUTS)} differ; choose one for all with model.dropout")
    model = gpt2(
        vocab_size=config["vocab_size"],
        num_layers=config["n_layer"],
        num_heads=config["n_head"],
        embed_dim=config["n_embd"],
        intermediate_dim=config["n_inner"],
        max_seq_len=config["n_positions"],
        dropout=config["attn_pdrop"] if dropout is None else dropout,
        norm_eps=config["layer_norm_epsilon"],
    )
    model.max_seq_len = max_seq_len
    return model


def describe(model: GPT2Decoder) -> dict[str, Any]:
    """config.json of a GPT-2; begin and end token are the last row of the vocabulary, as in the original."""
    first: Any = model.layers[0]
    vocab_size, embed_dim = model.tok_embeddings.weight.shape
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_positions": model.pos_embeddings.num_embeddings,
        "n_embd": embed_dim,
        "n_layer": len(model.layers),
        "n_head": model.num_heads,
        "n_inner": first.mlp.w1.weight.shape[0],
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.norm.eps,
        **dict.fromkeys(DROPOUTS, first.attn.attn_dropout),
        "initializer_range": INIT_STD,
        "tie_word_embeddings": True,
        "bos_token_id": vocab_size - 1,
        "eos_token_id": vocab_size - 1,
    }


FAMILY = Family(
    name="GPT-2",
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    defaults={
        "vocab_size": 50_257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        **dict.fromkeys(DROPOUTS, 0.1),
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    build=build,
    describe=describe,
    context="n_positions",
    prefix="transformer.",
    layers="h",
    modules={
        "tok_embeddings": "wte",
        "pos_embeddings": "wpe",
        "norm": "ln_f",
        "sa_norm": "ln_1",
        "mlp_norm": "ln_2",
        **{f"attn.{letter}_proj": "attn.c_attn" for letter in "qkv"},
        "attn.output_proj": "attn.c_proj",
        "mlp.w1": "mlp.c_fc",
        "mlp.w2": "mlp.c_proj",
    },
    transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    ignored=(".attn.bias", ".attn.masked_bias"),
)
