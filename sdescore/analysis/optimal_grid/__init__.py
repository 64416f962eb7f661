"""The search for a grid of times, before any network runs."""
