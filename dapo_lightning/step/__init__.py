"""The DAPO step: groups in, one update of the policy out."""
