"""Results for a terminal, one module per kind of result."""
