from sabun.optim.optimizer import Optimizer

__all__ = ["Optimizer"]
