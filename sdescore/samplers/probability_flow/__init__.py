"""The probability-flow ODE: samples, latent codes and likelihoods."""
