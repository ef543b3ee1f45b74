"""Which weights a choice names: counts and names by hand, shares by arithmetic, the same for every process."""

import re
import statistics

import pytest
import torch
from families import CASES, write_case

from cot_components.clock import Clock
from cot_components.models import from_folder
from cot_components.models.tiny import tiny_llama
from cot_components.trainable import CoFiTune, Half, Only, share_of, weights_of

LAYER = ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.output_proj", "mlp.w1", "mlp.w2", "mlp.w3"]


def llama(num_layers):
    with torch.device("meta"):
        return weights_of(tiny_llama(384, num_layers=num_layers))


def in_layer(names, part):
    """How many weights of each layer have `part` in their name."""
    layers = [int(name.split(".")[1]) for name in names if f".{part}." in name]
    return [layers.count(layer) for layer in range(max(layers) + 1)]


@pytest.mark.parametrize("num_layers", [4, 16])
def test_half_of_every_category_learns(num_layers):
    weights, seen = llama(num_layers), set()
    for number in range(6):
        names = Half(seed=3).choose(weights, number)
        assert in_layer(names, "attn") == [2] * num_layers
        assert sorted(in_layer(names, "mlp")) == [1] * (num_layers // 2) + [2] * (num_layers // 2)
        assert sum("norm" in name for name in names) == num_layers  # of 2 per layer and the last
        assert "tok_embeddings.weight" in names
        assert names == Half(seed=3).choose(dict(reversed(weights.items())), number)
        seen.add(frozenset(names))
    assert len(seen) == 6 and frozenset(Half(seed=4).choose(weights, 0)) not in seen


def test_every_matrix_learns_in_half_of_the_rounds_whatever_the_others_do():
    weights = llama(2)
    rounds = [Half().choose(weights, number) for number in range(400)]
    for module in LAYER:
        for layer in range(2):
            assert sum(f"layers.{layer}.{module}.weight" in names for names in rounds) == pytest.approx(200, abs=45)
    pair = [f"layers.{layer}.attn.q_proj.weight" in names for names in rounds for layer in range(2)]
    both = sum(a and b for a, b in zip(pair[::2], pair[1::2], strict=True))
    assert both == pytest.approx(100, abs=35)


@pytest.mark.parametrize(("tied_share", "embeddings"), [(0.606, True), (0.393, False)])
def test_the_share_that_learns_of_a_small_tied_model(tied_share, embeddings):
    """Of Llama-3.2-1B: half of the layers, and 263 of 1,236 M in the embedding."""
    from torchtune.models.llama3_2 import llama3_2_1b

    with torch.device("meta"):
        weights = weights_of(llama3_2_1b())
    shares = [share_of(Half(embeddings=embeddings).choose(weights, number), weights) for number in range(30)]
    assert statistics.fmean(shares) == pytest.approx(tied_share, abs=0.004)
    assert max(shares) - min(shares) > 0.003


@pytest.mark.parametrize("case", CASES)
def test_half_of_every_family(tmp_path, case):
    """A bias learns with its matrix; position embeddings with the embedding; extra norms are norms."""
    write_case(tmp_path / "model", case)
    weights = weights_of(from_folder(path=str(tmp_path / "model"), quiet=True))
    names = Half().choose(weights, 0)
    modules = {name.rpartition(".")[0] for name in names}
    assert names == {name for name in weights if weights[name].module in modules}
    per_layer: dict[str, int] = {}
    for module in {w.module for w in weights.values() if w.layer is not None and not is_norm(w)}:
        block = ".".join(module.split(".")[:3])
        per_layer[block] = per_layer.get(block, 0) + (module in modules)
    assert all(count == 2 for block, count in per_layer.items() if block.endswith("attn"))
    assert all(count in (1, 2) for count in per_layer.values()) and len(per_layer) >= 4
    norms = {w.module for w in weights.values() if is_norm(w)}
    assert len(norms & modules) == len(norms) // 2
    outside = {w.module for w in weights.values() if w.layer is None} - norms
    assert outside <= modules and not outside & {weights[n].module for n in Half(embeddings=False).choose(weights, 0)}


def is_norm(weight):
    return "norm" in weight.kind or weight.kind.startswith("ln_")


def test_rounds_follow_the_clock():
    clocks = [Clock(epoch, step) for epoch, step in [(0, 0), (0, 6), (1, 7), (1, 13), (2, 14)]]
    rounds = {redraw: [Half(redraw=redraw).round_of(clock) for clock in clocks] for redraw in ("once", "epoch", 7, 1)}
    assert rounds == {"once": [0] * 5, "epoch": [0, 0, 1, 1, 2], 7: [0, 0, 1, 1, 2], 1: [0, 6, 7, 13, 14]}


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({}, r".*"),
        ({"layers": [1, 2]}, r"layers\.[12]\..*"),
        ({"kinds": ["up_proj", "down_proj"]}, r".*\.mlp\.w[23]\.weight"),
        ({"layers": [3, 3], "kinds": "q_proj"}, r"layers\.3\.attn\.q_proj\.weight"),
        ({"kinds": ["embed_tokens", "input_layernorm"]}, r"tok_embeddings\.weight|layers\.\d\.sa_norm\.scale"),
    ],
)
def test_only_bands_and_kinds(settings, pattern):
    weights = llama(4)
    found = Only(**settings).choose(weights, 0)
    assert found == {name for name in weights if re.fullmatch(pattern, name)} != set()


@pytest.mark.parametrize(
    ("num_layers", "band"), [(32, (8, 15)), (40, (10, 19)), (60, (15, 29)), (1, (0, 0)), (2, (0, 0))]
)
def test_the_published_bands_of_cofitune(num_layers, band):
    names = CoFiTune().choose(llama(num_layers), 0)
    assert {int(name.split(".")[1]) for name in names} == set(range(band[0], band[1] + 1))
    assert {name.split(".", 2)[2] for name in names} == {"mlp.w2.weight", "mlp.w3.weight"}


def test_kinds_have_the_names_of_the_family(tmp_path):
    """GPT-2 stacks queries, keys and values; biases go along."""
    write_case(tmp_path / "model", "gpt2")
    weights = weights_of(from_folder(path=str(tmp_path / "model"), quiet=True))
    found = Only(kinds=["c_attn"], layers=[0, 0]).choose(weights, 0)
    assert found == {f"layers.0.attn.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")}


def test_a_transformers_backbone_has_the_same_choices(tmp_path):
    write_case(tmp_path / "model", "gemma3")
    weights = weights_of(from_folder(path=str(tmp_path / "model"), quiet=True))
    num_layers = 1 + max(weight.layer for weight in weights.values() if weight.layer is not None)
    names = Half(embeddings=False).choose(weights, 0)
    for layer in range(num_layers):
        parts = [re.search(rf"layers\.{layer}\.(\w+)\.\w+_proj", name) for name in names]
        parts = [part.group(1) for part in parts if part]
        assert parts.count("self_attn") == 2 and parts.count("mlp") in (1, 2)
    assert not any("embed_tokens" in name for name in names)
    assert all(
        "layers.1." in name and "q_proj" in name for name in Only(kinds=["q_proj"], layers=[1, 1]).choose(weights, 0)
    )
