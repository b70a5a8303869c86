"""Script mode: what runs inside the user's training script. Needs torch only."""
