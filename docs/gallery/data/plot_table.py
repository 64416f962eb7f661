"""
A table with columns of different scales
========================================

Columns in different units need no preparation. ``train`` measures the mean and the standard
deviation of each, and samples come out in the units of the data.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# A made-up table: income is skewed and rises with age, and height does not depend on either.
generator = torch.Generator().manual_seed(0)
z = torch.randn(4000, 3, generator=generator)
age = 40 + 12 * z[:, 0]
income = torch.exp(10 + 0.02 * (age - 40) + 0.4 * z[:, 1])
height = 1.70 + 0.1 * z[:, 2]
table = torch.stack([age, income / 1000, height], 1)
columns = ["age / years", "income / 1000", "height / m"]

# %%
torch.manual_seed(0)
model = ss.ScoreModel(ss.MLP(3, hidden=64), ss.VPSDE())
trained = ss.train(model, table, steps=700, batch_size=256, lr=5e-3, progress=False).model
x = ss.PredictorCorrector(model.sde, steps=25).sample(trained, shape=(4000, 3), seed=0)

figure, panels = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for i, name in enumerate(columns):
    ends = table[:, i].min().item(), table[:, i].max().item()
    for rows, label, colour in ((table, "data", "#737373"), (x, "samples", "#c2410c")):
        panels[i].hist(rows[:, i], bins=40, range=ends, histtype="step", color=colour, label=label)
    panels[i].set(xlabel=name, yticks=[])
panels[0].legend()
panels[3].scatter(table[:1500, 0], table[:1500, 1], s=2, color="#737373", linewidths=0)
panels[3].scatter(x[:1500, 0], x[:1500, 1], s=2, color="#c2410c", linewidths=0)
panels[3].set(xlabel=columns[0], ylabel=columns[1], ylim=(0, 100))
plt.show()

correlation = {
    name: torch.corrcoef(rows[:, :2].T)[0, 1].item()
    for name, rows in (("data", table), ("samples", x))
}
print({name: round(value, 2) for name, value in correlation.items()})

# %%
# **Read on.** :doc:`Tables </howto/tables>`, with categories too.
