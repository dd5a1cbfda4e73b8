"""What became of an export: a report in JSON, and as a page with plots."""
