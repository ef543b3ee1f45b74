# %% [markdown]
# # 1. Tour: three questions asked of every token
#
# Fine-tuning on chain-of-thought has many names: blurred thoughts, stepwise internalisation, reasoning-highlighted
# fine-tuning, Target-SFT. Underneath, each of them answers one of three small questions, asked of every token:
#
# | question | what answers it |
# |---|---|
# | **present?** is the token in the sequence at all | `tokens` |
# | **counted?** does its prediction count, and how much | `labels` and `weights` |
# | **toward what?** which distribution is the model pulled toward | the loss |
#
# This notebook takes one short reasoning trace and asks the three questions one after the other. At the end two methods
# are combined in one YAML file, and a real training run uses them. Nothing is downloaded; a laptop CPU will do.

# %%
from cot_components.notebook import FAST, TokenView, plot_run, plot_targets, start, tune, tune_if

runs = start("01_tour")

# %%
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Image
from omegaconf import OmegaConf

from cot_components import losses
from cot_components.clock import Clock
from cot_components.config import build, find_config
from cot_components.data.generated.tasks import make_traces
from cot_components.datasets import reasoning_dataset
from cot_components.losses import induced_target
from cot_components.models import hf_tokenizer, write_tiny_checkpoint
from cot_components.roles import Role
from cot_components.schedules import Schedule
from cot_components.transforms import Blur, ByRole, Remove

now = Clock(epoch=0, step=0)

# %% [markdown]
# ## A trace
#
# A trace is a question and a response; the response thinks inside `<think>` and then answers. The package generates
# small ones, so that you can check every figure in your head.

# %%
trace = make_traces(split="train", count=1)[0]
for message in trace.messages:
    print(f"[{message.role}]\n{message.content}\n")

# %% [markdown]
# ## From text to tokens, each with a role
#
# A tiny model with a tokenizer of its own comes with the package. The data set encodes each row once. While it
# appends the ids it also appends their *role*: which part of the trace they belong to. Roles are never guessed from
# ids later.

# %%
folder = write_tiny_checkpoint(runs / "tiny_llama")
data = reasoning_dataset(hf_tokenizer(str(folder)), source="generated", max_rows=64)
row = data.rows.flat([0])
decode = data.chat.tokenizer.decode

for i in range(36, 46):
    print(
        f"{i:3}  id {row.tokens[i]:3}  {decode([int(row.tokens[i])])!r:12} {Role(int(row.roles[i])).label:12}", end=""
    )
    print(f"label {row.labels[i]:4}  weight {row.weights[i]:.0f}")

# %% [markdown]
# A label is the id the model should predict there; `-100` means "not counted". The prompt carries no labels; thought,
# tags and answer do. That is plain supervised fine-tuning. Nothing is lost on the way: the ids decode to the text
# they came from.

# %%
text = decode(row.tokens.tolist())
assert trace.messages[0].content in text and trace.messages[1].content in text
assert all((row.labels == -100) == (row.roles == Role.PROMPT))

# %% [markdown]
# The same row as a picture. The colour is the role, and a tint means that a token is counted. Point at a token to see
# its id.

# %%
TokenView(row, decode, title="Plain fine-tuning")

# %% [markdown]
# ## Question 1: present?
#
# The simplest thing to do to a thought token is to remove it. `Remove` is the transform of stepwise internalisation
# (notebook 3). A *transform* is a function `(rows, clock) -> rows`: the clock is all it knows about time. Here the
# schedule starts with 12 tokens removed; struck-out tokens are no longer in the sequence.

# %%
remove = Remove(schedule=Schedule(ticks_per_epoch=100, start=12, per_epoch=0), smoothing=float("inf"))
shorter = remove(row, now)
TokenView(shorter, decode, before=row, title="Present? The first 12 thought tokens are gone")

# %% [markdown]
# What would you expect? Twelve tokens fewer, all of them from the thought, and everything else unchanged. And removing
# nothing should change nothing.

# %%
assert len(row.tokens) - len(shorter.tokens) == 12
assert np.array_equal(row.tokens[row.roles != Role.THOUGHT], shorter.tokens[shorter.roles != Role.THOUGHT])
nothing = Remove(schedule=Schedule(ticks_per_epoch=100, start=0, per_epoch=0), smoothing=float("inf"))
assert nothing(row, now) is row

# %% [markdown]
# ## Question 2: counted, and how much?
#
# A blurred token stays where it is, so that later tokens can still look at it, but its label becomes `-100`. In the
# picture it is out of focus.

# %%
blurred = Blur(ratio=0.5)(row, now)
TokenView(blurred, decode, title="Counted? About half of the thought is not")

# %% [markdown]
# The equality to trust: a loss over blurred labels is PyTorch's own cross-entropy with `ignore_index=-100`. We take
# random logits as the model's opinion, since any opinion will do.

