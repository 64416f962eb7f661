"""The demonstration: both models on real digits, every sampler, pictures and figures.

``python -m sdescore demo`` runs it; :mod:`sdescore.demo.run` reads as the recipe.
"""
