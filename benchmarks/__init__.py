"""Measurements by hand. README.md says which question each answers, its command, and how long it takes."""
