"""Sources of a loss's second distribution."""

import pytest
import torch
from models_for_tests import VOCABULARY, build
from rows import random_rows

from cot_components.data.batches import pad
from cot_components.errors import UserError
from cot_components.losses import asft, sft, target_sft
from cot_components.models.adapter import adapt, logits
from cot_components.models.reference import AdaptersOff, FrozenModel, reference_for

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
BATCH = pad(random_rows(3, vocabulary=VOCABULARY).flat(range(3)), pad_id=0)
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
    assert reference_for(loss, source, student, **CPU) is source
    fused, dense = fused_and_dense(loss, student, source, logits(source.teacher, BATCH.tokens).flatten(0, 1))
    torch.testing.assert_close(fused, dense)
    fused.backward()
    assert all(parameter.grad is None for parameter in source.teacher.parameters())
    assert not source.teacher.training


def test_adapters_off_is_the_base_model():
    student, source = adapt(build("llama_lora")), AdaptersOff()
    reference_for(asft(), source, student, **CPU)
    student.output.disabled = True
    for layer in student.layers:
        layer.attn.q_proj.disabled = layer.attn.v_proj.disabled = True
    base = logits(student, BATCH.tokens).flatten(0, 1)
    student.output.disabled = False
    for layer in student.layers:
        layer.attn.q_proj.disabled = layer.attn.v_proj.disabled = False
    fused, dense = fused_and_dense(asft(), student, source, base)
    torch.testing.assert_close(fused, dense)
    assert (logits(student, BATCH.tokens).flatten(0, 1) - base).abs().max() > 0.1


def test_what_does_not_fit():
    student = adapt(build("llama_tied"))
    with pytest.raises(UserError, match="no LoRA adapters to switch off"):
        reference_for(asft(), AdaptersOff(), student, **CPU)
    with pytest.raises(UserError, match="needs a reference; name one"):
        reference_for(asft(), None, student, **CPU)
    with pytest.raises(UserError, match="takes no reference; remove it"):
        reference_for(sft(), AdaptersOff(), student, **CPU)
    assert reference_for(sft(), None, student, **CPU) is None
