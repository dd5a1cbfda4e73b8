"""The speed of this package alone: prompts, steps, batches, drafts, sampling, streams."""
