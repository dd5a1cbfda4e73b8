"""The report of an export: JSON, and a page with plots."""
