"""Training in `transformers.Trainer` and TRL's `SFTTrainer` with what their own loops lack: weights, roles, token
classes, a reference, and the epoch, so that masks are redrawn.

    class MyTrainer(ReasoningTrainerMixin, Trainer): ...

    MyTrainer(model, args, train_dataset=data, loss=dft()).train()

`data` is a `ReasoningDataset`. The trainer's loss of a step is the recipes' `objective` with `normalize: count`.
Nothing else in the package imports this module, and `transformers` is imported only when a trainer is created.
"""

from cot_components.huggingface.collator import ReasoningCollator
from cot_components.huggingface.trainer import ReasoningTrainerMixin

__all__ = ["ReasoningCollator", "ReasoningTrainerMixin"]
