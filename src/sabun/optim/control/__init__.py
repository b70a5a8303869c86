"""Step controls: one module per control."""
