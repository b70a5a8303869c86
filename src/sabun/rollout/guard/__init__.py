"""The guard in the training loop."""
