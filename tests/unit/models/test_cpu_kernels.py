"""The RMS norm and the rotation as one function each: torchtune's own numbers, both ways, in fewer operations."""

import copy
import platform

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE
from torchtune.models.qwen2._positional_embeddings import Qwen2RotaryPositionalEmbeddings
from torchtune.modules import RMSNorm, RotaryPositionalEmbeddings

from cot_components.models.rms_norm import normalise_in_few_passes
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


def norms(dim, dtype=torch.float32):
    stock = RMSNorm(dim, eps=1e-5).to(dtype)
    stock.scale.data.uniform_(0.5, 1.5)
    ours = copy.deepcopy(stock)
    normalise_in_few_passes(ours)
    assert ours.forward.__func__ is not RMSNorm.forward
    return stock, ours


def ropes(kind, dim=64):
    stock = kind(dim=dim, max_seq_len=16)
    ours = copy.deepcopy(stock)
    rotate_as_complex(ours)
    return stock, ours


def assert_same(stock, ours, dtype):
    for expected, got in zip(stock, ours, strict=True):
        assert got.dtype == dtype and got.abs().max() > 0
        torch.testing.assert_close(got, expected)
        assert torch.equal(got, expected) or platform.machine() != "x86_64"


@pytest.mark.parametrize("shape", [(4, 64, 256), (3, 17, 2048), (1, 500, 64), (2, 5, 33), (7, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_of_the_same_numbers(shape, dtype):
    x = (3 * torch.randn(shape, dtype=dtype)).requires_grad_()
    toward = torch.randn(shape, dtype=dtype)
    pair = norms(shape[-1], dtype)
    assert_same(*[(y := norm(x), *torch.autograd.grad(y, (x, norm.scale), toward)) for norm in pair], dtype)


def test_what_is_frozen_has_no_gradient_and_the_rest_the_same():
    pair, x, toward = norms(32), torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    for norm in pair:
        (norm(x) * toward).sum().backward()
        norm.requires_grad_(False)
    torch.testing.assert_close(pair[1].scale.grad, pair[0].scale.grad)
    moved = x.clone().requires_grad_()
    torch.testing.assert_close(*[torch.autograd.grad(norm(moved), moved, toward)[0] for norm in pair])
    with torch.no_grad():
        assert not pair[1](x).requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("input_pos", [None, JUMPS], ids=["in order", "jumps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [32, 64, 128])
def test_a_rotation_of_the_same_numbers(kind, input_pos, dtype, dim):
    x = torch.randn(2, 3, 7, dim, dtype=dtype).transpose(1, 2).requires_grad_()  # not contiguous, like keys of a cache
    toward = torch.randn(2, 7, 3, dim, dtype=dtype)
    pair = [rope(x, input_pos=input_pos) for rope in ropes(kind, dim)]
    assert_same(*[(y, torch.autograd.grad(y, x, toward)[0]) for y in pair], dtype)


@pytest.mark.parametrize("pair", [norms(64), *map(ropes, KINDS)], ids=["norm", "rope", "scaled rope"])
def test_in_fewer_operations(pair):
    counted = []
    for module in pair:
        with Operations() as operations:
            module(torch.randn(1, 7, 2, 64, requires_grad=True)).sum().backward()
        counted.append(operations)
    stock, ours = counted
    assert ours.count < stock.count and not stock.complex and ours.complex == (not isinstance(pair[0], RMSNorm))


def test_a_copy_turns_by_its_own_positions():
    _, ours = ropes(RotaryPositionalEmbeddings)
    twin, x = copy.deepcopy(ours), torch.randn(1, 7, 2, 64)
    ours.cache.zero_()
    assert ours(x).abs().max() == 0 and twin(x).abs().max() > 0


def test_what_computes_something_else_is_left_alone():
    for kind, dim in ((Qwen2RotaryPositionalEmbeddings, 64), (RotaryPositionalEmbeddings, 24)):
        assert "forward" not in vars(ropes(kind, dim)[1])
    rounded = [rope.to(torch.bfloat16) for rope in ropes(RotaryPositionalEmbeddings)]
    x = torch.randn(1, 7, 2, 64)
    assert torch.equal(*(rope(x) for rope in rounded))

    class Other(RMSNorm):
        def forward(self, x):
            return x

    other = Other(4)
    normalise_in_few_passes(other)
    assert torch.equal(other(torch.ones(1, 4)), torch.ones(1, 4)) and "forward" not in vars(other)


def test_a_compiled_rotation_is_the_long_form():
    _, ours = ropes(RotaryPositionalEmbeddings)
    seen = []

    def backend(graph, _):
        seen.append(graph)
        return graph

    x = torch.randn(1, 7, 2, 64)
    assert torch.equal(torch.compile(ours, backend=backend)(x), ours(x))
    assert len(seen) == 1 and "view_as_complex" not in seen[0].code
