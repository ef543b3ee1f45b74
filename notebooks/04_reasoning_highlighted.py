# %% [markdown]
# # 4. Reasoning-highlighted fine-tuning
#
# When an agent calls a tool, most of what it writes is boilerplate: the same phrase, the same brackets, the same
# keys, every time. A few tokens must be thought out: which tool, which name, which number. Plain fine-tuning counts
# all of them alike, so the easy ones outvote the rest.
#
# SHAD + RFT (Ye et al., arXiv 2412.14780) first *finds* the tokens that matter, with a trick that needs no labels, and
# then weighs the two classes by how badly the model does on them. This is *counted, and how much?* with weights that
# find their own tokens. Four verbs: **shuffle, score, colour, weigh**.

# %%
from cot_components.notebook import LINE, RUN_COLOURS, TokenView, smollm2, start, study, tune, tune_if

runs = start("04_reasoning_highlighted")
smol = smollm2()

# %%
import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from cot_components import models
from cot_components.clock import Clock
from cot_components.data.rows.scores import open_scores
from cot_components.datasets import agent_truth, chat_format, reasoning_dataset
from cot_components.evaluation import AnswerEvaluation
from cot_components.evaluation.class_report import read_report
from cot_components.losses import GroupSoftmax
from cot_components.transforms import ByGroup, Highlight
from cot_components.transforms.discriminator import Confusion, classify, loss_difference, sample_rows, shuffle_outputs

now = Clock(epoch=0, step=0)
logs = Path("../experiments/logs")

# %% [markdown]
# ## Calls, and what is in them
#
# The package generates small tool-use dialogues: a request, and an output that consists of a phrase and a call.

# %%
folder = models.write_tiny_checkpoint(runs / "tiny_llama")
data = reasoning_dataset(models.hf_tokenizer(str(folder)), source="generated_agents", subset="tagged", max_rows=48)
decode = data.chat.tokenizer.decode
for i in range(2):
    print(decode(data.rows.flat([i]).tokens.tolist()), end="\n\n")

# %% [markdown]
# Because they are generated, we know the truth about every token: *reasoning* is what only the request determines;
# *boilerplate*, struck out, is the rest.

# %%
truth = agent_truth(data.rows, decode, subset="tagged", max_rows=48)
flat = replace(data.rows.flat(range(48)), groups=truth)
row_of = {i: slice(flat.row_start[i], flat.row_start[i + 1]) for i in range(48)}
only_reasoning = ByGroup(boilerplate=0.0, reasoning=1.0)
TokenView(
    only_reasoning(replace(data.rows.flat([0]), groups=truth[row_of[0]]), now),
    decode,
    title="The truth: what must be thought out",
)

# %%
scored = flat.labels != -100
print(f"{truth[scored].mean():.1%} of the {scored.sum():,} output tokens are reasoning")

# %% [markdown]
# On real data nobody knows this. Can it be found out?
#
# ## Shuffle
#
# Give each request the output of another. Now nothing in an output follows from its request. A model tuned on such rows
# can learn the phrase, the brackets and the keys, which recur every time; it cannot learn what depends on the request.
# Worse, where it used to look at the request, it learns not to.

# %%
chosen = sample_rows(data.rows, share=0.01, at_least=8)
swapped = shuffle_outputs(data.rows, chosen)
TokenView(swapped.flat([0, 1]), decode, title="Requests with the outputs of others")

# %% [markdown]
# The outputs are the same as before, in another order, and none is still with its own request.


# %%
def outputs(rows, indices):
    flats = [rows.flat([i]) for i in indices]
    return [decode(f.tokens[f.labels != -100].tolist()) for f in flats]


stayed, moved = outputs(data.rows, chosen), outputs(swapped, range(len(swapped)))
assert sorted(stayed) == sorted(moved) and not any(a == b for a, b in zip(stayed, moved, strict=True))

# %% [markdown]
# ## Score
#
# Every output token is scored twice, in its true row: by the model before tuning (`l_o`) and after (`l_s`). The paper
# tunes on 1 % of the data. The recipe `shad` does all of it; here it runs for a few seconds on a model with random
# weights.

# %%
small = ["dataset.max_rows=48", "at_least=48", "epochs=2", "shown_rows=0", "lr_scheduler.num_warmup_steps=1"]
place = [f"tokenizer.path={folder}", f"model.path={folder}", f"output_dir={runs}/shad"]
said = tune("shad", "--config", "shad/quickstart", *place, *small)
print(read_report(runs / "shad/classes.json").against_truth.table())

# %% [markdown]
# It finds little, and that is as it should be: a model that never looked at the request cannot unlearn doing so. The
# trick needs a model that can already copy from a request. `make quickstart-rft` trains one first. That takes a while,
# so the scores of its first 48 rows are committed in the repository. From here on we look at those.
#
# ### Loss by true class
#
# A single mean loss hides what happens. Here we know the true class of every token, so we take one mean for each class.

