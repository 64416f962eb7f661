"""Random numbers by address, and what hands them to a step."""
