"""Updates of bf16 weights: none is lost, moments decay, resume is exact, any optimizer fits."""

import copy

import pytest
import torch
from torchao.optim import AdamW8bit

from cot_components.training import exact_updates
from cot_components.training.exact_updates import MASTER, StochasticRounding

NAMES = ("a", "b")


def weights(dtype=torch.bfloat16, size=5000, value=0.02):
    return [torch.nn.Parameter(torch.full((size,), value).to(dtype).requires_grad_()) for _ in NAMES]


def wrapped(params, make=torch.optim.AdamW, *, state="bf16", seed=0, **settings):
    return StochasticRounding(make(params, **settings), dict(zip(params, NAMES, strict=True)), state=state, seed=seed)


def take_steps(optimizer, params, steps, grad=1.0):
    for _ in range(steps):
        for p in params:
            p.grad = torch.full_like(p, grad)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (torch.optim.AdamW, {"lr": 1e-6, "weight_decay": 0.0}),
        (torch.optim.AdamW, {"lr": 1e-6, "fused": True}),
        (torch.optim.Adam, {"lr": 1e-6, "amsgrad": True}),
        (torch.optim.SGD, {"lr": 1e-6, "momentum": 0.5}),
        (AdamW8bit, {"lr": 1e-6}),
    ],
)
@pytest.mark.parametrize("state", ["bf16", "fp32_moments", "fp32_weights"])
def test_small_updates_add_up(make, settings, state):
    """20 updates of a 60th of half a gap: rounded to the nearest none is seen; here all, as in fp32."""
    fine, ours, nearest = (weights(torch.float32), weights(), weights())
    start = float(ours[0].detach()[0])
    for p in fine:
        p.data.fill_(start)
    take_steps(make(fine, **settings), fine, 20)
    take_steps(wrapped(ours, make, state=state, **settings), ours, 20)
    take_steps(make(nearest, **settings), nearest, 20)
    wanted = float(fine[0].detach().double().mean()) - start
    assert all((p == start).all() for p in nearest)
    assert all(p.dtype == torch.bfloat16 for p in ours)
    moved = torch.cat([p.detach().double() for p in ours]).mean() - start
    assert float(moved) == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize(("state", "size"), [("bf16", 4), ("fp32_moments", 8), ("fp32_weights", 12)])
def test_bytes_between_steps(state, size):
    """Beside 2 for the weight and 2 for its gradient."""
    params = weights()
    optimizer = wrapped(params, state=state, lr=1e-5)
    take_steps(optimizer, params, 1)
    kept = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if v.ndim)
    assert kept == size * sum(p.numel() for p in params)


def test_moments_decay():
    """The second moment at 0.999 loses a 1,000th a step: in bf16, rounded to the nearest, it stays for ever."""
    params = weights()
    optimizer = wrapped(params, lr=0.0)
    take_steps(optimizer, params, 1)
    before = float(optimizer.state[params[0]]["exp_avg_sq"].double().mean())
    take_steps(optimizer, params, 100, grad=0.0)
    after = float(optimizer.state[params[0]]["exp_avg_sq"].double().mean())
    assert after / before == pytest.approx(0.999**100, rel=2e-3)


@pytest.mark.parametrize("state", ["bf16", "fp32_weights"])
def test_steps_after_a_copy_are_the_same_bits(state):
    """What a step depends on is weights, states and groups, which a checkpoint holds; the seed changes draws."""
    drawn = []
    for seed in (0, 0, 1):
        params = weights()
        optimizer = wrapped(params, state=state, seed=seed, lr=1e-5)
        take_steps(optimizer, params, 2)
        if len(drawn) == 1:
            again = weights()
            for p, old in zip(again, params, strict=True):
                p.data.copy_(old)
            resumed = wrapped(again, state=state, lr=1e-5)
            for p, old in zip(again, params, strict=True):
                resumed.state[p] = copy.deepcopy(optimizer.state[old])
            resumed.param_groups[0]["updates"] = optimizer.param_groups[0]["updates"]
            params, optimizer = again, resumed
        take_steps(optimizer, params, 2)
        drawn.append(torch.cat([p.detach() for p in params]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.SGD, {"momentum": 0.5}),
        (torch.optim.SGD, {}),
    ],
)
@pytest.mark.parametrize("state", ["bf16", "fp32_moments", "fp32_weights"])
def test_slices_are_the_same_bits_as_whole_tensors(make, settings, state, monkeypatch):
    """Slices shorter and longer than a tensor; two groups, whose learning rates differ."""
    found = []
    for size in (None, 1024, 4096, 1 << 20):
        monkeypatch.setattr(exact_updates, "ELEMENTWISE", () if size is None else (torch.optim.AdamW, make))
        monkeypatch.setattr(exact_updates, "SLICE", size)
        params = [torch.nn.Parameter(p.detach().view(50, 100)) for p in weights()]
        groups = [{"params": [p], "lr": lr} for p, lr in zip(params, (1e-3, 1e-2), strict=True)]
        optimizer = StochasticRounding(
            make(groups, lr=1e-3, **settings), dict(zip(params, NAMES, strict=True)), state=state, seed=0
        )
        for step in range(4):
            for p in params:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).bfloat16()
            optimizer.step()
        kept = [v for p in params for _, v in sorted(optimizer.state[p].items()) if v is not None]
        found.append([*(p.detach() for p in params), *kept])
    for sliced in found[1:]:
        for one, whole in zip(sliced, found[0], strict=True):
            assert one.dtype == whole.dtype and torch.equal(one, whole)


def test_a_reset_keeps_fp32_weights_and_the_count_of_draws():
    params = weights()
    before = wrapped(params, state="fp32_weights", lr=1e-6)
    take_steps(before, params, 3)
    after = wrapped(params, state="fp32_weights", lr=1e-6)
    after.take_over(before)
    assert after.param_groups[0]["updates"] == 3
    assert all(torch.equal(after.state[p][MASTER], before.state[p][MASTER]) for p in params)
    assert all(after.state[p].keys() == {MASTER} for p in params)


def test_schedules_and_weights_in_fp32_and_without_a_gradient():
    params = [*weights(size=10)[:1], *weights(torch.float32, size=10)[:1]]
    plain = weights(torch.float32, size=10)[1]
    plain.data.copy_(params[1])
    optimizer, twin = wrapped(params, lr=0.1), torch.optim.AdamW([plain], lr=0.1)
    schedules = [torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5) for o in (optimizer, twin)]
    for _ in range(3):
        params[1].grad, plain.grad = torch.ones(10), torch.ones(10)
        for made in (optimizer, twin, *schedules):
            made.step()
    assert torch.equal(params[1], plain) and optimizer.param_groups[0]["lr"] == 0.1 / 8
    assert params[0] not in optimizer.state and float(params[0].detach()[0]) == float(torch.tensor(0.02).bfloat16())
