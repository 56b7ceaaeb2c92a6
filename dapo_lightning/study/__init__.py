"""Reads finished runs: summaries, tables, curves."""
