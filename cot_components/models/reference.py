"""Sources of a loss's second distribution: a frozen model, the model itself without its adapters, or a file.

A source is called inside the student's forward, once per micro-batch, and returns the `reference` of `Loss.fused`:
hidden states with a head, so that full logits exist only chunk by chunk, or the teacher's `TopK`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cot_components.data.rows.batches import Batch, pad
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.errors import UserError, require
from cot_components.losses.topk_store import TopKStore, TopKWriter
from cot_components.losses.types import Head, Reference, TopK
from cot_components.models.adapter import head_of, hidden_states, logits
from cot_components.models.load import check_start, load_model, weights_key
from cot_components.models.lora_layers import adapters_off, has_adapters
from cot_components.roles import Role


class ReferenceSource(Protocol):
    """Provides the reference of a micro-batch."""

    def prepare(self, student: Any, data: ReasoningDataset, *, device: torch.device, dtype: torch.dtype) -> None:
        """Called once before training; refuses a reference that does not fit student or data."""

    def __call__(self, student: Any, batch: Batch) -> Reference:
        """The reference of one micro-batch, without gradients."""
        ...


class FrozenModel:
    """A second model that never learns: the base model of ASFT, the teacher of distillation and Target-SFT.

    Args:
        model: node of `from_folder`, or of a builder, with the student's tokenizer.
    """

    def __init__(self, *, model: Mapping[str, Any]) -> None:
        check_start(model, "reference.model")
        self._model = model
        self.teacher: Any = None

    def prepare(self, student: Any, data: ReasoningDataset, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights.

        Raises:
            UserError: the vocabularies differ in size, names both; a row is longer than the context of this model.
        """
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # keeps the run's own stream
            teacher = load_model(self._model, device=device, dtype=dtype)
        self.teacher = teacher.eval().requires_grad_(False)
        ours, theirs = (m.tok_embeddings.num_embeddings for m in (student, self.teacher))
        if ours != theirs:
            raise UserError(
                f"reference: its vocabulary has {theirs} tokens, the model's has {ours}; they must be the same"
            )
        longest = int(data.rows.lengths.max(initial=0))
        if longest > self.teacher.max_seq_len:
            raise UserError(
                f"reference: its context has {self.teacher.max_seq_len} tokens, but the longest row has {longest}; set "
                "reference.model.max_seq_len, or tokenizer.max_seq_len"
            )

    def key(self) -> str:
        """Identifies the model, see `weights_key`."""
        return weights_key(self._model)

    @torch.no_grad()
    def __call__(self, student: Any, batch: Batch) -> tuple[Tensor, Head]:
        return hidden_states(self.teacher, batch), head_of(self.teacher)


NO_ADAPTERS = "reference: the model has no LoRA adapters to switch off; use a frozen model"


class AdaptersOff:
    """The model itself with its LoRA adapters switched off: the base model at no cost in memory."""

    needs_adapters = True

    def prepare(self, student: Any, data: ReasoningDataset, *, device: torch.device, dtype: torch.dtype) -> None:
        """Raises UserError for a model without adapters."""
        if not has_adapters(student):
            raise UserError(NO_ADAPTERS)

    @torch.no_grad()
    def __call__(self, student: Any, batch: Batch) -> tuple[Tensor, Head]:
        training = student.training
        student.eval()  # the reference must not depend on dropout
        try:
            with adapters_off(student):
                return hidden_states(student, batch), head_of(student)
        finally:
            student.train(training)


