"""Texts as token ids: those that come along to measure on and to calibrate with, and the user's own."""
