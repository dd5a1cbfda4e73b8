"""The worth of an export: agreement with PyTorch, quality, speed, and the cost of a narrower window."""
