# %% [markdown]
# # 6. The loop, in full view
#
# All methods in this package share one training loop. It knows nothing about thoughts: the loader has decided what is
# present and counted, and the loss decides toward what. What is left is mechanics, and mechanics is where runs quietly
# go wrong.
#
# We print the loop and look at four parts of it: **accumulate, finite, clip, step**. Then a real run is killed while it
# trains, started again, and compared with one that was left alone.

# %%
from cot_components.notebook import FAST, RUN_COLOURS, start, tune, tune_and_kill, tune_if

runs = start("06_the_loop")

# %%
import copy
import inspect
import json

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Code
from safetensors.torch import load_file

from cot_components import losses
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plans
from cot_components.datasets import reasoning_dataset
from cot_components.models import hf_tokenizer, tiny_llama, write_tiny_checkpoint
from cot_components.runs.checkpoint import damage, find_newest
from cot_components.runs.log import read_log, series
from cot_components.training import loop
from cot_components.training.distributed import World
from cot_components.training.loop import NonFiniteError, Trainer, train, train_step
from cot_components.transforms import Blur

# %% [markdown]
# ## The outer loop
#
# One `Step` holds everything an optimizer step consumes: its finished micro-batches and the clock.

# %%
Code(inspect.getsource(train).replace(train.__doc__, " ... "), language="python")

# %% [markdown]
# ## The step
#
# This is `train_step` as it runs, printed from the installed package.

# %%
source = inspect.getsource(train_step)
Code(source, language="python")

# %% [markdown]
# To play with it we need a record of what a step works on (`Trainer`), and some steps. The model is tiny and random. 8
# rows make a step; how they are split into micro-batches is our choice.

# %%
folder = write_tiny_checkpoint(runs / "tiny_llama")
data = reasoning_dataset(hf_tokenizer(str(folder)), source="generated", max_rows=32)


def make_trainer(**settings):
    model = tiny_llama(384, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Trainer(model, losses.sft().fused, optimizer, None, torch.device("cpu"), World(), **settings)


def steps(batch_size, accumulate):
    plans = Plans(data.rows.lengths, batch_size=batch_size, gradient_accumulation_steps=accumulate)
    batches = Batches(data.rows, {"blur": Blur(ratio=0.5)}, pad_id=data.chat.tokenizer.pad_id)
    return [batches[plan] for plan in plans]


step = steps(batch_size=2, accumulate=4)[0]
print([f"{batch.num_supervised} of {batch.num_tokens} tokens counted" for batch in step.micro_batches])

# %% [markdown]
# ## Accumulate
#
# Four micro-batches have four different counts. Suppose one holds 4 counted tokens with a loss of 4 each, another 400
# with 1 each. The mean over tokens is 1.03. The mean of the two means is 2.5: each of the few tokens counts as much as
# a hundred of the many.

# %%
few, many = torch.full((4,), 4.0), torch.full((400,), 1.0)
token_mean, mean_of_means = torch.cat([few, many]).mean(), torch.stack([few.mean(), many.mean()]).mean()
figure, axes = plt.subplots(figsize=(6, 1.8))
axes.barh(["mean over tokens", "mean of means"], [token_mean, mean_of_means], color=RUN_COLOURS[:2], height=0.5)
axes.set(xlabel="loss of the step, nats")
axes.grid(visible=False)
plt.show()
print(f"{token_mean:.2f} and {mean_of_means:.2f}")

# %% [markdown]
# That is why the loop counts first: the denominator of the whole step is known before the first `backward`, and each
# micro-batch divides its *sum* by it. With several processes the counts are summed over all of them, and two questions
# ride along in the same message: does any process want to save after this step, or to stop (`asks`)? All get the same
# answer (`agreed`), so all act on it after the same step. These are the lines:

# %%
Code(source[source.index("    # The denominator is") : source.index("    if denominator == 0")], language="python")

# %% [markdown]
# The equality to trust: steps of 1 x 8 rows, of 8 x 1 and of 2 x 4 are the same step. The gradients agree with those of
# a plain mean over all counted tokens, computed by autograd without any of our code.

# %%
measured = {}
for batch_size, accumulate in [(8, 1), (1, 8), (2, 4)]:
    measured[batch_size, accumulate] = train_step(make_trainer(), steps(batch_size, accumulate)[0])
    print(
        batch_size, "x", accumulate, {k: round(measured[batch_size, accumulate][k], 6) for k in ("loss", "grad_norm")}
    )

# %%
(batch,) = steps(8, 1)[0].micro_batches
model = make_trainer().model
logits = model.output(model(batch.tokens)).flatten(0, 1)
F.cross_entropy(logits, batch.labels.flatten(), ignore_index=-100).backward()
plain_norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
for found in measured.values():
    torch.testing.assert_close(torch.tensor(found["grad_norm"]), plain_norm, rtol=1e-4, atol=0)

# %% [markdown]
# And if nothing at all is counted in a step? Then there is nothing to divide by. The step is skipped and reported, and
# the weights stay the same. (In stock torchtune 0.6.1 such a step turns every weight into NaN, and training goes on.)

# %%
trainer = make_trainer()
before = copy.deepcopy(trainer.model.state_dict())
everything_blurred = Batches(data.rows, {"none": lambda flat, clock: flat.with_weights(0 * flat.weights)}, pad_id=0)
print(train_step(trainer, everything_blurred[Plans(data.rows.lengths, batch_size=4).plan(0)]))
assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())

# %% [markdown]
# ## Finite
#
# A loss or gradient that is not a number must never reach the weights: one update is enough to ruin the run. We pick a
# token that occurs in only one row of the step, make its embedding come out as NaN, and take the step.

