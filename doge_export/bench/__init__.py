"""Timing an exported model: the machine, the ceiling that its weights set, and what the runtime makes of it."""
