"""Sources of a loss's second distribution."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from models_for_tests import VOCABULARY, build
from rows import random_rows
from torchtune.modules.peft import disable_adapter

from cot_components.data.rows.batches import pad
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.losses import asft, target_sft
from cot_components.models.adapter import adapt, logits
from cot_components.models.load import weights_key
from cot_components.models.reference import AdaptersOff, FrozenModel, TopKFile, prepared

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
ROWS = random_rows(3, vocabulary=VOCABULARY)
BATCH = pad(ROWS.flat(range(3)), pad_id=0)
FLAT = ROWS.flat(range(3))
STORED = Rows(FLAT.tokens, FLAT.roles, FLAT.counters, FLAT.weights, FLAT.row_start, FLAT.ids)
TOKENIZER = SimpleNamespace(fingerprint=lambda: "tokenizer", pad_id=0)
DATA = SimpleNamespace(rows=STORED, chat=SimpleNamespace(tokenizer=TOKENIZER), transforms={})
TEACHER = {"_component_": "models_for_tests.llama_untied"}


def fused_and_dense(loss, student, source, reference_logits):
    """The loss through the model, and from whole logits."""
    fused = student.loss(loss.fused, BATCH, reference=source)
    labels, weights = BATCH.labels.flatten(), BATCH.weights.flatten()
    dense = loss.from_logits(logits(student, BATCH.tokens).flatten(0, 1), labels, weights, reference=reference_logits)
    return fused.objective, dense.objective.sum()


def test_a_frozen_model():
    student, source = adapt(build("llama_tied")), FrozenModel(model=TEACHER)
    loss = target_sft(eta=0.5)
    assert prepared(source, student, DATA, **CPU) is source
    fused, dense = fused_and_dense(loss, student, source, logits(source.teacher, BATCH.tokens).flatten(0, 1))
    torch.testing.assert_close(fused, dense)
    fused.backward()
    assert all(parameter.grad is None for parameter in source.teacher.parameters())
    assert not source.teacher.training


def test_adapters_off_is_the_base_model():
    student, source = adapt(build("llama_lora")), AdaptersOff()
    prepared(source, student, DATA, **CPU)
    with disable_adapter(student):
        base = logits(student, BATCH.tokens).flatten(0, 1)
    fused, dense = fused_and_dense(asft(), student, source, base)
    torch.testing.assert_close(fused, dense)
    assert (logits(student, BATCH.tokens).flatten(0, 1) - base).abs().max() > 0.1


def test_what_does_not_fit():
    student = adapt(build("llama_tied"))
    with pytest.raises(UserError, match="LoRA"):
        prepared(AdaptersOff(), student, DATA, **CPU)
    assert prepared(None, student, DATA, **CPU) is None


def test_a_file_is_made_once_and_gives_the_teacher(tmp_path):
    student, loss = adapt(build("llama_tied")), target_sft(eta=0.5)
    first = TopKFile(folder=str(tmp_path), k=VOCABULARY, model=TEACHER, rows_per_pass=2)
    prepared(first, student, DATA, **CPU)
    frozen = FrozenModel(model=TEACHER)
    frozen.prepare(student, DATA, **CPU)
    from_file, direct = (student.loss(loss.fused, BATCH, reference=source).objective for source in (first, frozen))
    torch.testing.assert_close(from_file, direct, rtol=2e-3, atol=0)
    again = TopKFile(folder=str(tmp_path), k=VOCABULARY)  # no teacher needed any more
    prepared(again, student, DATA, **CPU)
    assert torch.equal(student.loss(loss.fused, BATCH, reference=again).objective, from_file)


def test_a_teacher_draws_nothing_from_the_stream_of_the_run():
    student = adapt(build("llama_tied"))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    FrozenModel(model=TEACHER).prepare(student, DATA, **CPU)
    assert torch.equal(torch.rand(3), expected)


def test_a_file_of_other_rows_is_refused(tmp_path):
    student = adapt(build("llama_tied"))
    with pytest.raises(UserError, match="empty has no store"):
        prepared(TopKFile(folder=str(tmp_path / "empty")), student, DATA, **CPU)
    assert not (tmp_path / "empty").exists()
    prepared(TopKFile(folder=str(tmp_path / "full"), k=4, model=TEACHER), student, DATA, **CPU)
    other = SimpleNamespace(rows=STORED.select([0, 1]), chat=DATA.chat, transforms={})
    with pytest.raises(UserError, match="the store was made with data"):
        prepared(TopKFile(folder=str(tmp_path / "full"), k=4), student, other, **CPU)


def test_a_file_knows_its_teacher(tmp_path):
    """Another model's node, and other weights in the same folder, are another teacher; a folder may move."""
    student = adapt(build("llama_tied"))
    weights = tmp_path / "teacher"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"one")

    def key(folder):
        node = {"_component_": "cot_components.models.with_weights", "weights": str(folder), "model": TEACHER}
        return weights_key(node)

    shutil.copytree(weights, tmp_path / "moved")
    before, moved = key(weights), key(tmp_path / "moved")
    (weights / "model.safetensors").write_bytes(b"two")
    assert before == moved and len({before, key(weights), weights_key(TEACHER)}) == 3

    store = str(tmp_path / "store")
    prepared(TopKFile(folder=store, k=4, model=TEACHER), student, DATA, **CPU)
    other = {**TEACHER, "max_seq_len": 128}
    with pytest.raises(UserError, match="the store was made with teacher"):
        prepared(TopKFile(folder=store, k=4, model=other), student, DATA, **CPU)


def test_a_teacher_must_have_room_for_the_longest_row(tmp_path):
    student = adapt(build("llama_tied"))
    longest = int(STORED.lengths.max())
    FrozenModel(model={**TEACHER, "max_seq_len": longest}).prepare(student, DATA, **CPU)
    with pytest.raises(UserError, match=rf"{longest - 1} tokens, .* {longest}"):
        FrozenModel(model={**TEACHER, "max_seq_len": longest - 1}).prepare(student, DATA, **CPU)
    with pytest.raises(UserError, match="rows_per_pass"):
        TopKFile(folder=str(tmp_path), model=TEACHER, rows_per_pass=0)


def test_adapters_off_has_no_dropout():
    student, source = adapt(build("llama_lora", attn_dropout=0.5)), AdaptersOff()
    student.train()
    hidden = [source(student, BATCH)[0] for _ in range(2)]
    assert torch.equal(*hidden) and student.training and student.layers[0].attn.training
    student.eval()
    assert torch.equal(source(student, BATCH)[0], hidden[0]) and not student.training
