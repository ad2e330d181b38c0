"""The command line: one file a verb, each a thin shell over a public function."""

from __future__ import annotations

from convsmith.cli.running import main

__all__ = ["main"]
