"""The measurements of doge-bench: the speed of an exported model, and the ceiling that its weights set on a machine."""
