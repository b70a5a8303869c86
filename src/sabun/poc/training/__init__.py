"""How one run is trained."""
