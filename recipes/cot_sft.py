"""Supervised fine-tuning on chain-of-thought: every method of this package, alone or combined.

    tune run cot_sft --config cot_sft/quickstart

A method is one node of the config: a transform in `dataset.transforms` (blurred thoughts), the `curriculum` (stepwise
internalisation), a `weight_rule` of the loss (reasoning-highlighted fine-tuning), or the `loss` itself with its
`reference` (Target-SFT). An absent method is an object that changes nothing, so the recipe has no branch for any of
them.
"""

from typing import Literal

from cot_components.config import build
from cot_components.data.rows.batches import Step
from cot_components.losses import sft
from cot_components.models.load import check_start, load_model
from cot_components.models.reference import prepared
from cot_components.training.batching import load_stages, plan_steps
from cot_components.training.combination import combine
from cot_components.training.evaluations import Evaluations
from cot_components.training.finish import finish
from cot_components.training.first_look import check_learns, check_scored, share_of_reasoning
from cot_components.training.float8 import check_float8
from cot_components.training.loop import Trainer, train
from cot_components.training.recipe import recipe
from cot_components.training.restarts import restart
from cot_components.training.resume.saver import Saver
from cot_components.training.run_log import RunLog
from cot_components.training.setup import build_optimizer, fit_rows, pick_device, prepare_model, start_run
from cot_components.training.trained import trained_weights
from cot_components.training.validation import validation_data

SUPPLIES = {
    "dataset": ["tokenizer"],
    "optimizer": ["params"],
    "lr_scheduler": ["optimizer", "num_training_steps", "last_epoch"],
}


