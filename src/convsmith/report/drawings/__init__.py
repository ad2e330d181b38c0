"""Drawings in SVG and PNG, from plain data."""
