"""Results as CSV, Markdown and SARIF, one module per kind of result."""
