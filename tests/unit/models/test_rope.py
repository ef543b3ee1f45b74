"""The rotation as a complex product: torchtune's own numbers, forward and backward, in fewer operations."""

import copy
import platform

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE
from torchtune.models.qwen2._positional_embeddings import Qwen2RotaryPositionalEmbeddings
from torchtune.modules import RotaryPositionalEmbeddings

from cot_components.models.rope import rotate_as_complex

KINDS = [RotaryPositionalEmbeddings, Llama3ScaledRoPE]
JUMPS = torch.tensor([[0, 1, 2, 7, 8, 0, 1], [3, 9, 4, 0, 0, 1, 15]])


class Operations(TorchDispatchMode):
    """Counts operations and notes whether one multiplied complex numbers."""

    def __init__(self):
        super().__init__()
        self.count, self.complex = 0, False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        self.complex |= function is torch.ops.aten.mul.Tensor and args[0].is_complex()
        return function(*args, **(kwargs or {}))


def pair(kind, dim=64):
    stock = kind(dim=dim, max_seq_len=16)
    ours = copy.deepcopy(stock)
    rotate_as_complex(ours)
    return stock, ours


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("input_pos", [None, JUMPS], ids=["in order", "jumps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [32, 64, 128])
def test_the_same_numbers(kind, input_pos, dtype, dim):
    stock, ours = pair(kind, dim)
    x = torch.randn(2, 3, 7, dim, dtype=dtype).transpose(1, 2).requires_grad_()  # not contiguous, like keys of a cache
    toward = torch.randn(2, 7, 3, dim, dtype=dtype)
    outputs = [rope(x, input_pos=input_pos) for rope in (stock, ours)]
    gradients = [torch.autograd.grad(y, x, toward)[0] for y in outputs]
    for expected, got in (outputs, gradients):
        assert got.dtype == dtype and got.abs().max() > 0
        torch.testing.assert_close(got, expected)
        assert torch.equal(got, expected) or platform.machine() != "x86_64"


@pytest.mark.parametrize("kind", KINDS)
def test_in_fewer_operations(kind):
    counted = []
    for rope in pair(kind):
        with Operations() as operations:
            rope(torch.randn(1, 7, 2, 64))
        counted.append(operations)
    stock, ours = counted
    assert ours.complex and not stock.complex and ours.count < stock.count


def test_a_copy_turns_by_its_own_positions():
    _, ours = pair(RotaryPositionalEmbeddings)
    twin, x = copy.deepcopy(ours), torch.randn(1, 7, 2, 64)
    ours.cache.zero_()
    assert ours(x).abs().max() == 0 and twin(x).abs().max() > 0


def test_what_is_not_that_rotation_is_left_alone():
    for kind, dim in ((Qwen2RotaryPositionalEmbeddings, 64), (RotaryPositionalEmbeddings, 24)):
        assert "forward" not in vars(pair(kind, dim)[1])
    rounded = pair(RotaryPositionalEmbeddings)
    for rope in rounded:
        rope.to(torch.bfloat16)
    x = torch.randn(1, 7, 2, 64)
    assert torch.equal(*(rope(x) for rope in rounded))


def test_compiled_it_is_the_long_form():
    _, ours = pair(RotaryPositionalEmbeddings)
    seen = []

    def backend(graph, _):
        seen.append(graph)
        return graph

    x = torch.randn(1, 7, 2, 64)
    assert torch.equal(torch.compile(ours, backend=backend)(x), ours(x))
    assert len(seen) == 1 and "view_as_complex" not in seen[0].code
