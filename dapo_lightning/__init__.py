"""dapo-lightning: run, ablate and understand DAPO (arXiv 2503.14476)."""
