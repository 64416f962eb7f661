"""Predictors, one family a file; each is a function (SDE, times) → tableau."""