class TopKFile:
    """A teacher's top k on disk: computed by the first run that needs it, read by all others; the teacher is then
    freed.

    Each row is scored as encoded, so transforms that remove tokens are refused.

    Args:
        folder: of the store, existing or new; tied to tokenizer, rows and teacher by hashes. An interrupted pass is
            continued.
        k: tokens kept per position; the remaining mass follows the student.
        model: the teacher, as in `FrozenModel`; None if the store is complete.
        rows_per_pass: rows the teacher scores at a time.

    Raises:
        UserError: `rows_per_pass` below 1; the teacher's weights do not exist.
    """

    needs_whole_rows = True

    def __init__(
        self,
        *,
        folder: str,
        k: int = 64,
        model: Mapping[str, Any] | None = None,
        rows_per_pass: int = 8,
    ) -> None:
        require("rows_per_pass", rows_per_pass, 1)
        check_start(model, "reference.model")
        self._folder, self._k, self._rows_per_pass = folder, k, rows_per_pass
        self._teacher = FrozenModel(model=model) if model else None
        self.store: TopKStore

    def prepare(self, student: Any, data: ReasoningDataset, *, device: torch.device, dtype: torch.dtype) -> None:
        """Open the store, after the teacher has scored any missing rows.

        Raises:
            UserError: a store of other rows, another tokenizer, vocabulary or teacher; rows are missing and there is no
                teacher.
        """
        assert not any(getattr(transform, "removes_tokens", False) for transform in data.transforms.values())
        made_of: dict[str, Any] = {
            "vocab_size": student.tok_embeddings.num_embeddings,
            "tokenizer": data.chat.tokenizer.fingerprint(),
            "data": data.rows.content_hash(),
        }
        if self._teacher is None and not (Path(self._folder) / "header.json").exists():
            raise UserError(f"reference.folder: {self._folder} has no store; set the teacher in 'model'")
        writer = TopKWriter(
            self._folder,
            k=min(self._k, made_of["vocab_size"]),
            teacher=self._teacher.key() if self._teacher else None,
            **made_of,
        )
        missing = np.flatnonzero(~np.isin(data.rows.ids, list(writer.done)))
        if len(missing) and self._teacher is None:
            raise UserError(f"reference.folder: {self._folder} lacks {len(missing)} rows; set the teacher in 'model'")
        if len(missing) and torch.distributed.is_initialized():
            raise UserError(
                f"reference.folder: {self._folder} lacks {len(missing)} rows; complete it with one process first"
            )
        if len(missing) and self._teacher is not None:
            self._teacher.prepare(student, data, device=device, dtype=dtype)
            self._score(writer, data, missing, device)
            self._teacher.teacher = None
        self.store = TopKStore(self._folder, **made_of)

    @torch.no_grad()
    def _score(self, writer: TopKWriter, data: ReasoningDataset, missing: np.ndarray, device: torch.device) -> None:
        assert self._teacher is not None
        missing = missing[np.argsort(data.rows.lengths[missing], kind="stable")]
        parts = np.array_split(missing, -(-len(missing) // self._rows_per_pass))
        for part in tqdm(parts, desc="teacher", unit="batch", disable=None):
            flat = data.rows.flat(part)
            batch = pad(flat, pad_id=data.chat.tokenizer.pad_id).to(device)
            for number, (row_id, length) in enumerate(zip(flat.ids.tolist(), flat.lengths.tolist(), strict=True)):
                writer.add(row_id, logits(self._teacher.teacher, batch.tokens[number : number + 1, :length])[0])
        writer.flush()

    def __call__(self, student: Any, batch: Batch) -> TopK:
        roles = batch.roles.cpu()
        packed = batch.input_pos if batch.documents is not None else None
        index = torch.arange(roles.shape[1]) if packed is None else packed.cpu()
        positions = (index + 1).expand_as(roles).masked_fill(roles == Role.PAD, -1)
        row_ids = torch.tensor([*batch.ids, 0])[batch.sample.cpu()]  # the last is for padding, which looks up nothing
        found = self.store.lookup(row_ids.flatten().numpy(), positions.flatten().numpy())
        return TopK(*(column.to(batch.tokens.device) for column in found))


def prepared(
    source: ReferenceSource | None, student: Any, data: ReasoningDataset, *, device: torch.device, dtype: torch.dtype
) -> ReferenceSource | None:
    """The source, prepared for this student and data; None if there is none.

    Raises:
        UserError: it does not fit student or data, see `ReferenceSource.prepare`.
    """
    if source is not None:
        source.prepare(student, data, device=device, dtype=dtype)
    return source
