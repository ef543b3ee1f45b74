"""Check that this machine can train, and print a one-line fix for whatever is broken.

Versions, the trio torch / torchtune / torchao, recipes, CPU, GPU, FlexAttention, processes, data without a network.
Exits with code 1 if something is broken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = ("cot doctor",)
_REINSTALL_TORCH = f'{sys.executable} -m pip install --force-reinstall "torch>=2.11,<3"'


class Finding(NamedTuple):
    """What was checked and the result; `fix` is the line that fixes it, "" if nothing is broken."""

    what: str
    found: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    broken = 0
    for check in CHECKS:
        for finding in check():
            broken += bool(finding.fix)
            print(f"{'BROKEN' if finding.fix else 'ok':<8}{finding.what:<20}{finding.found}", flush=True)
            if finding.fix:
                print(f"{'fix':>26}  {finding.fix}", flush=True)
    print(f"{broken} broken" if broken else "all well")
    return 1 if broken else 0


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    fine = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Finding("python", version, "" if fine else "python3.12 -m venv .venv   # 3.11 or 3.12 is needed")


def check_requirements(requires: list[str] | None = None) -> Iterator[Finding]:
    """Every required package, in the required version range."""
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in requires or metadata.requires("cot-components") or []]
    for need in needed:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        fix = f'{sys.executable} -m pip install "{need}"'
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield Finding(need.name, "is not installed", fix)
            continue
        fine = need.specifier.contains(version, prereleases=True)
        yield Finding(need.name, version if fine else f"{version}, but {need.specifier} is needed", "" if fine else fix)


def check_trio() -> Iterator[Finding]:
    """torchtune's training part: it breaks with incompatible versions of torch or torchao, which a bare import does not
    show."""
    pinned = [line for line in metadata.requires("cot-components") or [] if line.startswith(("torchtune", "torchao"))]
    fix = f"{sys.executable} -m pip install " + " ".join(f'"{line}"' for line in pinned)
    yield _tried("torchtune.training", lambda: __import__("torchtune.training") and "imports", fix)


def check_recipes() -> Iterator[Finding]:
    """`tune` is this environment's, and the recipes are this package's."""
    tune = Path(sys.executable).with_name("tune")
    on_path = shutil.which("tune")
    if on_path is None or Path(on_path).resolve() != tune.resolve():
        fix = f'export PATH="{tune.parent}:$PATH"' if tune.exists() else "pip install torchtune==0.6.1"
        yield Finding("tune", f"on PATH is {on_path}, not this environment's", fix)
    else:
        yield Finding("tune", str(tune))
    from cot_components.cli.shipped import shipped_recipes

    found = shipped_recipes()
    shadowed = {name: path for name, path in found.items() if "cot_components" not in path.read_text("utf-8")}
    renamed = [f"mv {path} {path.with_name(f'my_{path.name}')}" for path in shadowed.values()]
    fix = " && ".join(renamed) + "   # tune takes the first module with that name" if shadowed else ""
    fix = fix or (
        "" if found else f"{sys.executable} -m pip install --force-reinstall --no-deps -e .   # in the checkout"
    )
    said = "; ".join(f"{name} is {path}" for name, path in shadowed.items())
    yield Finding("recipes", said or ", ".join(found) or "none is installed", fix)


def check_cpu() -> Iterator[Finding]:
    """What `dtype` and `compile` are worth on the CPU."""
    from cot_components.training.throughput import UNITS, cpu_name, multiplies_in_bf16

    bf16 = multiplies_in_bf16()
    units = "has units for bf16" if bf16 else f"no units for bf16 ({', '.join(UNITS)}): dtype=bf16 trains in fp32"
    yield Finding("CPU", f"{cpu_name()}, {units}")
    if shutil.which(compiler := os.environ.get("CXX", "g++")) is None:
        yield Finding("compile=true", f"cannot be used on the CPU: there is no {compiler}")
    else:
        said = "pays on a CPU in runs of many steps; python -m benchmarks pretrained measures by how much"
        yield Finding("compile=true", said)


def check_gpu() -> Iterator[Finding]:
    """The GPU, and FlexAttention on it."""
    import torch

    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    if not torch.cuda.is_available():
        fix = f"{_REINSTALL_TORCH} --index-url https://download.pytorch.org/whl/cu128"
        said = "there is one, but torch cannot use it" if driver else "none; device=auto trains on the CPU"
        yield Finding("GPU", said, fix if driver else "")
        yield Finding("FlexAttention", "not used on a CPU: packed rows attend document by document")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16: use dtype=fp32"
        yield Finding(f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")
    yield _tried("FlexAttention", _flex, "apt-get install gcc   # compiles its kernels; or train without packed_tokens")


def _flex() -> str:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    q = torch.ones(1, 1, 128, 16, device="cuda")
    out = torch.compile(flex_attention)(q, q, q)
    assert torch.allclose(out, q, atol=1e-2)
    return "compiles and computes"


def check_distributed() -> Iterator[Finding]:
    """A group of one process, with the backends that training uses."""
    import torch

    if not torch.distributed.is_available():
        yield Finding("distributed", "torch was built without it", _REINSTALL_TORCH)
        return
    backends = ["gloo"] + (["nccl"] if torch.cuda.is_available() else [])
    for backend in backends:
        fix = "export GLOO_SOCKET_IFNAME=lo" if backend == "gloo" else "NCCL_DEBUG=INFO cot doctor   # says why"
        yield _tried(f"distributed, {backend}", partial(_group, backend), fix)


def _group(backend: str) -> str:
    import torch
    import torch.distributed as dist

    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        value = torch.ones(1, device="cuda" if backend == "nccl" else "cpu")
        dist.all_reduce(value)
        return "all-reduce works in a group of one process"
    finally:
        dist.destroy_process_group()


def check_data() -> Iterator[Finding]:
    """Data that need no network, and hub data sets in the cache."""
    from huggingface_hub import constants

    yield Finding("generated data", "dataset.source=generated needs no network")
    cache = Path(constants.HF_HUB_CACHE)
    cached = sorted(path.name for path in cache.glob("datasets--*")) if cache.is_dir() else []
    here = f"{len(cached)} data sets in {cache}"
    if not (constants.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE", "0") not in ("", "0")):
        yield Finding("hub data", f"{here}; others are fetched")
        return
    fix = "unset HF_HUB_OFFLINE HF_DATASETS_OFFLINE   # or dataset.source=FOLDER with a downloaded data set"
    yield Finding("hub data", f"offline, {here}", "" if cached else fix)


def _tried(what: str, attempt: Callable[[], Any], fix: str) -> Finding:
    try:
        return Finding(what, attempt())
    except Exception as error:  # whatever is broken is reported in one line
        said = str(error).strip().splitlines()
        return Finding(what, f"{type(error).__name__}: {said[0] if said else 'no message'}", fix)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_requirements,
    check_trio,
    check_recipes,
    check_cpu,
    check_gpu,
    check_distributed,
    check_data,
)
