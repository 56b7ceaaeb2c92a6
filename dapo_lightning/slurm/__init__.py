"""Runs inside a SLURM job: what the job is, how it stops, and how it is requeued."""
