"""A Lightning module that returns an optimizer with its scheduler, stepped every batch."""

import sys

import lightning.pytorch as pl
import torch
from problem import data, net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sabun.integrations.lightning import attach

train, validation = data()


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=18)
        if sys.argv[1] == "lists":
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


trainer = pl.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
attach(trainer)
trainer.fit(
    Classifier(), DataLoader(TensorDataset(*train), 32, shuffle=True), DataLoader(TensorDataset(*validation), 64)
)
