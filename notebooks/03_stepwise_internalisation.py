# %% [markdown]
# # 3. Stepwise internalisation
#
# A small GPT-2 cannot multiply two four-digit numbers in one go, but it can if it writes the partial products first.
# Stepwise internalisation (ICoT-SI, Deng, Choi and Shieber, arXiv 2405.14838) starts there and takes the written steps
# away, a token at a time. What the model used to write, it must now keep in its hidden states. At the end it answers at
# once.
#
# In the words of notebook 1 this is the question *present?*

# %%
from cot_components.notebook import FAST, RUN_COLOURS, TokenView, plot_budgets, plot_run, start, study, tune, tune_if

runs = start("03_stepwise_internalisation")

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Image, Markdown

from cot_components import losses, models
from cot_components.clock import Clock
from cot_components.curriculum import Stepwise
from cot_components.data.generated.multiplication import multiplication_line
from cot_components.data.rows.plans import Plans
from cot_components.datasets import chat_format, multiplication_dataset
from cot_components.evaluation import AnswerEvaluation
from cot_components.pace import Bar, measured
from cot_components.roles import Role
from cot_components.runs.log import read_log, series
from cot_components.schedules import Schedule, smoothing_offsets
from cot_components.transforms import Remove
from cot_components.viz.panels import accuracy_by_removal, internalisation_panels

# %% [markdown]
# ## One problem
#
# All numbers are written with the lowest digit first. Between question and answer come the partial products and, after
# the second, the running sum in brackets.

# %%
line = multiplication_line(417, 385, 3)
print(line)

# %% [markdown]
# Read it backwards: 417 x 5, 417 x 80, their sum, 417 x 300, and the product.

# %%
thought, product = line.split("||")[1].split(" #### ")
numbers = [int(part.replace(" ", "")[::-1]) for part in thought.replace("(", "+").replace(")", "").split("+")]
print(numbers, "->", int(product.replace(" ", "")[::-1]))
assert numbers == [417 * 5, 417 * 80, 417 * 85, 417 * 300] and int(product.replace(" ", "")[::-1]) == 417 * 385

# %% [markdown]
# As tokens, with the end-of-text token between question, thought and answer, as in the released data.

# %%
data = multiplication_dataset(models.compact_tokenizer(), num_digits=3, num_rows=256)
row, decode = data.rows.flat([0]), data.chat.tokenizer.decode
print(data.summary())
TokenView(row, decode, title="A problem as it is trained on, before anything is removed")

# %% [markdown]
# ## The same problem, losing its steps
#
# Removal starts at the beginning of the thought. Struck-out tokens are gone from the sequence; the model has to predict
# the rest straight from the question. At the end the prompt is followed by the second separator and the answer.


# %%
def at(stage):
    return Remove(schedule=Schedule(ticks_per_epoch=1, start=stage, per_epoch=0), smoothing=float("inf"))


stages = {f"{stage} removed": at(stage)(row, Clock(0, 0)) for stage in (0, 8, 16, 25)}
TokenView(stages, decode, before=row, title="One problem, losing its steps")

# %% [markdown]
# Removing 25 of 25 tokens leaves the row as if it had never had a thought.

# %%
last = stages["25 removed"]
assert np.array_equal(last.tokens, row.tokens[row.roles != Role.THOUGHT])
assert at(1000)(row, Clock(0, 0)).lengths == last.lengths  # there is nothing left to take
assert at(0)(row, Clock(0, 0)) is row

# %% [markdown]
# ## The loss
#
# With the first `s` of `m` thought tokens gone, the model is trained on the rest:
#
# $$L_s = -\log p(y, z_{1 + \min(s, m)}, \ldots, z_m \mid x)$$
#
# It is cross-entropy on a shorter sequence, and it averages over fewer tokens.

# %%
half = stages["16 removed"]
torch.manual_seed(0)
logits, labels = torch.randn(len(half.tokens), 290), torch.from_numpy(half.labels)
torch.testing.assert_close(losses.sft()(logits, labels), F.cross_entropy(logits, labels, ignore_index=-100))
print(f"{(row.labels != -100).sum()} tokens counted before, {(half.labels != -100).sum()} now")

# %% [markdown]
# ## The curriculum, drawn
#
# How fast do they go? `per_epoch` tokens every epoch, evenly spread: 8 in the paper's multiplications. Three schedules
# for epochs of 100 steps: one keeps all steps for an epoch first; one removes everything once 20 are gone.

