"""A Lightning script. The lines that name sabun are all that a study needs; without a study they do nothing.

python examples/scripts/lightning_module.py
sabun poc check --script "python examples/scripts/lightning_module.py" --candidate nesterov@adam
"""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sabun.integrations.lightning import attach

x = torch.randn(192, 4, generator=torch.Generator().manual_seed(0))
y = x.sum(1, keepdim=True).sin()
train, validation = TensorDataset(x[:128], y[:128]), TensorDataset(x[128:], y[128:])


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, batch, _):
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


trainer = pl.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
attach(trainer)
trainer.fit(Regression(), DataLoader(train, 16, shuffle=True), DataLoader(validation, 64))
print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})