# %%
torch.manual_seed(0)
logits = torch.randn(len(row.tokens), 384)
labels = torch.from_numpy(blurred.labels)
ours = losses.sft()(logits, labels)
print(f"ours {ours:.6f}   torch {F.cross_entropy(logits, labels, ignore_index=-100):.6f}")
torch.testing.assert_close(ours, F.cross_entropy(logits, labels, ignore_index=-100))
assert Blur(ratio=0)(row, now) is row

# %% [markdown]
# Between "not at all" and "fully" there is a weight. Here an answer token counts three times as much, a thought token
# half.

# %%
weighed = ByRole({"answer": 3.0, "thought": 0.5})(row, now)
TokenView(weighed, decode, title="How much? Thoughts half, the answer three times")

# %%
weights = torch.from_numpy(weighed.weights)
by_hand = (weights * F.cross_entropy(logits, torch.from_numpy(row.labels), reduction="none")).sum()
torch.testing.assert_close(
    losses.sft().from_logits(logits, torch.from_numpy(row.labels), weights).objective.sum(), by_hand
)

# %% [markdown]
# ## Question 3: toward what?
#
# A token is present and counted. Where does it pull the model? Take a vocabulary of four words. Grey is what the model
# believes, blue is where a loss pulls it; the observed word is orange.

# %%
believes, teacher = [2.0, 1.0, 0.5, -1.0], [0.5, 2.5, 0.0, -0.5]
three = {"sft": losses.sft(), "dft": losses.dft(), "target_sft 0.5": losses.target_sft(eta=0.5)}
plot_targets(believes, 1, teacher, tokens=["six", "nine", "ten", "cat"], presets=three)

# %% [markdown]
# Plain fine-tuning wants the observed word and nothing else. DFT trusts an improbable word only a little. Target-SFT
# asks a teacher (the dots) where the rest should go. Blue is the loss's *induced target*, `Q = p - dL/dz`: the model's
# distribution minus the gradient on the logits. For cross-entropy you know the answer in advance: the one-hot label.

# %%
z, label = torch.tensor([believes], dtype=torch.float64), torch.tensor([1])
induced = induced_target(F.cross_entropy, z, label)
print(induced.round(decimals=6).tolist())
torch.testing.assert_close(induced, F.one_hot(label, 4).double())

# %% [markdown]
# ## Two methods in one YAML
#
# Because the questions are independent, answers compose. A blur (counted?) and DFT (toward what?) are two nodes of one
# config; no third trainer is needed. We start from the shipped quickstart and change these two nodes.

# %%
mine = OmegaConf.merge(
    OmegaConf.load(find_config("bt_sft/quickstart")),
    OmegaConf.create("""
        dataset: {transforms: {blur: {ratio: 0.3, granularity: span}}}
        loss: {_component_: cot_components.losses.dft}
    """),
)
OmegaConf.save(mine, runs / "blurred_dft.yaml")
print(OmegaConf.to_yaml({"transforms": mine.dataset.transforms, "loss": mine.loss}))

# %% [markdown]
# Training is one command. Everything after the config overrides one of its keys; a misspelt key is refused by name.

# %%
size = ["dataset.max_rows=96", "epochs=1"] if FAST else ["dataset.max_rows=3200", "epochs=2"]
size += ["evaluation=null", "dataset_val.max_rows=16", "evaluate_every_n_steps=null"]
place = [f"tokenizer.path={folder}", f"output_dir={runs}/blurred_dft"]
said = tune("bt_sft", "--config", f"{runs}/blurred_dft.yaml", *place, *size)

# %%
Image(plot_run(runs / "blurred_dft", runs / "curves.png").read_bytes(), width=560)

# %% [markdown]
# Is the loss on thoughts slow to fall? DFT trusts what the model believes, and with random weights it believes next to
# nothing: this loss is meant for a model that already knows something. The point here is that both methods ran
# together.
#
# Here is what the loader passed to the model, for the first row: spans of the thought are blurred, with a new draw
# every epoch. The transform is built from the run's own config.

# %%
blur = build(OmegaConf.to_container(mine, resolve=True)["dataset"]["transforms"]["blur"])
TokenView([blur(row, Clock(epoch, 0)) for epoch in range(2)], decode, title="The run's first row in two epochs")

# %% [markdown]
# And a misspelt key? It is reported in one sentence, before anything is built.

# %%
said = tune("bt_sft", "--config", f"{runs}/blurred_dft.yaml", "dataset.transforms.blur.raito=0.5", expect=2)
print(*[line for line in said.splitlines() if line.startswith("error")])

# %% [markdown]
# ## Where to go
#
# Blurring is in notebook 2, removal in 3, weights that find their own tokens in 4, targets in 5. Notebook 6 prints the
# training loop, and 7 brings in your own data, model and trainer.

# %%
# Optional, on a GPU: run the config's Download line in this folder, then set this to True.
RUN_ON_GPU = False
tune_if(RUN_ON_GPU, "bt_sft", "--config", "bt_sft/llama3_2_1B", "loss=cot_components.losses.dft")
