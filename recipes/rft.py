"""Reasoning-highlighted fine-tuning (RFT): the tokens that must be thought out count more than those that repeat.

    tune run shad --config shad/quickstart
    tune run rft --config rft/quickstart
    tune run rft --config rft/quickstart loss.weight_rule=null    # plain fine-tuning on the same steps

Two nodes make the method: a transform that gives tokens their classes (`dataset.transforms.highlight`, from the scores
of the recipe `shad`) and a weight rule of the loss (`loss.weight_rule`). Any target and any transform compose with it.
"""

from typing import Literal

from cot_components.config import build
from cot_components.losses import sft
from cot_components.models.load import check_checkpointer, load_model
from cot_components.models.reference import reference_for
from cot_components.training.answers import Evaluations
from cot_components.training.batching import check_loss, load_batches, plan_steps
from cot_components.training.classes import check_classes
from cot_components.training.finish import finish
from cot_components.training.float8 import check_float8
from cot_components.training.loop import Trainer, train
from cot_components.training.recipe import recipe
from cot_components.training.run_log import RunLog
from cot_components.training.saver import Saver
from cot_components.training.setup import build_optimizer, fit_rows, pick_device, prepare_model, start_run
from cot_components.training.validation import validation_data

SUPPLIES = {
    "dataset": ["tokenizer"],
    "optimizer": ["params"],
    "lr_scheduler": ["optimizer", "num_training_steps", "last_epoch"],
}


@recipe(supplies=SUPPLIES)
def main(
    *,
    output_dir: str,
    tokenizer: dict,
    dataset: dict,
    model: dict,
    optimizer: dict,
    loss: dict,
    checkpointer: dict | None = None,
    reference: dict | None = None,
    lr_scheduler: dict | None = None,
    dataset_val: float | str | dict | None = None,
    evaluation: dict | None = None,
    evaluate_every_n_steps: int | None = None,
    evaluate_before_training: bool = True,
    epochs: int = 1,
    max_steps_per_epoch: int | None = None,
    batch_size: int = 8,
    packed_tokens: int | None = None,
    gradient_accumulation_steps: int = 1,
    normalize: Literal["count", "weight"] = "count",
    clip_grad_norm: float | None = 1.0,
    num_workers: int = 0,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "bf16",
    compile: bool = False,
    float8: bool = False,
    enable_activation_checkpointing: bool = False,
    metric_logger: dict | None = None,
    log_every_n_steps: int = 1,
    log_blurred_every: int = 50,
    resume: str = "auto",
    save_every_n_steps: int | None = None,
    save_every_minutes: float | None = 15.0,
    keep_checkpoints: int = 2,
    export_checkpoints: bool = True,
) -> None:
    """Train, evaluate before and after, write a Hugging Face folder, a token view and the curves."""
    config = dict(locals())
    check_float8(float8, device=pick_device(device), dtype=dtype, compile=compile)
    check_checkpointer(checkpointer)
    run = start_run(output_dir=output_dir, device=device, dtype=dtype, seed=seed, config=config, resume=resume)
    saver = Saver(run, config)

    # Data first: it is encoded before a model is built, so bad data costs seconds.
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

    objective, answers = build(loss), build(evaluation)
    check_loss(objective, plans)
    classes = check_classes(objective, data)
    net = load_model(model, checkpointer, device=run.device, dtype=run.dtype, seed=seed)
    fit_rows(net, data, held_out, answers=answers)
    second = reference_for(objective, build(reference), net, data, device=run.device, dtype=run.dtype)
    prepare_model(
        net, run.world, compile=compile, float8=float8, enable_activation_checkpointing=enable_activation_checkpointing
    )
    optim, schedule = build_optimizer(optimizer, lr_scheduler, net, num_steps=plans.total_steps)
    trainer = Trainer(
        model=net,
        loss=objective.fused,
        reference=second,
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
    log.say(f"{data.summary()}; {classes}; {plans.summary()}")
    evaluations = Evaluations(trainer, data.chat, held_out, answers, log, batch_size=batch_size)
    saver.begin(trainer, plans, data, evaluations, log)
    evaluations.begin(plans.start_step, at_start=evaluate_before_training, every=evaluate_every_n_steps)
    batches = load_batches(data, plans, run, num_workers=num_workers)
    train(trainer, batches, on_step=evaluations.after_step, saver=saver)
    clocks = plans.epoch_clocks()
    finish(run, trainer, data, evaluations, log, checkpointer=checkpointer, tokenizer=tokenizer, clocks=clocks)


if __name__ == "__main__":
    main()
