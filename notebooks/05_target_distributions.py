# %% [markdown]
# # 5. Target distributions
#
# *Toward what?* is the third question. Cross-entropy pulls the model to the observed token and to nothing else. Many
# newer losses pull somewhere milder. Seen rightly they are one family, and the whole family fits in one picture: what
# the model believes, and what it is pulled to.
#
# The framework is that of Target-SFT (Xie et al., arXiv 2606.11189). We begin with something you know by heart.

# %%
from cot_components.notebook import start, study, tune, tune_if

runs = start("05_target_distributions")

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from cot_components import losses
from cot_components.losses import Loss, Target, dense_loss, induced_target
from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.viz.targets import every_preset, plot_targets
from cot_components.viz.theme import LINE, RUN_COLOURS

# %% [markdown]
# ## One token
#
# A vocabulary of four words; the text says *nine*. Below, what the model believes and what a teacher would say.

# %%
words, observed = ["six", "nine", "ten", "cat"], 1
z = torch.tensor([[2.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
z_teacher = torch.tensor([[0.5, 2.5, 0.0, -0.5]], dtype=torch.float64)
label = torch.tensor([observed])
figure, axes = plt.subplots(figsize=(6, 2.6))
for place, (name, logits) in enumerate({"model": z, "teacher": z_teacher}.items()):
    axes.bar(np.arange(4) + 0.4 * place - 0.2, logits.softmax(-1)[0], width=0.4, label=name, color=RUN_COLOURS[place])
axes.set_xticks(range(4), words)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The gradient of cross-entropy
#
# You may remember it: on the logits it is `p - onehot`. Autograd agrees.

# %%
free = z.clone().requires_grad_()
F.cross_entropy(free, label).backward()
p, onehot = z.softmax(-1), F.one_hot(label, 4).double()
torch.testing.assert_close(free.grad, p - onehot)
print("p - onehot =", (p - onehot).round(decimals=3)[0].tolist())

# %% [markdown]
# So the gradient vanishes where `p` equals the one-hot label: that is where the loss wants the model to go. Turn it
# around, and any loss tells where it pulls to: take its gradient away from `p`. This is its **induced target**,
#
# $$Q = p - \frac{\partial L}{\partial z}.$$

# %%
torch.testing.assert_close(induced_target(F.cross_entropy, z, label), onehot)

# %% [markdown]
# Try it on a loss whose target you can guess. Label smoothing gives a tenth of the mass to all words evenly.

# %%
smooth = induced_target(losses.label_smoothing(smoothing=0.1), z, label)
print(smooth.round(decimals=3)[0].tolist())
torch.testing.assert_close(smooth, 0.9 * onehot + 0.1 / 4)

# %% [markdown]
# And PyTorch's own label smoothing has the same target, since it is the same loss.

# %%
theirs = induced_target(lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1), z, label)
torch.testing.assert_close(theirs, smooth)

# %% [markdown]
# ## All presets, side by side
#
# Grey is the model, blue the target of the loss, dots are the reference where a loss looks at one.

# %%
plot_targets(z[0].tolist(), observed, z_teacher[0].tolist(), tokens=words)

# %% [markdown]
# Read a few of them. `sft` wants *nine* and nothing else. `dft` finds *nine* improbable and asks for little. `profit`
# drops the token altogether, so blue equals grey. `distill` does not look at the label. Three leave the range from 0
# to 1: `gem` pushes away from a distribution, `sft_kl` pulls to two places at once, and `psft` weighs the token by a
# ratio that can exceed one.
#
# ## One formula for all of them
#
# Behind the picture are two pulls, to the observed token and to an alternative `r`:
#
# $$\frac{\partial L}{\partial z} = a\,(p - \text{onehot}) + b\,(p - r)$$
#
# In the code `a` is `imitate`, `b` is `follow`, `r` is `alternative`. A preset is little more than these three.

# %%
for name, loss in every_preset().items():
    parts = {part: getattr(loss.target, part) for part in ("imitate", "follow", "alternative")}
    spelled = [getattr(rule, "func", rule) for rule in parts.values()]
    print(f"{name:20}", *[f"{getattr(rule, '__name__', rule)!s:22}" for rule in spelled])

# %% [markdown]
# The fast code is one function with hand-written gradients. Beside it stands an obvious one, `dense_loss`, which
# leaves the gradients to autograd. They must agree, on many tokens and for every preset that needs nothing but
# logits.

# %%
torch.manual_seed(0)
many, many_labels = torch.randn(64, 50, dtype=torch.float64), torch.randint(50, (64,))
compared = 0
for loss in [loss for loss in every_preset().values() if not loss.needs]:
    slow, fast = many.clone().requires_grad_(), many.clone().requires_grad_()
    dense_loss(loss, slow, many_labels).sum().backward()
    loss.from_logits(fast, many_labels).objective.sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad)
    compared += 1
print(f"{compared} presets agree with autograd")

# %% [markdown]
# ## Why the detach matters
#
# DFT multiplies the loss of a token by its probability: `p * (-log p)`, with the factor *detached*, a number and not
# something to be moved. Forget the detach, and look at the pull on the observed token as its probability goes from 0
# to 1. Below zero the loss raises the token, as it should.

# %%
probabilities = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
two = torch.stack([probabilities.log(), (1 - probabilities).log()], 1)
grads = {}
for name, detach in {"detached": True, "not detached": False}.items():
    free = two.clone().requires_grad_()
    nll = F.cross_entropy(free, torch.zeros(99, dtype=torch.long), reduction="none")
    factor = torch.exp(-nll)
    ((factor.detach() if detach else factor) * nll).sum().backward()
    grads[name] = free.grad[:, 0]

# %%
figure, axes = plt.subplots()
for (name, grad), colour in zip(grads.items(), RUN_COLOURS, strict=False):
    axes.plot(probabilities, grad, label=name, color=colour)
axes.axhline(0, color=LINE.light)
axes.axvline(1 / np.e, color=LINE.light, linestyle=":")
axes.set(xlabel="probability of the observed token", ylabel="gradient on its logit", title="Left of 1/e the sign flips")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Left of `1/e = 0.368` the undetached loss pushes the observed token *down*: exactly where the model has something to
# learn. The detached gradient never changes its sign. It is the one the package uses, for targets and for weights
# alike.

# %%
assert (grads["detached"] < 0).all()
assert (grads["not detached"][probabilities < 1 / np.e] > 0).all()
free = two.clone().requires_grad_()
losses.dft().from_logits(free, torch.zeros(99, dtype=torch.long)).objective.sum().backward()
torch.testing.assert_close(free.grad[:, 0], grads["detached"])

# %% [markdown]
# ## Target-SFT: ask a teacher
#
# DFT mutes improbable tokens. But where should the rest of the trust go? Target-SFT gives it to a mixture of student
# and teacher, `p^(1 - eta) * teacher^eta`, normalised. At `eta = 0` the teacher is not heard, and it must be DFT.

# %%
etas = {f"eta = {eta}": losses.target_sft(eta=eta) for eta in (0.0, 0.3, 0.5, 1.0)}
plot_targets(z[0].tolist(), observed, z_teacher[0].tolist(), tokens=words, presets={"dft": losses.dft(), **etas})

# %%
pulled = {name: induced_target(loss.from_logits, z, label, reference=z_teacher) for name, loss in etas.items()}
torch.testing.assert_close(pulled["eta = 0.0"], induced_target(losses.dft(), z, label))
trust = p[0, observed]
torch.testing.assert_close(pulled["eta = 1.0"], trust * onehot + (1 - trust) * z_teacher.softmax(-1))
print({name: q.round(decimals=3)[0].tolist() for name, q in pulled.items()})

# %% [markdown]
# ## A lesson with mistakes in it
#
# Now let a loss pull for a while. Our "model" is one row of logits; the text says *ten* in six of ten lessons, which
# is wrong, and *nine* in four. The model leans to *nine* already, and the teacher knows.

# %%
lessons = torch.tensor([1, 1, 1, 1, 2, 2, 2, 2, 2, 2])
leaning = torch.tensor([0.5, 2.0, 0.5, -1.0])
teacher = torch.tensor([[-2.0, 4.0, -2.0, -4.0]]).expand(10, 4)
ends = {"before": leaning.softmax(-1)}
for name, loss in {"sft": losses.sft(), "dft": losses.dft(), "target_sft 0.5": losses.target_sft(eta=0.5)}.items():
    model = leaning.clone().requires_grad_()
    optimizer = torch.optim.SGD([model], lr=0.05)
    for _ in range(400):
        loss.from_logits(model.expand(10, 4), lessons, reference=teacher).objective.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    ends[name] = model.detach().softmax(-1)

# %%
figure, axes = plt.subplots()
for place, ((name, belief), colour) in enumerate(zip(ends.items(), (LINE.light, *RUN_COLOURS), strict=False)):
    axes.bar(np.arange(4) + 0.2 * place - 0.3, belief, width=0.2, label=name, color=colour)
axes.set_xticks(range(4), words)
axes.set(ylabel="belief after 400 steps", title="Six lessons of ten say 'ten'; the truth is 'nine'")
axes.legend(frameon=False)
plt.show()
torch.testing.assert_close(ends["sft"], torch.tensor([0.0, 0.4, 0.6, 0.0]), atol=0.02, rtol=0)
assert ends["dft"][2] > 0.9 and ends["target_sft 0.5"][1] > 0.9

# %% [markdown]
# Plain fine-tuning ends at the frequencies of the text, 4 to 6, as it must. DFT trusts what it believes, so the more
# frequent lesson feeds on itself: it ends at *ten* alone, although it began at *nine*. Target-SFT has a teacher to
# ask, and ends at *nine*. This is a single row: in a model, beliefs also come from all the other rows, and DFT can do
# better than plain fine-tuning (in `make quickstart-target` it does; over five seeds, below, it gains as often as it
# loses). But it cannot know what nobody tells it.
#
# ## The same on a model
#
# `make quickstart-target` does this with a half-trained model, a teacher, and demonstrations of which six in ten end
# one too high. It takes three minutes. Over several seeds, with controls, it is the study of the repository:

# %%
study("targets")

# %% [markdown]
# Here is the recipe itself for a few steps, to see the command and the shape of a config with a teacher. The tiny
# random model is its own teacher, so nothing can be learnt from it.

# %%
folder = write_tiny_checkpoint(runs / "tiny_llama", seed=1)
paths = [f"{node}.path={folder}" for node in ("model", "reference.model")]
small = ["dataset.max_rows=64", "epochs=1"]
quiet = ["evaluation=null", "dataset_val=null", "evaluate_every_n_steps=null", "log_every_n_steps=1"]
place = [f"tokenizer.path={folder}", f"output_dir={runs}/with_teacher"]
said = tune("target_sft", "--config", "target_sft/quickstart", *paths, *small, *quiet, *place)

# %% [markdown]
# ## A preset of your own
#
# A pull is a plain function; the names of its parameters say what it reads. Square the trust of DFT:


# %%
def squared(p):
    return p**2


mine = Loss(Target(imitate=squared), "dft_squared")
torch.testing.assert_close(induced_target(mine, z, label), p - p[0, observed] ** 2 * (p - onehot))

# %%
# Optional, on a GPU: run the config's Download line in this folder, then set this to True. DFT needs no teacher; for
# Target-SFT set loss.eta and reference.model.path instead.
RUN_ON_GPU = False
dft_alone = ["loss=cot_components.losses.dft", "~loss.eta", "reference=null"]
tune_if(RUN_ON_GPU, "target_sft", "--config", "target_sft/qwen2_5_1_5B_numina", *dft_alone)
