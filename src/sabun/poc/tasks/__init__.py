"""Tasks: model, data, loss and evaluation metric."""
