"""The shuffle-aware discriminator (SHAD): which tokens of an output are boilerplate, and which are reasoning.

    tune run shad --config shad/quickstart
    tune run shad --config shad/llama3_2_3B_xlam dataset.source=FILE model.path=DIR

The outputs of a small share of the rows are shuffled, so that none fits its prompt. A model tuned on them can only
learn what repeats across outputs. Then every output token is scored by the model before and after this tuning. The
scores go to `output_dir/scores`, for `cot_components.transforms.Highlight`. Start an interrupted run again to resume
it.
"""

from dataclasses import replace
from functools import partial
from typing import Literal

from cot_components.config import build
from cot_components.data.rows.score_pass import data_key
from cot_components.losses import sft
from cot_components.models.load import check_start, load_model
from cot_components.models.lora_layers import adapters_off, has_adapters
from cot_components.models.score import Asked, score_data
from cot_components.training.batching import load_batches, plan_steps
from cot_components.training.loop import Trainer, train
from cot_components.training.recipe import recipe
from cot_components.training.run_log import RunLog
from cot_components.training.setup import build_optimizer, fit_rows, one_process, prepare_model, start_run
from cot_components.training.shad_report import check_calls, print_classes
from cot_components.training.shuffled import tuned_model, tuning_folder, weights_hash
from cot_components.transforms.discriminator import sample_rows, shuffle_outputs

SUPPLIES = {
    "dataset": ["tokenizer"],
    "optimizer": ["params"],
    "lr_scheduler": ["optimizer", "num_training_steps", "last_epoch"],
    "truth": ["rows", "decode"],
}


@recipe(supplies=SUPPLIES)
def main(
    *,
    output_dir: str,  # the run's folder: `scores`, the tuned model, `classes.json`
    tokenizer: dict,  # node: text to token ids, with the chat template
    dataset: dict,  # node: the rows to score; its transforms are left out
    model: dict,  # node: `cot_components.models.from_folder`, or a torchtune builder, which starts from random weights
    optimizer: dict,  # node: a torch optimizer, for the tuning on shuffled rows
    lr_scheduler: dict | None = None,  # node: spans the steps of the tuning; null is a constant rate
    share: float = 0.01,  # share of the rows whose outputs are shuffled
    at_least: int = 256,  # minimum number of rows whose outputs are shuffled
    needs_calls: bool = True,  # whether to refuse data without any tool call
    epochs: int = 1,  # passes over the shuffled rows
    batch_size: int = 8,  # rows of one micro-batch
    gradient_accumulation_steps: int = 1,  # micro-batches of one step
    clip_grad_norm: float | None = 1.0,  # maximum gradient norm; null does not clip
    tokens_per_pass: int = 16_384,  # tokens per scoring pass, padding included
    reference: dict | None = None,  # node: a `FrozenModel` that also scores (column `reference`), for `TopGap`
    threshold: float = 0.0,  # of the printed classes, in nats; the scores do not depend on it
    truth: dict | None = None,  # node: a component that knows the true classes of the rows
    shown_rows: int = 3,  # samples to print with their classes
    seed: int = 0,  # of the shuffling, random weights and the order of rows
    device: str = "auto",  # auto, cpu, cuda, cuda:1
    dtype: Literal["bf16", "fp32", "bf16_nearest"] = "bf16",  # of weights, products; bf16_nearest loses small updates
    enable_activation_checkpointing: bool = False,  # compute layers again in the backward
    log_every_n_steps: int = 1,  # 0 logs no step
) -> None:
    """Shuffle, tune, score, report."""
    config = dict(locals())
    check_start(model)
    run = start_run(output_dir=output_dir, device=device, seed=seed, config=config)
    one_process(run, "shad")

    data = replace(build(dataset, build(tokenizer, where="tokenizer")), transforms={})
    check_calls(data, needed=needs_calls)
    sample = sample_rows(data.rows, share=share, at_least=at_least, seed=seed)
    swapped = data.with_rows(shuffle_outputs(data.rows, sample, seed=seed))
    steps = {"epochs": epochs, "batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps}
    plans = plan_steps(swapped, run, seed=seed, **steps)
    second = build(reference)

    net = load_model(model, device=run.device, dtype=run.dtype, seed=seed)
    fit_rows(net, data)
    prepare_model(net, run.world, compile=False, enable_activation_checkpointing=enable_activation_checkpointing)
    base = weights_hash(net, adapters=False)
    score = partial(score_data, data=data, folder=run.output_dir / "scores", max_tokens=tokens_per_pass)

    def tune() -> None:
        optim, schedule = build_optimizer(optimizer, lr_scheduler, net, run, num_steps=plans.total_steps)
        trainer = Trainer(net, sft().fused, optim, schedule, run.device, run.world, clip_grad_norm=clip_grad_norm)
        log = RunLog(tuning_folder(run), plans.total_steps, every=log_every_n_steps)
        log.say(f"{data.summary()}; tuning on {len(sample):,} rows whose outputs changed places")
        train(trainer, load_batches(swapped, plans, run), on_step=log.after_step)
        log.close()

    made_of = {"base": base, "rows": data_key(swapped.rows), "model": model, "seed": seed, **steps}
    made_of |= {"optimizer": optimizer, "lr_scheduler": lr_scheduler, "clip_grad_norm": clip_grad_norm}
    if has_adapters(net):  # one pass over the data, adapters off and on
        tuned_model(net, run.output_dir, made_of, tune)
        scores = score(net, columns={"original": Asked(base, view=adapters_off), "shuffled": Asked(weights_hash(net))})
    else:  # what the model thinks before it is changed, then after
        score(net, columns={"original": Asked(base)})
        tuned_model(net, run.output_dir, made_of, tune)
        scores = score(net, columns={"shuffled": Asked(weights_hash(net))})
    if second is not None:
        second.prepare(net, data, device=run.device, dtype=run.dtype)
        scores = score(second.teacher, columns={"reference": Asked(weights_hash(second.teacher))})

    true_classes = build(truth, data.rows, data.chat.tokenizer.decode)
    print_classes(run, data, scores, threshold=threshold, truth=true_classes, shown_rows=shown_rows)


if __name__ == "__main__":
    main()
