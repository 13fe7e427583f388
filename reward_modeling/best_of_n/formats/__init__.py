"""How rows are written: one file for each format, and one line for it in the catalog."""
