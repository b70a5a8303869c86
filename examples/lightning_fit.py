"""Lightning with a sabun optimizer: validated at the average, watched by the guard.

Run with ``python examples/lightning_fit.py`` (needs ``pip install 'sabun[lightning]'``).
"""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun
from sabun.integrations.lightning import AveragedEvaluation, Guarding

torch.manual_seed(0)
x = torch.randn(192, 4)
y = x.sum(1, keepdim=True).sin()


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, batch, _):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return sabun.create("nadamw", self, lr=0.01, averaging="ema(decay=0.9)")


guarding = Guarding(champion=lambda params: torch.optim.AdamW(params, lr=1e-3))
callbacks = [AveragedEvaluation(), guarding]
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=callbacks, **quiet)
loaders = DataLoader(TensorDataset(x[:128], y[:128]), 16, shuffle=True), DataLoader(TensorDataset(x[128:], y[128:]), 64)
trainer.fit(Regression(), *loaders)
print(f"loss at the average: {trainer.callback_metrics['val_loss']:.4f} after {guarding.guard.steps} guarded steps")
