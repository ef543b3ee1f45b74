"""Models that no family file fits, on the modules of `transformers`: chosen and said, losses as its own logits have
them, and what cannot be computed right refused. The battery of contracts is in `test_families.py`."""

import json
import sys
from functools import partial

import pytest
import torch
from families import OTHERS, PADDED, VOCABULARY, distance, random_ids, write_case
from rows import random_rows
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from cot_components.data.rows.batches import pack, pad
from cot_components.errors import UserError
from cot_components.losses import sft
from cot_components.models import check_folder, from_folder
from cot_components.models.adapter import adapt, hidden_states, logits
from cot_components.models.export import save_pretrained
from cot_components.models.generate import generate
from cot_components.models.think_tokens import grow_vocabulary, is_tied
from cot_components.models.transformers_backbone.head import measure_head
from cot_components.training.distributed import World
from cot_components.training.setup import prepare_model
from cot_components.training.throughput import ModelFlops

FLAT = random_rows(6, vocabulary=VOCABULARY).flat(range(6))
LLAMA = "llama, tied, as SmolLM2"


def ours(folder, **settings):
    return adapt(from_folder(path=str(folder), quiet=True, **settings))


def gradients(model):
    return {name.removeprefix("net."): p.grad for name, p in model.named_parameters() if p.grad is not None}


def furthest(found, expected):
    """The largest difference of two gradients, in parts of the largest entry of the model."""
    assert found.keys() == expected.keys() and len(found) > 10
    largest = max(float(grad.abs().max()) for grad in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) for name in found) / largest


@pytest.mark.parametrize("case", OTHERS)
def test_loss_and_gradients_are_those_of_the_model_s_own_logits(tmp_path, case):
    """Scales of logits, embeddings and residuals included."""
    theirs = write_case(tmp_path / "hub", case)
    theirs.get_input_embeddings().padding_idx = None
    model, batch = ours(tmp_path / "hub"), pad(FLAT, pad_id=0)
    out = model.loss(sft().fused, batch)
    out.objective.backward()
    reference = cross_entropy(theirs(batch.tokens).logits.flatten(0, 1), batch.labels.flatten(), reduction="sum")
    reference.backward()
    assert torch.allclose(out.objective, reference, rtol=1e-5) and len(out.nll) == batch.num_supervised > 0
    assert furthest(gradients(model), gradients(theirs)) < 1e-4
    model.zero_grad()
    model.loss(sft().fused, batch, labels=batch.labels, rows=batch.rows[:0]).objective.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.any()] == []


@pytest.mark.parametrize("case", [case for case in OTHERS if case not in PADDED])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_gradients_are_padded_ones(tmp_path, case, checkpointing):
    """Documents longer than Gemma's window too, in a batch longer than the context, and computed again."""
    write_case(tmp_path / "hub", case)
    found = []
    for batch in (pack(FLAT, pad_id=0, num_tokens=len(FLAT.tokens) + 9), pad(FLAT, pad_id=0)):
        model = ours(tmp_path / "hub")
        prepare_model(model, World(), compile=False, enable_activation_checkpointing=checkpointing)
        model.loss(sft().fused, batch).objective.backward()
        found.append(gradients(model))
    assert furthest(*found) < 1e-4 and max(FLAT.lengths) > 8


def test_documents_see_themselves_alone(tmp_path):
    """Another token in one document changes that document, bit for bit no other."""
    write_case(tmp_path / "hub", "gemma3")
    model, packed = ours(tmp_path / "hub").eval(), pack(FLAT, pad_id=0, num_tokens=len(FLAT.tokens))
    with torch.no_grad():
        before = hidden_states(model, packed)
        middle = (packed.sample == 2).flatten()
        packed.tokens[0, middle] = (packed.tokens[0, middle] + 7) % VOCABULARY
        after = hidden_states(model, packed)
    assert torch.equal(before[~middle], after[~middle]) and not torch.equal(before[middle], after[middle])


def test_layers_that_go_around_the_attention_are_noticed(tmp_path, monkeypatch):
    write_case(tmp_path / "hub", "granite")
    model, packed = ours(tmp_path / "hub"), pack(FLAT, pad_id=0, num_tokens=len(FLAT.tokens))
    hidden_states(model, packed)
    monkeypatch.setattr(model.layers[1].self_attn, "forward", lambda hidden_states, **how: (hidden_states, None))
    with pytest.raises(UserError, match=r"packed_tokens.*bypass"):
        hidden_states(model, packed)


@torch.no_grad()
@pytest.mark.parametrize("case", ["lfm2", "gemma3"])
def test_generating_leaves_no_trace(tmp_path, case):
    """Prompts of different lengths in one batch, which answers leave as they end, are answered as alone; a forward
    afterwards is what it was.
    """
    write_case(tmp_path / "hub", case)
    model, tokens = ours(tmp_path / "hub").eval(), random_ids(2, 20)
    before = logits(model, tokens)
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (2, 5, 11, 14, 17, 18)]
    answer = partial(generate, model, max_new_tokens=24, stop_ids=range(1, 9), pad_id=0, temperature=0.7)
    together = answer(prompts)
    assert together == [answer([prompt])[0] for prompt in prompts] and len(set(map(len, together))) > 2
    assert torch.equal(logits(model, tokens), before)


