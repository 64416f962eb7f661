"""Where a sampler evaluates the score: falling times from T to t_min."""
