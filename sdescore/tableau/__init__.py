"""What a method's numbers mean, and the tools that make them."""
