"""Installed as optimum/commands/register/register_doge.py: optimum-cli runs every file there when it starts.

Other commands than `export onnx` do without torch at their start, so the registration waits for that one.
"""

import sys

if {"export", "onnx"} <= set(sys.argv):
    from doge_export.optimum.exporter import register_doge, users_mistakes_in_one_line

    register_doge()
    sys.excepthook = users_mistakes_in_one_line