# %%
scores = open_scores(logs / "shad_quickstart/scores")
before, after = scores.gather(flat, "original", "shuffled")
by_class = np.array([[nll[scored & (truth == kind)].mean() for nll in (before, after)] for kind in (0, 1)])
figure, axes = plt.subplots(figsize=(5, 2.6))
for kind, (name, colour) in enumerate({"boilerplate": LINE.light, "reasoning": RUN_COLOURS[1]}.items()):
    axes.bar(np.arange(2) + 0.4 * kind - 0.2, by_class[kind], width=0.4, label=name, color=colour)
axes.set_xticks(range(2), ["before", "after unlearning the request"])
axes.set(ylabel="loss, nats a token")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Phrase and brackets are learnt at once; what the request decides is unlearnt. Weighted by counts, they give the mean:

# %%
share = truth[scored].mean()
for column, nll in enumerate((before, after)):
    assert np.isclose((1 - share) * by_class[0, column] + share * by_class[1, column], nll[scored].mean(), rtol=1e-4)
difference, row = loss_difference(before, after), row_of[0]
shown = np.flatnonzero(scored[row])
figure, axes = plt.subplots(figsize=(9, 3))
colours = np.where(truth[row][shown] == 1, RUN_COLOURS[1], LINE.light)
axes.bar(range(len(shown)), difference[row][shown], color=colours)
axes.set_xticks([])
for place in np.flatnonzero(truth[row][shown] == 1):
    text = decode([int(flat.tokens[row][shown[place]])]).strip()
    axes.annotate(text, (place, -0.1), ha="center", va="top", color=RUN_COLOURS[1])
axes.set(ylabel="LD, nats", ylim=(-5, 4))
axes.set_title("What unlearning the request costs each token (cut at -5); orange is true reasoning")
plt.show()

# %% [markdown]
# $$LD = l_s - l_o$$
#
# Tokens that got worse (above zero) depended on the request: reasoning. Tokens that got better are boilerplate. The
# paper's threshold is zero; a token that did not change is boilerplate, too. But where both models are sure, their
# losses differ only in the fourth digit, and zero would sort such tokens by chance. The quickstart draws the line at a
# thousandth of a nat.

# %%
found = classify(before, after, threshold=0.001)
assert np.array_equal(found == 1, np.nan_to_num(after - before, nan=-1.0) > 0.001)
for threshold in (0.0, 0.001, 0.01, 0.1):
    report = Confusion.of(truth, classify(before, after, threshold=threshold), scored)
    print(f"threshold {threshold:5} nats: {report.error_rate:.2%} wrong, {report.recall:.1%} of the reasoning found")

# %% [markdown]
# ## Colour
#
# `Highlight` is the transform that does this inside a run. It looks up each row's scores by id and checks that they
# belong to exactly these tokens. On the left, what it found; on the right, the truth.

# %%
highlight = Highlight(scores=str(logs / "shad_quickstart/scores"), threshold=0.001)
pick = [0, 5]
found_rows = only_reasoning(highlight(data.rows.flat(pick), now), now)
true_rows = only_reasoning(replace(data.rows.flat(pick), groups=np.concatenate([truth[row_of[i]] for i in pick])), now)
TokenView({"found": found_rows, "truth": true_rows}, decode, title="Found, and true")

# %%
assert np.array_equal(highlight(flat, now).groups, found)
print(read_report(logs / "shad_quickstart/classes.json").against_truth.table())

# %% [markdown]
# That table covers all rows of the run, not only ours. Read both rates: with so little reasoning in the data, calling
# everything boilerplate would already have a low error rate.
#
# ### The error against diversity
#
# The trick depends on repetition. What if the phrase differs from row to row? Below, each position of the phrase is
# drawn from 1, 4 or 24 words, with several seeds:

# %%
study("discriminator")

# %% [markdown]
# ## Weigh
#
# Now each class has its own loss, `L_b` and `L_r`, the mean over its tokens. Which should count more? The one the model
# is worse at, by a softmax with a temperature:
#
# $$L = w_b L_b + w_r L_r, \qquad w = \operatorname{softmax}(L / \tau)$$
#
# The picture first: the weight of reasoning against how much worse the model does on it than on boilerplate.

# %%
gap = torch.linspace(-4, 8, 100)
figure, axes = plt.subplots()
for tau, colour in zip((1.0, 2.0, 5.0), RUN_COLOURS, strict=False):
    axes.plot(gap, torch.sigmoid(gap / tau), label=f"tau = {tau:g}", color=colour)
axes.set(xlabel="L_r - L_b, nats", ylabel="weight of reasoning", ylim=(0, 1))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# As reasoning is learnt, the gap closes, and the weight falls back to a half by itself. Six tokens, three of each
# class, by hand and by the rule:

