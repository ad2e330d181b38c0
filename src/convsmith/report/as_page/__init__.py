"""Results as one-file HTML pages, one module per kind of result."""
