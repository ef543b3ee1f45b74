# %% [markdown]
# # 8. Choose your rows, choose your weights
#
# Which demonstrations should a model learn from, and which of their tokens? Many papers answer with scores that some
# model gives your data *before* training: how likely, how uncertain. They all come down to one pass and two small
# interfaces. `cot score` writes the scores. A **selector** (`dataset.select`) chooses rows by them; a **transform**
# weights tokens by them. The trainer does not change.

# %%
from cot_components.notebook import FAST, LINE, RUN_COLOURS, TokenView, cot, start, study, tune, tune_if

runs = start("08_choose_your_rows")

# %%
import json

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import load_file

from cot_components.clock import Clock
from cot_components.data.generated.task_families import tell_at_length, tell_plainly
from cot_components.data.generated.tasks import make_problems
from cot_components.data.rows.scores import open_scores, scored_tokens
from cot_components.datasets import reasoning_dataset
from cot_components.models import from_folder, hf_tokenizer, write_tiny_checkpoint
from cot_components.selectors import GRAPE, AtRandom, PoFT, QTuning
from cot_components.selectors.qtuning import error_uncertainty
from cot_components.tools.s3ft import route
from cot_components.trainable import Half, share_of, weights_of
from cot_components.transforms import QTuning as QTuningTokens
from cot_components.transforms import Threshold

now = Clock(epoch=0, step=0)

# %% [markdown]
# ## One model, many teachers
#
# First we need a model that knows something: a little plain fine-tuning on problems told by two teachers. One words
# things differently each time; the other, which the model hears less often, begins at the end and takes its time.

# %%
folder = write_tiny_checkpoint(runs / "tiny_llama")
plain, verbose = (32, 16) if FAST else (2400, 800)
style = "{{source: generated, subset: {}, max_rows: {}}}"
both = f"dataset.source={{one: {style.format('plain', plain)}, other: {style.format('verbose', verbose)}}}"
size = [both, "dataset.max_rows=null", "lr_scheduler.num_warmup_steps=1"]
quiet = ["evaluation=null", "dataset_val=null", "dataset.transforms.blur.ratio=0", "epochs=1"]
said = tune(
    "bt_sft", "--config", "bt_sft/quickstart", f"tokenizer.path={folder}", f"output_dir={runs}/model", *size, *quiet
)

# %% [markdown]
# Now every new problem comes with four responses, all of them right, two from each teacher.

# %%
rng, lines = np.random.default_rng(0), []
tellers = {"plain": tell_plainly, "plain again": tell_plainly, "at length": tell_at_length, "again": tell_at_length}
for problem in make_problems(split="train", count=24 if FAST else 96, seed=1):
    for tell in tellers.values():
        thought = tell(problem.steps, problem.answer, rng)
        response = f"<think>\n{thought}\n</think>\n\nAnswer: {problem.answer}"
        lines.append(json.dumps({"instruction": problem.question, "response": response}))
told = runs / "told.jsonl"
told.write_text("\n".join(lines) + "\n")
print(*lines[:4:2], sep="\n")

# %% [markdown]
# ## Score
#
# One pass without gradients: loss and entropy of every token that will be trained on. An interrupted pass resumes;
# neither the batches nor the number of processes change a digit.

# %%
given = ["bt_sft/quickstart", f"tokenizer.path={runs}/model/model", f"dataset.source={told}", "dataset.max_rows=null"]
given += [f"output_dir={runs}/scored", "dataset.transforms.blur=null", "dataset_val=null", "evaluation=null"]
scored = str(runs / "scored" / "scores")
cot("score", *given, "--model", f"{runs}/model")

# %%
data = reasoning_dataset(hf_tokenizer(f"{runs}/model/model"), source=str(told))
scores = open_scores(scored)
flat = data.rows.flat(range(len(data.rows)))
nll, entropy = scores.gather(flat, "nll", "entropy")
where = scored_tokens(flat)
row_2 = where & (flat.row_of_token == 2)
assert np.isclose(scores.row_means("nll")[2], nll[row_2].mean(dtype=np.float64)), "a row's mean is that of its tokens"
print(f"{len(data.rows)} rows, {where.sum():,} scored tokens")

# %% [markdown]
# ## The response that fits
#
# GRAPE (Zhang et al., arXiv 2502.04194): of several right responses to a prompt, train on the one your model finds most
# likely, per token. The picture shows how each teacher's rows look to our model.

# %%
perplexity = np.exp(scores.row_means("nll"))
figure, axes = plt.subplots()
bins = np.geomspace(perplexity.min(), perplexity.max(), 30)
for number, colour in ((0, RUN_COLOURS[0]), (2, RUN_COLOURS[1])):
    pair = np.concatenate([perplexity[number::4], perplexity[number + 1 :: 4]])
    axes.hist(pair, bins, label=list(tellers)[number], color=colour, alpha=0.7)
