"""Figures of the documents that are no measurements."""