@recipe(supplies=SUPPLIES)
def main(
    *,
    output_dir: str,  # the run's folder: log, config, checkpoints, and `model` in Hugging Face layout
    tokenizer: dict,  # node: text to token ids, with the chat template
    dataset: dict,  # node: the rows to train on; `dataset.transforms.NAME` blurs, weighs or classifies their tokens
    model: dict,  # node: `cot_components.models.from_folder`, or a torchtune builder, which starts from random weights
    optimizer: dict,  # node: a torch optimizer
    loss: dict,  # node: a loss of `cot_components.losses`; its `weight_rule` follows the current loss
    trainable: dict | None = None,  # node: which weights learn, of `cot_components.trainable`; null is all, or adapters
    curriculum: dict | None = None,  # node: which thought tokens leave the sequence, and when; null removes none
    reference: dict | None = None,  # node: second distribution of a loss: `FrozenModel`, `AdaptersOff`, `TopKFile`
    lr_scheduler: dict | None = None,  # node: spans all steps of the run; null is a constant rate
    dataset_val: float | str | dict | None = None,  # rows for the held-out loss: a share, a path, or keys that differ
    evaluation: dict | None = None,  # node: prompts to answer and score
    evaluate_every_n_steps: int | None = None,  # null evaluates only after the last step
    evaluate_before_training: bool = True,  # whether to evaluate before the first step as well
    epochs: int = 1,  # passes over the data
    max_steps_per_epoch: int | None = None,  # ends every epoch after this many steps
    batch_size: int = 8,  # rows of one micro-batch on one process
    packed_tokens: int | None = None,  # packs rows into micro-batches of this many tokens
    gradient_accumulation_steps: int = 1,  # micro-batches of one step on one process
    normalize: Literal["count", "weight"] = "count",  # divides a step's sum by supervised tokens, or their weight
    clip_grad_norm: float | None = 1.0,  # maximum gradient norm; null does not clip
    num_workers: int = 0,  # processes that make batches ahead of the loop
    seed: int = 0,  # of weights, order and dropout
    device: str = "auto",  # auto, cpu, cuda, cuda:1
    dtype: Literal["bf16", "fp32", "bf16_nearest"] = "bf16",  # of weights, products; bf16_nearest loses small updates
    optimizer_state: Literal["bf16", "fp32_moments", "fp32_weights"] = "bf16",  # with dtype bf16: 8, 12, 16 bytes
    export_dtype: Literal["bf16", "fp32"] | None = None,  # of the exported weights; null is that of `dtype`
    compile: bool = False,  # compile the layers
    float8: bool = False,  # products in float8 (Ada, Hopper), with `dtype: bf16` and `compile: true`
    enable_activation_checkpointing: bool = False,  # recompute layers in the backward to save memory
    metric_logger: dict | None = None,  # node: a torchtune logger, in addition to `log.jsonl`
    log_every_n_steps: int = 1,  # 0 logs no step
    log_blurred_every: int = 50,  # steps between two measurements of the loss on tokens without a label; 0 is never
    resume: str = "auto",  # auto resumes an unfinished run, never refuses one; or a checkpoint's folder
    save_every_n_steps: int | None = None,  # optimizer steps between checkpoints; null is none
    save_every_minutes: float | None = 15.0,  # minutes between checkpoints; null is none
    keep_checkpoints: int = 2,  # number of checkpoints to keep, the newest
    export_checkpoints: bool = True,  # whether checkpoints include a Hugging Face folder
) -> None:
    """Train, evaluate before and after, write a Hugging Face folder, a token view and the curves."""
    config = dict(locals())
    check_float8(float8, device=pick_device(device), dtype=dtype, compile=compile)
    method = combine(config)  # refuses bad combinations before anything is read
    check_start(model, packed=packed_tokens is not None)
    run = start_run(output_dir=output_dir, device=device, seed=seed, config=config, resume=resume)
    saver = Saver(run, config)

    # Data before the model, so that bad data is found within seconds.
    text = build(tokenizer, where="tokenizer")
    data, held_out = validation_data(dataset, dataset_val, build(dataset, text), text)
    plans = plan_steps(
        data,
        run,
        batch_size=batch_size,
        packed_tokens=packed_tokens,
        gradient_accumulation_steps=gradient_accumulation_steps,
        epochs=epochs,
        max_steps_per_epoch=max_steps_per_epoch,
        seed=seed,
    )
    stages = method.curriculum(plans, data.rows, data.chat.step_ends, run.boundaries)
    data, held_out = stages.applied_to(data), stages.held_out(held_out)
    answers = build(evaluation)
    stages.check_held_out(data, held_out, answers)
    check_scored(data, held_out)
    check_learns(data, plans)

    net = load_model(model, device=run.device, dtype=run.dtype, seed=seed)
    trained = trained_weights(method.trainable, net, plans)
    fit_rows(net, data, held_out, answers=answers)
    teacher = prepared(method.reference, net, data, device=run.device, dtype=run.dtype)
    prepare_model(
        net, run.world, compile=compile, float8=float8, enable_activation_checkpointing=enable_activation_checkpointing
    )
    num_steps = plans.total_steps - stages.last_restart(before=plans.start_step)
    optim, schedule = build_optimizer(optimizer, lr_scheduler, net, run, num_steps=num_steps)
    trainer = Trainer(
        model=net,
        loss=method.loss.fused,
        reference=teacher,
        plain_loss=sft().fused,
        optimizer=optim,
        lr_scheduler=schedule,
        device=run.device,
        world=run.world,
        normalize=normalize,
        clip_grad_norm=clip_grad_norm,
        log_blurred_every=log_blurred_every,
    )

    log = RunLog(run, plans.total_steps, build(metric_logger, where="metric_logger"), every=log_every_n_steps)
    log.say("; ".join(filter(None, (data.summary(), share_of_reasoning(data), plans.summary(), trained.summary()))))
    evaluations = Evaluations(trainer, data.chat, held_out, answers, log, batch_size=batch_size, stages=stages)

    def before_step(step: Step) -> None:
        nodes = {"optimizer": optimizer, "lr_scheduler": lr_scheduler}
        forget = trained.forgets(step.clock)
        restart(trainer, stages, step.clock, **nodes, run=run, total_steps=plans.total_steps, forget=forget)
        trained.before_step(net, step.clock)

    def on_step(step: Step, measured: dict[str, float]) -> None:
        evaluations.after_step(step, {**trained.progress(), **measured})

    saver.begin(trainer, plans, data, evaluations, log)
    evaluations.begin(plans.start_step, at_start=evaluate_before_training, every=evaluate_every_n_steps)
    batches = load_stages(data, plans, run, stages, num_workers=num_workers)
    train(trainer, batches, on_step=on_step, before_step=before_step, saver=saver)
    finish(run, trainer, data, evaluations, log, tokenizer=tokenizer, clocks=stages.clocks())


if __name__ == "__main__":
    main()
