# ruff: noqa: T201
"""Keeps the best checkpoint and validates it after the fit. The last epochs make the model worse."""

import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sabun
from sabun.integrations.lightning import AveragedEvaluation, attach

x = torch.randn(192, 4, generator=torch.Generator().manual_seed(0))
data = TensorDataset(x, x.sum(1, keepdim=True).sin())


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        self.seen = []

    def training_step(self, batch, _):
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        return loss if self.current_epoch < 3 else -loss

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def on_validation_epoch_end(self):
        self.seen.append(float(self.trainer.callback_metrics["val_loss"]))

    def configure_optimizers(self):
        if sys.argv[1] == "study":
            return torch.optim.AdamW(self.parameters(), lr=0.01)
        return sabun.create(sys.argv[1], self, lr=0.02)


def trainer(epochs, *callbacks):
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=list(callbacks),
    )  # fmt: skip


best = ModelCheckpoint("checkpoints", monitor="val_loss")
inside = sys.argv[1] == "study"
fitted = trainer(8, best) if inside else trainer(8, best, AveragedEvaluation())
attach(fitted)
module = Regression()
batches = DataLoader(data, 16, shuffle=True), DataLoader(data, 192)
fitted.fit(module, *batches)
losses = list(module.seen)
print("LEAST", min(losses))
print("LAST", losses[-1])
(found,) = fitted.validate(module, batches[1], ckpt_path="best", verbose=False)
print("BEST", found["val_loss"])
if not inside:
    (found,) = trainer(1, AveragedEvaluation()).validate(
        Regression(), batches[1], ckpt_path=best.best_model_path, verbose=False
    )
    print("FRESH", found["val_loss"])
