"""GPT-2 out of torchtune's modules against `transformers`, and against itself with a KV cache."""

import copy

import pytest
import torch
from torchtune.generation import generate
from torchtune.modules import local_kv_cache
from transformers import GPT2Config, GPT2LMHeadModel

from cot_components.models.families.gpt2 import FAMILY, gpt2, gpt2_large, gpt2_medium, gpt2_small, gpt2_xl
from cot_components.models.folder import wanted_parts

SIZES = {
    "tiny": {"vocab_size": 97, "num_layers": 2, "num_heads": 2, "embed_dim": 16, "max_seq_len": 64},
    "small": {"vocab_size": 501, "num_layers": 4, "num_heads": 6, "embed_dim": 96, "max_seq_len": 128},
}


def as_ours(theirs, ours):
    """Tensors of `transformers` under our names."""
    found = {}
    for hub, parts in wanted_parts(FAMILY, ours).items():
        rows = {name: shape[0] for name, shape in parts.items()}
        found |= FAMILY.from_hub(hub, theirs[hub], rows, ours)
    return found


def pair(size: str):
    """Ours and the peer's model with the same random weights, biases and norms among them."""
    ours = gpt2(**SIZES[size], dropout=0.0).eval()
    config = GPT2Config(
        vocab_size=SIZES[size]["vocab_size"],
        n_layer=SIZES[size]["num_layers"],
        n_head=SIZES[size]["num_heads"],
        n_embd=SIZES[size]["embed_dim"],
        n_positions=SIZES[size]["max_seq_len"],
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.add_(
                torch.randn_like(parameter) * (1.0 if "wpe" in name else 0.1 if parameter.dim() == 1 else 0.3)
            )
    ours.load_state_dict(as_ours(theirs.state_dict(), ours))
    return ours, theirs


@pytest.fixture(params=SIZES, name="models")
def _models(request):
    torch.manual_seed(0)
    return pair(request.param)


def test_logits_equal_transformers(models) -> None:
    ours, theirs = models
    tokens = torch.randint(0, ours.tok_embeddings.num_embeddings, (3, 40))
    expected = theirs(tokens).logits
    assert expected.std() > 0.3
    assert (ours(tokens) - expected).abs().max() < 2e-6 * expected.abs().max()


def test_gradients_equal_transformers(models) -> None:
    ours, theirs = models
    tokens = torch.randint(0, ours.tok_embeddings.num_embeddings, (2, 24))
    for model, logits in ((ours, ours(tokens)), (theirs, theirs(tokens).logits)):
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    expected = as_ours({name: p.grad for name, p in theirs.named_parameters()}, ours)
    largest = max(g.abs().max() for g in expected.values())
    compared = 0
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() < 1e-5 * largest, name
        compared += 1
    assert compared == len(expected) > 20


def test_jumped_position_ids_equal_transformers(models) -> None:
    ours, theirs = models
    tokens = torch.randint(0, ours.tok_embeddings.num_embeddings, (2, 20))
    positions = torch.arange(20).repeat(2, 1)
    positions[0, 7:] += 11
    positions[1, 3:] += 5
    expected = theirs(tokens, position_ids=positions).logits
    assert (ours(tokens, input_pos=positions) - expected).abs().max() < 2e-6 * expected.abs().max()
    assert (ours(tokens) - expected).abs().max() > 1e-3


def greedy_without_cache(model, prompt: list[int], positions: list[int], new: int) -> list[int]:
    tokens, positions = list(prompt), list(positions)
    for _ in range(new):
        logits = model(torch.tensor([tokens]), input_pos=torch.tensor([positions]))
        tokens.append(int(logits[0, -1].argmax()))
        positions.append(positions[-1] + 1)
    return tokens[len(prompt) :]


@torch.no_grad()
def greedy_with_cache(model, prompts: list[list[int]], positions: list[list[int]], new: int) -> list[list[int]]:
    """One left-padded batch; the mask is over cache slots, so position ids are free to jump."""
    width, batch = max(map(len, prompts)), len(prompts)
    slots = width + new
    padding = torch.tensor([width - len(p) for p in prompts])
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    ids = torch.tensor([[0] * (width - len(p)) + p for p in positions])
    slot = torch.arange(slots)
    mask = (slot[None, :] <= slot[:, None])[None] & (slot[None, None, :] >= padding[:, None, None])
    mask = mask | torch.eye(slots, dtype=torch.bool)
    chosen = []
    with local_kv_cache(
        model, batch_size=batch, device=torch.device("cpu"), dtype=torch.float32, decoder_max_seq_len=slots
    ):
        begin, end = 0, width
        for _ in range(new):
            logits = model(tokens, mask=mask[:, begin:end], input_pos=ids)
            tokens = logits[:, -1].argmax(dim=-1, keepdim=True)
            chosen.append(tokens)
            ids, begin, end = ids[:, -1:] + 1, end, end + 1
    return torch.cat(chosen, dim=1).tolist()


@pytest.mark.parametrize("jump", [0, 11])
def test_generation_with_cache_equals_generation_without(models, jump: int) -> None:
    ours, _ = models
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(1, 90, (n,), generator=generator).tolist() for n in (5, 9, 2, 7)]
    positions = [[i + (jump if i >= len(p) // 2 else 0) for i in range(len(p))] for p in prompts]
    expected = [greedy_without_cache(ours, p, ids, 12) for p, ids in zip(prompts, positions, strict=True)]
    assert len({token for row in expected for token in row}) > 5, "a model that repeats one token proves nothing"
    assert greedy_with_cache(ours, prompts, positions, 12) == expected


def test_torchtunes_own_generate_agrees_with_and_without_cache(models) -> None:
    ours, _ = models
    prompt = [5, 17, 3, 60]
    expected = greedy_without_cache(ours, prompt, [0, 1, 2, 3], 12)
    knobs = {"max_generated_tokens": 12, "pad_id": 0, "top_k": 1}
    without, _ = generate(ours, torch.tensor([prompt]), **knobs)
    cache = {"batch_size": 1, "device": torch.device("cpu"), "dtype": torch.float32, "decoder_max_seq_len": 16}
    with local_kv_cache(ours, **cache):
        cached, _ = generate(ours, torch.tensor([prompt]), **knobs)
    assert without[0, 4:].tolist() == cached[0, 4:].tolist() == expected


def test_one_position_per_row_while_decoding_is_not_broadcast(models) -> None:
    ours, _ = models
    tokens, positions = torch.tensor([[3], [5], [8]]), torch.tensor([4, 0, 9])
    assert torch.equal(ours(tokens, input_pos=positions), ours(tokens, input_pos=positions[:, None]))


def test_future_token_changes_nothing_after_a_cached_evaluation(models) -> None:
    ours, _ = models
    tokens = torch.randint(1, 90, (1, 12))
    greedy_with_cache(ours, [[1, 2, 3]], [[0, 1, 2]], 4)
    changed = tokens.clone()
    changed[0, -1] = 0
    assert torch.equal(ours(tokens)[:, :-1], ours(changed)[:, :-1])


def test_head_is_tied_also_in_a_copy() -> None:
    model = copy.deepcopy(gpt2(**SIZES["tiny"], dropout=0.0).eval())
    tokens = torch.tensor([[1, 2, 3]])
    before = model(tokens)
    with torch.no_grad():
        model.tok_embeddings.weight[50] += torch.linspace(-1, 1, 16)
    changed = (model(tokens) - before).abs().amax(dim=(0, 1)) > 1e-6
    assert changed.tolist() == [i == 50 for i in range(97)]
    assert not any("output" in name and "proj" not in name for name in model.state_dict())


def test_initialisation_follows_gpt2() -> None:
    torch.manual_seed(0)
    model = gpt2(vocab_size=500, num_layers=8, num_heads=4, embed_dim=128, max_seq_len=300)
    state = model.state_dict()
    checked = 0
    for name, tensor in state.items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif "norm" in name:
            assert (tensor == 1).all(), name
        else:
            std = 0.02 / 4 if name.endswith(("output_proj.weight", "w2.weight")) else 0.02
            assert abs(tensor.std() / std - 1) < 0.05, name
        checked += 1
    assert checked == len(state) == 4 + 8 * 16


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = gpt2(**SIZES["tiny"], dropout=0.3)
    tokens = torch.randint(1, 90, (1, 12))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_published_sizes() -> None:
    published = {gpt2_small: 124_439_808, gpt2_medium: 354_823_168, gpt2_large: 774_030_080, gpt2_xl: 1_557_611_200}
    for build, count in published.items():
        with torch.device("meta"):
            assert sum(p.numel() for p in build().parameters()) == count


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"embed_dim": 10, "num_heads": 3}, "multiple of num_heads"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"dropout": -0.1}, "dropout must be"),
    ],
)
def test_impossible_sizes_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gpt2(**knobs)


def test_more_tokens_than_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="seq_len"):
        gpt2(**SIZES["tiny"])(torch.zeros(1, 65, dtype=torch.long))