# %%
schedules = {
    "8 per epoch": Schedule(ticks_per_epoch=100, per_epoch=8),
    "8, after an epoch of explicit steps": Schedule(ticks_per_epoch=100, per_epoch=8, pretrain_epochs=1),
    "4, all from 20 on": Schedule(ticks_per_epoch=100, per_epoch=4, remove_all_from=20),
}
clocks = [Clock(step // 100, step) for step in range(600)]
figure, axes = plt.subplots()
for (name, schedule), colour in zip(schedules.items(), RUN_COLOURS, strict=False):
    axes.step(range(600), [min(schedule.stage(clock), 25) for clock in clocks], where="post", label=name, color=colour)
axes.set(xlabel="step", ylabel="tokens removed", title="The stage of three schedules, for thoughts of 25 tokens")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The picture is the paper's formula, `s(t) = floor(Delta * t / T)`, with `T` steps per epoch.

# %%
assert [schedules["8 per epoch"].stage(clock) for clock in clocks] == [8 * step // 100 for step in range(600)]

# %% [markdown]
# ### Smoothing
#
# If all rows lost their next token in the same step, the loss would jump. So now and then a row loses `o` tokens more
# than scheduled, with probability proportional to `exp(-lambda o)`. With the paper's `lambda = 4`, `o` is nearly always
# 0.

# %%
ids = np.arange(100_000)
figure, panels = plt.subplots(1, 2, sharey=True)
for axes, smoothing in zip(panels, (1.0, 4.0), strict=True):
    offsets = smoothing_offsets(ids, 0, smoothing=smoothing, seed=0)
    expected = (1 - np.exp(-smoothing)) * np.exp(-smoothing * np.arange(6))
    axes.bar(range(6), np.bincount(offsets, minlength=6)[:6] / len(ids), color=RUN_COLOURS[0], width=0.6)
    axes.plot(range(6), expected, "o", color=RUN_COLOURS[1])
    axes.set(xlabel="tokens more than scheduled", title=f"lambda = {smoothing:g}: drawn (bars), formula (dots)")
    assert np.abs(np.bincount(offsets, minlength=6)[:6] / len(ids) - expected).max() < 0.01
panels[0].set_ylabel("share of rows")
plt.show()

# %% [markdown]
# ### A new optimizer at every stage
#
# Adam remembers gradients of earlier, longer sequences. The released code builds a new optimizer whenever one more
# token goes, until nothing is left to remove; without it the accuracy of the paper's 7 x 7 run falls to zero and never
# recovers. The resets are a function of the step, so a resumed run neither forgets nor repeats one.

# %%
plans = Plans(data.rows.lengths, batch_size=8, epochs=5)
stages_of_run = Stepwise(per_epoch=8)(plans, data.rows)
resets = [step for step in range(plans.total_steps) if stages_of_run.resets_optimizer(plans.clock(step))]
print(f"{plans.steps_per_epoch} steps per epoch; a new optimizer before steps {resets}")
assert len(resets) == 25  # once for every token

# %% [markdown]
# ## A whole run
#
# `icot_sft` is the recipe: `tune run icot_sft --config icot_sft/quickstart` trains a GPT-2 of two layers from random
# weights on two digits. Its seven minutes are too long for a notebook, so the log is committed (`make quickstart-icot`
# makes it). On the left, every point is an evaluation on pairs of numbers that are in no training set; the diamond is
# the same model, with the same rows and updates, that never sees a written step. On the right, the loss on answers
# jumps when a token goes, and comes down again.

# %%
logs = Path("../experiments/logs")
whole = [logs / "icot_sft_quickstart", logs / "icot_sft_no_cot"]
Image(plot_run(whole, runs / "whole.png", panels=internalisation_panels).read_bytes(), width=860)

# %% [markdown]
# Accuracy goes up and down: 0.85 with five tokens gone, 0.10 just after the seventh left, 0.99 at the end. That is seed
# 0; all ten seeds end above 0.99 (the study `arrival`).
#
# ### Pace by accuracy
#
# Why do all ten get there? This run removes the next token once the model can do without the last: every 100 steps it
# checks answers to validation questions, and a stage ends when 95 % are right. Dotted lines mark removals.

# %%
steps, right = series(read_log(whole[0]), "teacher_forced_accuracy")
_, stage = series([record for record in read_log(whole[0]) if "teacher_forced_accuracy" in record], "stage")
left = np.flatnonzero(np.diff(stage))
figure, axes = plt.subplots(figsize=(9, 3))
axes.plot(steps, right, color=RUN_COLOURS[0])
axes.axhline(0.95, color="black", linewidth=1)
for place in left:
    axes.axvline(steps[place], color=RUN_COLOURS[1], linestyle=":")
axes.set(xlabel="step", ylabel="validation answers right", ylim=(0, 1), title="The bar, and where a token left")
plt.show()

# %% [markdown]
# Three stages end at the bar. The others end below it, at their **cap**: the rest of the run is shared evenly among the
# stages that are left. Given the accuracies of the log, the rule makes the same decisions as the run:

# %%
rule = measured(
    Schedule(ticks_per_epoch=1000, per_epoch=0), Bar(0.95, cap=None, every=100),
    longest=9, first_step=0, total_steps=15_000, boundaries=[],
)  # fmt: skip
said = [rule.decide(int(step), share) for step, share in zip(steps, right, strict=True)]
print(*[line for line in said if line][:2], sep="\n")
assert [step for step, _ in rule.boundaries] == steps[left].tolist()
assert [rule.stage(Clock(0, int(step) - 1)) for step in steps] == stage.tolist()

# %% [markdown]
# At a fixed pace, as in the paper (here a token per epoch, learnt or not), five seeds end between 0.50 and 0.99 (see
# below). With three digits (`tune run icot_sft --config icot_sft/cpu_3x3`):

# %%
three = [logs / "icot_sft_cpu_3x3", logs / "icot_sft_cpu_3x3_no_cot"]
Image(plot_run(three, runs / "three.png", panels=internalisation_panels).read_bytes(), width=860)

# %% [markdown]
# Here accuracy nearly collapses on the way, and comes back after the last token, as with the paper's full method. And
# here the steps are needed: without ever seeing one, the same model stays near 3 %. Each curve is of one seed.
#
# ## The paper's figures next to ours
#
# Accuracy as published (multiplication: GPT-2 Small); the last rows are the logs above and one two-digit run, with
# another seed, that keeps all steps. None of the paper's rows has been run here: they need a GPU.

# %%
two, two_no_cot, three, three_no_cot = (accuracy_by_removal(read_log(run)) for run in (*whole, *three))
explicit = [accuracy_by_removal(read_log(logs / "icot_sft_explicit"))[1][-1], three[1][three[0] < 1].max()]
Markdown(f"""
| task | no chain-of-thought | ICoT-SI | explicit chain-of-thought | source |
|---|---|---|---|---|
| 4 x 4 | 0.29 | 1.00 | 1.00 | paper |
| 5 x 5 | 0.01 | 0.95 | 1.00 | paper |
| 7 x 7 | 0.00 | 0.95 | 1.00 | paper |
| 9 x 9 | 0.00 | 0.99 | 1.00 | paper |
| 11 x 11 | | 0.74, 320 of 368 symbols gone | | paper |
| GSM8K, GPT-2 Small | 0.13 | 0.30 | 0.41 | paper |
| GSM8K, GPT-2 Medium | 0.17 | 0.35 | 0.44 | paper |
| GSM8K, Mistral 7B | 0.38 | 0.51 | 0.68 | paper |
| **2 x 2**, ours | {two_no_cot[1][-1]:.2f} | {two[1][-1]:.2f} | {explicit[0]:.2f} | measured |
| **3 x 3**, ours | {three_no_cot[1][-1]:.2f} | {three[1][-1]:.2f} | {explicit[1]:.2f} at first | measured |
""")

# %% [markdown]
# The ablations, as far as they have been run, are in the repository's study:

# %%
study("internalisation")

# %% [markdown]
# ## What is a token of thought worth?
#
# You can also ask a trained model to think less: a thought that is still open after a given number of tokens is closed
# for it (`evaluation.max_thought_tokens`), and it goes on with its answer. We train the model of `make quickstart`,
# which thinks about word problems, on half of its rows.

# %%
folder = models.write_tiny_checkpoint(runs / "tiny_llama")
rows = "dataset.max_rows=96" if FAST else "dataset.max_rows=6400"
quiet = ["epochs=1", "lr_scheduler.num_warmup_steps=1"] if FAST else []
quiet += ["dataset_val=null", "evaluation=null", "evaluate_every_n_steps=null"]
place = [f"tokenizer.path={folder}", f"output_dir={runs}/thinker"]
said = tune("bt_sft", "--config", "bt_sft/quickstart", *place, rows, *quiet)

# %%
thinker = models.adapt(models.from_folder(path=f"{runs}/thinker/model", quiet=True))
answer = models.decode_with(thinker)
chat, asked = chat_format(models.hf_tokenizer(str(folder))), {"source": "generated", "split": "held_out"}
held_out = {**asked, "max_rows": 8 if FAST else 100, "batch_size": 100, "max_new_tokens": 80}
found = {}
for budget in (12, 16, 20, 24, 28, 32, None):
    found[f"thinker {budget}"] = AnswerEvaluation(**held_out, max_thought_tokens=budget)(answer, chat)
    print(f"budget {budget}: {found[f'thinker {budget}'].answer_accuracy:.0%} right")
folders = dict.fromkeys(found, runs / "thinker")
Image(plot_budgets(found, folders, runs / "budgets.png").read_bytes(), width=560)

# %% [markdown]
# Never taught to be brief, it is lost when its thought is cut short, or ignores the cut and goes on thinking after the
# tag, which counts as length (the line turns back). Here is a budget of 0; one never reached must change nothing:

# %%
none = AnswerEvaluation(**held_out, max_thought_tokens=0)(answer, chat)
print(f"{none.answer_accuracy:.0%} right with {none.thought_tokens:.0f} tokens: {none.examples[0].completion!r}")
roomy = AnswerEvaluation(**held_out | {"max_new_tokens": 96}, max_thought_tokens=80)(answer, chat)
free = AnswerEvaluation(**held_out | {"max_new_tokens": 96})(answer, chat)
assert FAST or [e.completion for e in roomy.examples] == [e.completion for e in free.examples]

# %%
# Optional, on a GPU: run the config's Download line in this folder, then set this to True.
RUN_ON_GPU = False
tune_if(RUN_ON_GPU, "icot_sft", "--config", "icot_sft/gpt2_4x4")
