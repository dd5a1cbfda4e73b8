"""What an export is worth: agreement with PyTorch, quality, speed, and what a narrower window costs."""