@torch.no_grad()
def test_in_bf16_it_is_what_transformers_computes(tmp_path):
    write_case(tmp_path / "hub", "gemma3")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hub", dtype=torch.bfloat16).eval()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        model = ours(tmp_path / "hub").eval()
    finally:
        torch.set_default_dtype(before)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(model, random_ids(2, 20)), theirs(random_ids(2, 20)).logits.float())


@torch.no_grad()
@pytest.mark.parametrize("case", ["gemma3", "granite"])  # tied, untied
def test_tags_get_rows_that_are_exported(tmp_path, case):
    theirs = write_case(tmp_path / "hub", case)
    model = ours(tmp_path / "hub").eval()
    tied = is_tied(model)
    assert grow_vocabulary(model, VOCABULARY + 2) == 2 and is_tied(model) == tied == (case == "gemma3")
    save_pretrained(model, tmp_path / "out", stop_ids=(2,))
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = random_ids(2, 20)
    assert read.config.vocab_size == VOCABULARY + 2 and distance(read(tokens).logits, logits(model, tokens)) < 1e-6
    assert distance(logits(model, tokens)[..., :VOCABULARY], theirs(tokens).logits) < 1e-6


def test_the_choice_is_said_with_its_reason(tmp_path, capsys):
    for case in (LLAMA, "granite", "phi4-mini"):
        write_case(tmp_path / case, case)

    def said(case, **settings):
        capsys.readouterr()
        from_folder(path=str(tmp_path / case), **settings)
        (line,) = capsys.readouterr().out.splitlines()
        return line

    assert "torchtune backbone" in said(LLAMA)
    assert "transformers backbone (model.backbone" in said(LLAMA, backbone="transformers")
    assert "transformers backbone" in said("granite") and "'granite'" in said("granite")
    phi = said("phi4-mini")
    assert "Phi3ForCausalLM" in phi and "'longrope'" in phi and "up to 96 tokens" in phi
    with pytest.raises(UserError, match=r"max_seq_len 97.*longrope"):
        check_folder(tmp_path / "phi4-mini", max_seq_len=97)


def test_dropout_is_the_attention_s(tmp_path):
    write_case(tmp_path / "hub", "granite")
    model = ours(tmp_path / "hub", dropout=0.25)
    assert {layer.self_attn.attention_dropout for layer in model.layers} == {0.25} and model.training


def test_the_work_of_a_step_is_that_of_torchtune_s_llama(tmp_path):
    """But for the last feed-forward, which reads every row here."""
    write_case(tmp_path / "hub", LLAMA)
    one, two = (ModelFlops.of(ours(tmp_path / "hub", backbone=name)) for name in ("torchtune", "transformers"))
    assert one.total(tokens=5, seen=30, supervised=5) == two.total(tokens=5, seen=30, supervised=5)
    assert two.per_seen_token == one.per_seen_token and two.per_token > one.per_token


CLASSES = [
    ({"model_type": "gemma2", "head_dim": 16}, "Gemma2ForCausalLM.*final_logit_softcapping 30"),
    ({**OTHERS["gemma3"], "final_logit_softcapping": 9.0}, "Gemma3ForCausalLM.*final_logit_softcapping 9"),
    ({"model_type": "phi"}, "head of PhiForCausalLM has a bias"),
    ({"model_type": "opt"}, "OPTForCausalLM"),
    ({"model_type": "mamba"}, "MambaForCausalLM.*cache"),
    ({"model_type": "bert"}, "BertLMHeadModel.*not a decoder"),
]


@pytest.mark.parametrize(("config", "said"), CLASSES)
def test_a_class_that_would_be_computed_wrong_is_refused_by_name(tmp_path, config, said):
    from families import SIZES
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text(json.dumps({**SIZES, **config}))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        check_folder(tmp_path)
    assert "\n" not in str(caught.value)


LINEAR = [(lambda x: x * 0.3, 0.3), (lambda x: x / 7, 1 / 7)]
NOT_LINEAR = [lambda x: x.clamp(max=5000), lambda x: x + 1, lambda x: -x, lambda x: x[..., :50]]


@pytest.mark.parametrize(("change", "factor"), [*LINEAR, *((change, None) for change in NOT_LINEAR)])
def test_a_head_is_measured_on_all_of_its_numbers(change, factor):
    """Logits of one token capped, all of them shifted, turned or cut: none is a multiple of what the head said."""
    from transformers import LlamaConfig, LlamaForCausalLM

    class Odd(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            return type(out)(logits=change(out.logits))

    with torch.device("meta"):
        net = Odd(LlamaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, intermediate_size=48))
    if factor is not None:
        assert measure_head(net) == pytest.approx(factor, rel=1e-5)
        return
    with pytest.raises(UserError, match="Odd caps or shifts"):
        measure_head(net)


def test_code_of_its_own_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "run_me.Own"}}))
    (tmp_path / "run_me.py").write_text("raise SystemExit('was run')")
    with pytest.raises(UserError, match=r"'own'.*auto_map"):
        check_folder(tmp_path)


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_without_the_extra_the_sentence_names_it(tmp_path, monkeypatch, package):
    write_case(tmp_path / "hub", "granite")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*cot-components\[hf\]"):
        ours(tmp_path / "hub", lora={"rank": 2})