# %%
in_rows = {i: set(data.rows.flat([i]).tokens.tolist()) for batch in step.micro_batches for i in batch.ids}
rare, owner = next((t, i) for i in in_rows for t in in_rows[i] if sum(t in other for other in in_rows.values()) == 1)


def poison(module, inputs, output):
    return output.masked_fill((inputs[0] == rare)[..., None], float("nan"))


trainer = make_trainer()
before = copy.deepcopy(trainer.model.state_dict())
hook = trainer.model.tok_embeddings.register_forward_hook(poison)
try:
    train_step(trainer, step)
except NonFiniteError as error:
    print(error)
    assert str(error).endswith(f"Row ids: {owner}")

# %% [markdown]
# It stops *before* the update and names the row to look at. The weights have not changed.

# %%
assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
Code(inspect.getsource(loop.stop_unless_finite).replace(loop.stop_unless_finite.__doc__, " ... "), language="python")

# %% [markdown]
# ## Clip
#
# The gradient is an arrow; clipping shortens it to a given length and keeps its direction. `grad_norm` in the log is
# the length before clipping.

# %%
trainer = make_trainer(clip_grad_norm=0.5)
trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
before = copy.deepcopy(trainer.model.state_dict())
norm = train_step(trainer, step)["grad_norm"]
moved = torch.stack([(tensor - before[name]).norm() for name, tensor in trainer.model.state_dict().items()]).norm()
print(f"gradient of length {norm:.2f}, clipped to 0.5; plain SGD with lr 1 moved the weights by {moved:.4f}")
assert norm > 0.5 and abs(moved - 0.5) < 1e-3

# %% [markdown]
# ## Step
#
# Then the optimizer updates the weights, the gradients are cleared, the schedule advances, and the measurements are
# logged. Four steps:

# %%
log = []
train(make_trainer(clip_grad_norm=1.0), steps(8, 1), on_step=lambda step, measured: log.append(measured))
print([round(measured["loss"], 3) for measured in log])
assert log[-1]["loss"] < log[0]["loss"]

# %% [markdown]
# ## Kill it and resume it
#
# Machines fail. A run of this package can save at any optimizer step. It writes under another name first, checks what
# it wrote, and only then renames it. So whenever the power goes, the last complete checkpoint survives.
#
# First, a run that is left alone.

# %%
rows, every = (64, 2) if FAST else (640, 10)
command = ["bt_sft", "--config", "bt_sft/quickstart", f"tokenizer.path={folder}", f"dataset.max_rows={rows}"]
command += ["epochs=3", "batch_size=16", "evaluation=null", "dataset_val=null", "log_every_n_steps=1"]
command += [f"save_every_n_steps={every}", "lr_scheduler.num_warmup_steps=2"]
said = tune(*command, f"output_dir={runs}/undisturbed")

# %% [markdown]
# The same run again, killed with `kill -9` as soon as its second checkpoint exists. No handler, no clean-up.

# %%
killed = runs / "killed"
code = tune_and_kill(killed / "checkpoints" / f"step_{2 * every:08}", *command, f"output_dir={killed}")
print("exit code", code)
assert code == -9

# %% [markdown]
# What is in its folder? Complete checkpoints, each with the sizes and hashes of its files. (Had the kill come in the
# middle of a save, there would also be an unfinished `.saving-...` folder, to be swept away.)

# %%
newest = find_newest(killed / "checkpoints").path
print("whole:", damage(newest) is None)
print(*json.loads((newest / "manifest.json").read_text())["files"], sep="\n")

# %% [markdown]
# To resume, type the same command. It finds the newest checkpoint whose hashes match and continues from there: weights,
# optimizer, schedule, random numbers, position in the data, log.

# %%
said = tune(*command, f"output_dir={killed}")
print(*["resumed from " + line.rpartition("/")[2] for line in said.splitlines() if "resumed from" in line])

# %% [markdown]
# The equality: the resumed run ends with exactly the weights of the undisturbed one, bit for bit, and its log holds the
# same losses.

# %%
ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (killed, runs / "undisturbed"))
assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
(where, resumed), (_, whole) = (series(read_log(run), "loss") for run in (killed, runs / "undisturbed"))
assert resumed.tolist() == whole.tolist()
print(f"{len(ours)} tensors equal, {len(resumed)} losses equal")

# %%
figure, axes = plt.subplots()
axes.plot(where, whole, color=RUN_COLOURS[1], linewidth=4, alpha=0.4, label="undisturbed")
axes.plot(where, resumed, color=RUN_COLOURS[0], linewidth=1.2, label="killed and resumed")
axes.axvline(2 * every - 0.5, linestyle=":", color="black", linewidth=0.8)
axes.set(xlabel="step", ylabel="loss, nats", title="Two logs, one curve; killed after the dotted line")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# A checkpoint that is damaged later is recognised: flip one bit of its weights, and it is skipped.

# %%
newest = find_newest(killed / "checkpoints").path
content = bytearray((newest / "model.safetensors").read_bytes())
content[-1] ^= 1
(newest / "model.safetensors").write_bytes(content)
found = find_newest(killed / "checkpoints")
print(*[f"{path.name}: {reason}" for path, reason in found.damaged], f"used instead: {found.path.name}", sep="\n")

# %%
# Optional, on two GPUs, under FSDP2: run the config's Download line in this folder, then set this to True.
RUN_ON_GPU = False
tune_if(RUN_ON_GPU, "--nproc_per_node", "2", "bt_sft", "--config", "bt_sft/llama3_2_1B", "save_every_n_steps=100")
