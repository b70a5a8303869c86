"""A package with its training as a module: python -m pkg.train."""