axes.set(xscale="log", xlabel="perplexity of a row", ylabel="rows", title="Two teachers, seen by one student")
axes.legend(frameon=False)
plt.show()

# %%
grape = data.selected({"fit": GRAPE(scores=scored)})
by_hand = [
    4 * prompt + int(np.argmin(perplexity[4 * prompt : 4 * prompt + 4])) for prompt in range(len(perplexity) // 4)
]
assert grape.rows.ids.tolist() == by_hand
print(grape.summary())
for by in ("mean", "sum"):
    chosen = data.selected({"fit": GRAPE(scores=scored, by=by)})
    print(f"by {by}: {np.mean(chosen.rows.ids % 4 < 2):.0%} of the prompts keep the plain teacher")

# %% [markdown]
# By sum, which is the probability of the whole response, short ones win: 5 tokens of -1.2 nats each beat 20 of -0.6.
# The paper normalises by length, and so does the default.
#
# A selected row keeps its id, so the masks drawn for it stay the same. Rows that `dataset_val` holds out are taken out
# *before* anything is selected.
#
# ## Error and uncertainty
#
# Q-Tuning (arXiv 2509.23873) places rows in a plane. Sure and right: already known, nothing to learn. Unsure and wrong:
# noise. It keeps the other two corners, where the model is wrong and sure, and where it is right and unsure.

# %%
plane = error_uncertainty(perplexity, scores.row_means("entropy"), keep=0.25)
figure, axes = plt.subplots(figsize=(6, 4))
axes.scatter(perplexity, scores.row_means("entropy"), s=8, color=LINE.light)
for name, colour in (("misconceived", RUN_COLOURS[1]), ("unsure", RUN_COLOURS[0])):
    corner = getattr(plane, name)
    axes.scatter(perplexity[corner], scores.row_means("entropy")[corner], s=12, color=colour, label=name)
axes.set(xscale="log", xlabel="perplexity", ylabel="mean entropy, nats", title="A quarter of the rows is kept")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# One level cuts both axes and is moved until the two corners hold enough rows. If rows are still missing, they are
# taken from where error and uncertainty, both scaled from 0 to 1, differ most.

# %%
kept = data.selected({"plane": QTuning(scores=scored, keep=0.25)})
assert sorted(kept.rows.ids) == np.flatnonzero(plane.misconceived | plane.unsure).tolist()
assert len(kept.rows) >= round(0.25 * len(data.rows))
for reason, ids in kept.choices[0].left_out.items():
    print(f"{len(ids):4} left out: {reason}")

# %% [markdown]
# ## Tokens, too
#
# The second half of Q-Tuning: in rows where the model is wrong and sure, the hardest tokens leave the loss. They stay
# in context. Here is the row that loses most; tokens that no longer count are struck out.

# %%
prune = QTuningTokens(scores=scored, keep_rows=0.5, keep_tokens=0.6)
gone = (prune(flat, now).weights == 0) & where
most = int(np.argmax(np.bincount(flat.row_of_token[gone], minlength=len(data.rows))))
decode = data.chat.tokenizer.decode
assert (
    gone.any()
    and not gone[~np.repeat(error_uncertainty(perplexity, scores.row_means("entropy"), 0.5)[0], flat.lengths)].any()
)
TokenView(prune(data.rows.flat([most]), now), decode, title="Q-Tuning: without its hardest tokens")

# %% [markdown]
# `Threshold` does this with any column: here only the fifth of all tokens at which the model is least sure, the
# *forking* tokens, keeps its weight. The rest is weighted by a tenth.

# %%
forks = Threshold(scores=scored, column="entropy", keep=0.2, factor=0.1)
weights = forks(flat, now).weights
assert abs((weights[where] == 1).mean() - 0.2) < 0.02
assert entropy[where & (weights == 1)].min() > entropy[where & (weights != 1)].max()
TokenView(forks(data.rows.flat([0, 2]), now), decode, title="The least certain fifth: tint is weight")

# %% [markdown]
# ## A weight for each row
#
# PoFT (Fan et al., arXiv 2412.12865) asks other models, which are already aligned. Rows that they find more likely than
# our model does count more, through a sigmoid. One number per row:
#
# $$\tau = \sigma\big(\operatorname{mean}_j r_j - r\big), \qquad r = \text{log-probability per token}$$
#
# A column `teacher_nll` would come from `cot score --model FOLDER --name teacher`. The model itself in place of the
# others gives one half everywhere, which changes nothing but the scale.

# %%
gap = np.linspace(-3, 3, 100)
figure, axes = plt.subplots(figsize=(6, 2.6))
axes.plot(gap, 1 / (1 + np.exp(-gap)), color=RUN_COLOURS[0])
axes.set(xlabel="aligned models' log-probability per token minus ours, nats", ylabel="weight", ylim=(0, 1))
plt.show()
halves = PoFT(scores=scored, aligned=["nll"])(data.rows).factors
assert np.allclose(halves, 0.5)

# %% [markdown]
# ## In a run
#
# In a config, selectors and transforms are named nodes like all others. They combine with each other and with
# everything else, and the first line of the run says what was left out and why.

# %%
node = "{_component_: cot_components."
select = f"dataset.select={{fit: {node}selectors.GRAPE, scores: {scored}}}}}"
weigh = f"dataset.transforms.forks={node}transforms.Threshold, scores: {scored}, keep: 0.2, factor: 0.1}}"
run = ["--config", *given, f"output_dir={runs}/chosen", select, weigh, "epochs=1"]
said = tune("bt_sft", *run)
print(next(line for line in said.splitlines() if "select.fit" in line))

# %% [markdown]
# ## Does it help?
#
# A selector must beat chance: `AtRandom` keeps as many rows, or one per prompt, drawn by their ids. Three of the
# repository's studies compare at equal numbers of updates.

# %%
assert len(data.selected({"one": AtRandom(per_prompt=1)}).rows) == len(grape.rows)
study("grape")

# %% [markdown]
# GRAPE gains by choosing one teacher nearly every time. Was it the right one? So look at what a selector keeps.

# %%
study("one_teacher")

# %%
study("qtuning")

# %% [markdown]
# ## Choose the weights
#
# The other choice is which weights are trained: `trainable` in a config. Half fine-tuning (HFT, Hui et al., arXiv
# 2404.18466) trains a random half of each kind, so that the other half keeps what the model knew. Dark is trained:

# %%
weights = weights_of(from_folder(path=str(runs / "model" / "model"), quiet=True))
learns = Half(seed=0).choose(weights, 0)
layers = [name for name, weight in weights.items() if weight.layer is not None]
parts = list(dict.fromkeys(name.split(".", 2)[2] for name in layers))
grid = np.array([[name in learns for name in layers if name.endswith(part)] for part in parts])
figure, axes = plt.subplots(figsize=(3.2, 3.4))
axes.imshow(grid, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
axes.set(xlabel="layer", xticks=range(grid.shape[1]), yticks=range(len(parts)), yticklabels=parts)
plt.show()
attention = [part.startswith("attn.") for part in parts]
assert (grid[attention].sum(axis=0) == 2).all()  # two of the four matrices of attention in every layer
print(f"{share_of(learns, weights):.0%} of all weights learn, the embedding among them")

# %% [markdown]
# What is not trained keeps every bit, even under weight decay:

# %%
half = ["trainable._component_=cot_components.trainable.Half", "dtype=fp32", f"output_dir={runs}/half"]
data_of_ours = [f"dataset.source={told}", "dataset_val=null", "evaluation=null", "lr_scheduler=null"]
said = tune("bt_sft", "--config", "bt_sft/any", f"model.path={runs}/model/model", *data_of_ours, *half)
print(next(line for line in said.splitlines() if "weights learn" in line))
before, after = (load_file(runs / run / "model" / "model.safetensors") for run in ("model", "half"))
moved = {name for name in before if not np.array_equal(before[name], after[name])}
assert 0 < len(moved) < len(before)
print(f"{len(moved)} of {len(before)} tensors have moved")

# %% [markdown]
# A smaller learning rate also makes a model forget less, so it is the baseline to beat:

# %%
study("half")

# %% [markdown]
# ## The model's own answers
#
# S3FT (arXiv 2502.08130) goes one step further: where the model's *own* answer is right, that is what it trains on.
# `cot_eval` on the training questions generates and checks; for each question, `cot s3ft RUN --out own.jsonl` keeps the
# model's own answer if it is right, otherwise its right restatement of the gold answer (`--ask`, `--restated`),
# otherwise the gold answer. No wrong answer gets in:


# %%
def answer(text, right):
    from cot_components.evaluation.evaluate import Example

    return Example("", 0, (), text, text, "5", right, True, 0, cut=False)


assert route([answer("5", True)], []) == ("own", "5")
assert route([answer("6", False)], [answer("so 5", True)]) == ("restated", "so 5")
assert route([answer("6", False)], [answer("7", False)]) == ("gold", None)

# %%
# Optional, on a GPU: run the config's Download line in this folder, then set this to True.
RUN_ON_GPU = False
tune_if(RUN_ON_GPU, "cot_eval", "--config", "cot_eval/llama3_2_1B", "evaluation.max_rows=null")
