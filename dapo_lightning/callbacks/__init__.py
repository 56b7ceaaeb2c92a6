"""What happens around the DAPO steps: checkpoints, samples, warnings."""
