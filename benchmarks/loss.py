"""The fused loss against whole logits, torchtune, torch and the GPU kernels: time, peak memory, precision.

Shapes, gates and rules are fixed here so that runs can be compared; both sides of a ratio come from one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.loss_peers import NAIVE, ON_CPU, ON_GPU, TORCH_CHUNKED, Peer, available, naive
from benchmarks.measure import peak_bytes, seconds
from benchmarks.report import Row
from cot_components import losses
from cot_components.losses import Loss, supervised_rows

CPU_SHAPES = {
    # (N, d, V): time gates by the share that is ignored, gate of the peak
    (1024, 512, 32768): ({0.0: 1.00, 0.5: 0.55, 0.8: 0.27}, 0.35),
    (512, 512, 128256): ({0.0: 0.95, 0.5: 0.52, 0.8: 0.28}, 0.55),
}
GPU_SHAPES = {"cuda": (8192, 2048, 128256), "tiny": (64, 16, 96)}
PRESET_SHAPES = {**dict.fromkeys(("cpu", "cuda"), (512, 512, 32768)), "tiny": (32, 16, 64)}
PRECISION_SHAPES = {**dict.fromkeys(("cpu", "cuda"), (2048, 256, 8192)), "tiny": (256, 32, 128)}
GPU_FLOPS = 790e12
"""Speed of bf16 matmuls on random data on one H200, which defines the floor."""
IGNORED = (0.0, 0.5, 0.8)
REHEARSED_TOKENS = 32
FAR = 3.0
"""A peer that takes this many times as long as ours is measured once."""
MIB = 2.0**20


class Inputs:
    """Fresh random inputs, and steps on them: a loss, its gradients for hidden states and head, everything dropped."""

    def __init__(self, shape: tuple[int, int, int], ignored: float, device: str, dtype: torch.dtype) -> None:
        num_tokens, width, vocab_size = shape
        make = {"device": device, "dtype": dtype}
        self.hidden = torch.randn(num_tokens, width, **make).requires_grad_()
        self.head = (torch.randn(vocab_size, width, **make) * width**-0.5).requires_grad_()
        labels = torch.randint(0, vocab_size, (num_tokens,))
        labels[torch.randperm(num_tokens)[: round(ignored * num_tokens)]] = -100
        self.rows, self.labels = supervised_rows(labels).to(device), labels.to(device)
        self.reference = (torch.randn(num_tokens, width, **make), torch.randn(vocab_size, width, **make) * width**-0.5)
        self.columns = {"old_logp": torch.full((num_tokens,), -9.0, device=device)}

    def ours(self, loss: Loss) -> Tensor:
        reference = self.reference if loss.needs_reference else None
        out = loss.fused(self.hidden, self.head, self.labels, rows=self.rows, columns=self.columns, reference=reference)
        return out.objective.sum()

    def peer(self, peer: Peer) -> Tensor:
        return peer(self.hidden, self.head, self.labels)

    def gradients(self, total: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(total, (self.hidden, self.head)))

    def step(self, loss: Loss | Peer) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            total = self.ours(loss) if isinstance(loss, Loss) else self.peer(loss)
            return [total.detach(), *self.gradients(total)]

        return run


def agreeing(steps: dict[str, Callable[[], list[Tensor]]], tolerance: float) -> dict[str, str]:
    """Each peer whose step fails or differs from ours, which comes first, in loss or gradients: name -> reason."""
    (_, ours), *peers = steps.items()
    expected, unlike = ours(), {}
    for name, step in peers:
        try:
            found = step()
        except RuntimeError as error:  # out of memory, or a kernel that this device cannot run
            unlike[name] = str(error).strip().splitlines()[0][:120]
            continue
        off = max(
            float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(found, expected, strict=True)
        )
        if not off <= tolerance:
            unlike[name] = f"differs from ours by {off:.1e}, so times cannot be compared"
    return unlike


def rows(device: str = "cpu", size: str = "cpu") -> Iterator[Row]:
    if size in GPU_SHAPES:
        yield from on_gpu(device, size)
        return
    peers, absent = available(ON_CPU)
    for shape, (time_gates, peak_gate) in CPU_SHAPES.items():
        for ignored, time_gate in time_gates.items():
            gates = {NAIVE: (time_gate, peak_gate)}
            yield from compare(shape, ignored, {NAIVE: naive, **peers}, gates, "cpu", torch.float32)
        peers.pop(TORCH_CHUNKED, None)  # chunks of two rows at the larger vocabulary: half a minute per step
    for name, reason in absent.items():
        yield Row("time and peak", name, "", note=reason)
    yield from presets(device, size)
    yield from precision(device, size)


def compare(
    shape: tuple[int, int, int],
    ignored: float,
    peers: dict[str, Peer],
    gates: dict[str, tuple[float | None, float | None]],
    device: str,
    dtype: torch.dtype,
) -> Iterator[Row]:
    """Time and peak memory of ours against each peer; without gates of its own, a peer must be slower and larger."""
    inputs = Inputs(shape, ignored, device, dtype)
    everything = {"ours": losses.sft(), **peers}
    steps = {name: inputs.step(loss) for name, loss in everything.items()}
    unlike = agreeing(steps, 1e-4 if dtype == torch.float32 else 2e-2)
    steps = {name: step for name, step in steps.items() if name not in unlike}
    times = seconds(steps, device, rounds=2, warm=True, far=FAR)
    few = Inputs((REHEARSED_TOKENS, *shape[1:]), ignored, device, dtype)
    rehearsals = {name: few.step(everything[name]) for name in steps}
    peaks = {name: peak_bytes(steps[name], device, rehearsal=rehearsals[name]) / MIB for name in steps}
    case = f"V={shape[2]} N={shape[0]} {ignored:.0%} ignored {str(dtype)[6:]}"
    for name, reason in unlike.items():
        yield Row(f"time and peak, {case}", name, "", note=reason)
    for name in (name for name in peers if name in steps):
        time_gate, peak_gate = gates.get(name, (1.0, 1.0))
        yield Row(f"time, {case}", name, "s", times["ours"], times[name], time_gate)
        yield Row(f"peak, {case}", name, "MiB", peaks["ours"], peaks[name], peak_gate)


OBSERVED_ONLY = {
    "dft": losses.dft(),
    "beyond_log": losses.beyond_log(exponent=0.5),
    "profit": losses.profit(threshold=0.1),
    "chord_phi": losses.chord_phi(),
    "psft": losses.psft(),
}
WHOLE_ROW = {
    "eaft": (losses.eaft(), "reads the top 20 logits"),
    "label_smoothing": (losses.label_smoothing(), "keeps logits beside their exponentials"),
    "otr": (losses.otr(), "a second softmax"),
    "gem": (losses.gem(), "a second softmax"),
    "sft_kl": (losses.sft_kl(kl_weight=0.1), "a reference head, 8ndV, and its softmax"),
    "asft": (losses.asft(), "a reference head, 8ndV, and its softmax"),
    "distill": (losses.distill(), "a reference head, 8ndV, and its softmax"),
    "target_sft": (losses.target_sft(eta=0.5), "a reference head, 8ndV, and a mixture's softmax"),
    "sft, per_token_grad": (losses.sft(per_token_grad=True), "logits computed twice, 8ndV"),
}


def presets(device: str, size: str) -> Iterator[Row]:
    """Every kind of preset against our own nll, with half the tokens ignored."""
    shape = PRESET_SHAPES[size]
    inputs = Inputs(shape, 0.5, device, torch.float32)
    everything = {**OBSERVED_ONLY, **{name: loss for name, (loss, _) in WHOLE_ROW.items()}}
    steps = {name: inputs.step(loss) for name, loss in {"nll": losses.sft(), **everything}.items()}
    times = seconds(steps, device)
    for name in everything:
        gate = 1.10 if name in OBSERVED_ONLY else None
        note = "" if name in OBSERVED_ONLY else WHOLE_ROW[name][1]
        yield Row(f"time, {name}, V={shape[2]} 50% ignored", "our nll", "s", times[name], times["nll"], gate, note=note)


def precision(device: str, size: str) -> Iterator[Row]:
    """Error of loss and gradients from bf16 inputs against float64, compared with that of whole bf16 logits."""
    inputs = Inputs(PRECISION_SHAPES[size], 0.5, device, torch.bfloat16)
    exact_in = [tensor.detach().double().requires_grad_() for tensor in (inputs.hidden, inputs.head)]
    count = int((inputs.labels != -100).sum())
    exact = F.cross_entropy(exact_in[0] @ exact_in[1].t(), inputs.labels)
    exact_grads = torch.autograd.grad(exact, exact_in)

    def errors(total: Tensor) -> list[float]:
        grads = inputs.gradients(total / count)
        value = abs(float(total.detach()) / count - float(exact.detach())) / float(exact.detach())
        return [value, *(float((g.double() - e).norm() / e.norm()) for g, e in zip(grads, exact_grads, strict=True))]

    ours = errors(inputs.ours(losses.sft()))
    whole = errors(inputs.peer(naive))
    yield Row("loss, bf16, error over what is allowed", "2e-4", "", ours[0], 2e-4, 1.0)
    for name, mine, other in zip(("hidden", "head"), ours[1:], whole[1:], strict=True):
        yield Row(f"gradient of {name}, bf16, error", NAIVE, "", mine, other, 1.1)


def on_gpu(device: str, size: str) -> Iterator[Row]:
    num_tokens, width, vocab_size = shape = GPU_SHAPES[size]
    peers, absent = available(ON_GPU)
    for ignored in IGNORED:
        # At 0 % the gate is the floor below; with anything ignored, every peer must be slower and larger.
        gates = dict.fromkeys(peers, (None, None)) if ignored == 0 else {}
        yield from compare(shape, ignored, peers, gates, device, torch.bfloat16)
    inputs = Inputs(shape, 0.0, device, torch.bfloat16)
    step = inputs.step(losses.sft())
    floor = 6 * num_tokens * width * vocab_size / GPU_FLOPS
    taken = seconds({"ours": step}, device)["ours"]
    yield Row("time, 0% ignored bf16", "products at 790 TFLOP/s", "s", taken, floor, 1.25)
    allowed = (2 * width * (vocab_size + num_tokens) + 1.1e9) / MIB
    yield Row("peak, 0% ignored bf16", "both gradients + 1.1 GB", "MiB", peak_bytes(step, device) / MIB, allowed, 1.0)
    for name, reason in absent.items():
        yield Row("time and peak", name, "", note=reason)
    yield from presets(device, size)
    yield from precision(device, size)
