"""Evaluate a model that thinks before it answers: generate, extract, compare.

tune run cot_eval --config cot_eval/quickstart
tune run cot_eval --config cot_eval/llama3_2_1B model.path=DIR evaluation.source=DIR_OR_HUB_NAME
"""

from typing import Literal

from cot_components.config import build
from cot_components.datasets import chat_format
from cot_components.evaluation.table import summary_table
from cot_components.models.generate import decode_with
from cot_components.models.load import check_start, load_model
from cot_components.models.tokenizers import as_text_tokenizer
from cot_components.runs.layout import EVALUATION
from cot_components.training.recipe import recipe
from cot_components.training.setup import one_process, start_run
from cot_components.training.throughput import chip_name
from cot_components.viz.console import plain_console
from cot_components.viz.visible import one_line

SUPPLIES = {"chat": ["tokenizer"]}


@recipe(supplies=SUPPLIES)
def main(
    *,
    output_dir: str,  # the run's folder: `evaluation.json` with every completion
    tokenizer: dict,  # node: text to token ids, with the chat template
    model: dict,  # node: `cot_components.models.from_folder`, which also reads the output of our recipes
    evaluation: dict,  # node: prompts, decoding and scoring
    chat: dict | None = None,  # node: the prompt format if it is not a chat template, such as `ICoTFormat`
    template: str | None = None,  # chat template: `llama3`, `chatml`, a path; null is the tokenizer's own
    date: str | None = None,  # the date templates see as today; null is the default of `dataset.date`
    tags: dict[str, str] | None = None,  # `{open: "<think>", close: "</think>"}`
    tags_as: Literal["text", "token"] = "text",  # tags as ordinary text, or each as one token
    device: str = "auto",  # auto, cpu, cuda, cuda:1
    dtype: Literal["bf16", "fp32"] = "bf16",  # of weights and products: bf16 or fp32
    seed: int = 0,  # of random weights; sampling uses `evaluation.seed`
) -> None:
    """Answer the prompts of `evaluation` and write `evaluation.json` with every completion."""
    config = dict(locals())
    check_start(model)
    run = start_run(output_dir=output_dir, device=device, seed=seed, config=config)
    one_process(run, "cot_eval")
    text = build(tokenizer, where="tokenizer")
    written = (
        build(chat, as_text_tokenizer(text))
        if chat
        else chat_format(text, template=template, date=date, tags=tags, tags_as=tags_as)
    )
    answers, console = build(evaluation), plain_console()
    net = load_model(model, device=run.device, dtype=run.dtype)
    answers.prompts(written, max_seq_len=net.max_seq_len)  # before the first is answered
    if answers.report.num_dropped:
        console.print(answers.report.summary(), soft_wrap=True)
    decode = decode_with(net, progress=True)
    result = answers(decode, written)
    path = result.save(run.output_dir / EVALUATION)
    console.print(summary_table(result=result))
    for rate in decode.speed().values():
        console.print(f"{rate:,.0f} new tokens/s on {chip_name(run.device)}")
    console.print(one_line(f"every completion: {path}"), soft_wrap=True)


if __name__ == "__main__":
    main()
