"""Examines data and reward before a long run: `dapo-lightning doctor <overrides of a run>`."""

from __future__ import annotations

from dapo_lightning.doctor.examination import Diagnosis, examine
from dapo_lightning.doctor.finding import Finding
from dapo_lightning.doctor.patient import HeldOutSet, Patient
from dapo_lightning.doctor.references import References

__all__ = ["Diagnosis", "Finding", "HeldOutSet", "Patient", "References", "examine"]
