"""Many prompts at once: rows of files or of tables, answered and handed on with all of their columns."""
