"""The stages, each a function of its arguments; the commands of the same names (`train.sft`, ...) run them."""
