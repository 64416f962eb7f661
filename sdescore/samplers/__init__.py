"""The three samplers, side by side, on one request."""