# %%
nll, groups = torch.tensor([0.3, 0.6, 1.0, 2.2, 0.1, 2.8]), torch.tensor([0, 0, 1, 1, 0, 1])
L_b, L_r = nll[groups == 0].mean(), nll[groups == 1].mean()
w_b, w_r = torch.softmax(torch.stack([L_b, L_r]) / 2.0, 0)
weights = GroupSoftmax(tau=2.0)(nll, groups, torch.zeros(6, dtype=torch.long))
print(f"L_b {L_b:.3f}, L_r {L_r:.3f}, w_b {w_b:.3f}, w_r {w_r:.3f}; weights of the tokens {weights.numpy().round(3)}")
torch.testing.assert_close((weights * nll).sum() / 6, w_b * L_b + w_r * L_r)

# %% [markdown]
# The weights of a row sum to its number of tokens, so a step divides by a count that is known in advance. A very high
# temperature makes classes (not tokens) count equally. The weights are detached, for the reason shown in notebook 5.

# %%
torch.testing.assert_close(weights.sum(), torch.tensor(6.0))
lukewarm = GroupSoftmax(tau=1e6)(nll, groups, torch.zeros(6, dtype=torch.long))
torch.testing.assert_close((lukewarm * nll).sum() / 6, 0.5 * L_b + 0.5 * L_r)

# %% [markdown]
# On a real row, with the losses of the quickstart's base model: the weight that RFT gives each token.

# %%
one, nll_of_row = highlight(data.rows.flat([0]), now), torch.from_numpy(before[row][shown])
weights = np.ones(len(one.tokens), dtype=np.float32)
weights[shown] = GroupSoftmax(tau=3.0)(
    nll_of_row, torch.from_numpy(one.groups[shown]), torch.zeros(len(shown), dtype=torch.long)
)
TokenView(one.with_weights(weights), decode, title="Tint is the weight that RFT gives")

# %% [markdown]
# ## Does it help?
#
# In the paper LLaMA3-8B rises from 52.5 to 59.3 on average over four tool-use benchmarks; classes with a fixed weight
# reach 57.9, and a hand-written format rule *loses* (44.5). In `make quickstart-rft` plain fine-tuning gets 26.7 % of
# 240 held-out calls right after 30 updates, RFT 30.4 %; before a change that affected only rounding, the same command
# gave 66.7 and 82.5 %. One run says little; here are five seeds, with fixed weights, Rho-1 and a format rule:

# %%
study("highlight")

# %% [markdown]
# ## A benchmark that others use
#
# BFCL (the Berkeley Function Calling Leaderboard) asks for calls and accepts several: a value may be any from a list,
# `""` means that an argument may be left out. Its files are not downloaded; these questions use its layout.

# %%
kinds = {"city": {"type": "string"}, "seats": {"type": "integer"}, "meal": {"type": "string"}}
book = {"name": "book", "parameters": {"type": "dict", "properties": kinds, "required": ["city", "seats"]}}
asked = {"Two seats to Rome, please.": ("Rome", 2), "A seat to Oslo with a vegan meal.": ("Oslo", 1)}
bfcl, name = runs / "bfcl", "BFCL_v4_simple_python.json"
(bfcl / "possible_answer").mkdir(parents=True)
with (bfcl / name).open("w") as questions, (bfcl / "possible_answer" / name).open("w") as answers:
    for key, (text, (city, seats)) in enumerate(asked.items()):
        turns = [[{"role": "user", "content": text}]]
        accepted = {"city": [city, f"{city}, Europe"], "seats": [seats], "meal": ["", "vegan"]}
        print(json.dumps({"id": f"q{key}", "question": turns, "function": [book]}), file=questions)
        print(json.dumps({"id": f"q{key}", "ground_truth": [{"book": accepted}]}), file=answers)

# %%
chat = chat_format(models.hf_tokenizer(str(smol)))
how = {"source": str(bfcl), "extractor": "tool_calls", "comparer": "calls", "max_new_tokens": 32}


def answering(*calls):
    """An evaluation of a model that gives these answers, whatever it is asked."""
    texts = [f"<tool_call>{json.dumps({'name': 'book', 'arguments': call})}</tool_call>" for call in calls]
    return AnswerEvaluation(**how)(lambda prompts, **_: [(chat.tokenizer.encode_text(t), False) for t in texts], chat)


assert answering({"city": "rome, europe", "seats": 2}, {"city": "Oslo", "seats": 1}).answer_accuracy == 1
assert answering({"city": "Rome", "seats": 2.0}, {"city": "Oslo", "seats": 1, "meal": "fish"}).answer_accuracy == 0
found = AnswerEvaluation(**how)(models.decode_with(models.adapt(models.from_folder(path=str(smol), quiet=True))), chat)
print(f"SmolLM2, as it is: {found.answer_accuracy:.0%} right; it says {found.examples[0].completion!r}")

# %% [markdown]
# On the real files: `tune run cot_eval --config cot_eval/bfcl evaluation.source=DATA model.path=DIR`.

# %%
# Optional, on a GPU: run the config's Download line in this folder, then set this to True.
RUN_ON_GPU = False
tune_if(RUN_ON_GPU, "shad", "--config", "shad/llama3_2_3B_xlam")
