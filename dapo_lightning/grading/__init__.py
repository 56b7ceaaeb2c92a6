"""Grading of hostile text in child processes: nothing here imports torch."""
