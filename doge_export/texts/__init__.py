"""Texts as token ids: the built-in ones, to measure on and to calibrate with, and the user's own."""
