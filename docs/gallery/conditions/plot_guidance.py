"""
What guidance does to a distribution
====================================

Classifier-free guidance exaggerates the difference between the score of one class and that of all
classes. Samples move away from the other classes, and spread less. Beyond ω = 1 they follow no
known distribution.
"""

import matplotlib.pyplot as plt

import sdescore as ss

# %%
# Three classes with exact scores: class A has two parts, of which one is near the other classes.
sde = ss.VPSDE()
class_a = ss.MixtureScore([0.5, 0.5], [[-2.0, 0.0], [0.3, 1.6]], [0.25, 0.25], sde)
others = [[1.6, 0.9], [1.2, -1.4]]
everything = ss.MixtureScore(
    [0.25, 0.25, 0.25, 0.25], [[-2.0, 0.0], [0.3, 1.6], *others], [0.25] * 4, sde
)
background = everything.sample(3000, seed=1)
sampler = ss.PredictorCorrector(sde, steps=40)

figure, panels = plt.subplots(2, 2, figsize=(6.4, 6.4), layout="constrained")
near = {}
for axes, omega in zip(panels.flat, (0.0, 1.0, 2.0, 5.0), strict=True):
    guided = ss.classifier_free(class_a, everything, omega)
    x = sampler.sample(guided, shape=(2000, 2), seed=0)
    near[omega] = (x[:, 0] > -0.8).double().mean().item()
    axes.scatter(*background.T, s=2, color="#d4d4d4", linewidths=0)
    axes.scatter(*x.T, s=2, color="#b45309", linewidths=0)
    axes.set(title=f"ω = {omega:g}", xlim=(-4.5, 4), ylim=(-4, 4), aspect="equal")
    axes.set(xticks=[], yticks=[], xlabel=f"{100 * near[omega]:.0f} % in the right half")
plt.show()

# %%
# ω = 0 samples all classes and ω = 1 the class alone (half of it is on the right). A larger ω
# empties the part that lies near the other classes.
#
# **Read on.** :doc:`Guidance </howto/guidance>`; :doc:`conditions </howto/conditions>`.
