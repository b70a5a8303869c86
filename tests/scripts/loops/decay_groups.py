"""One model with groups with and without decay through one entrance: ``swap``, ``lightning`` or ``trainer``."""

import hashlib
import sys
import tempfile

import torch
from torch import nn

import sabun


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.symbols = nn.Embedding(16, 12)
        self.blocks = nn.ModuleList([nn.Linear(12, 12) for _ in range(3)])
        self.scale = nn.LayerNorm(12)
        self.value = nn.Linear(12, 1)

    def forward(self, x, labels=None):
        h = self.symbols(x.reshape(-1, 4)).mean(1)
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        return {"loss": (self.value(self.scale(h)).flatten() - labels.flatten()).square().mean()}


def build():
    torch.manual_seed(0)
    return Net()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 16, (32, 4), generator=generator), torch.randn(32, generator=generator)


def groups(model, order):
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    made = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return made[::order]


def train(model, optimizer, after=lambda: None):
    x, y = batch()
    for _ in range(4):
        optimizer.zero_grad()
        model(x, y)["loss"].backward()
        optimizer.step()
        after()


def fingerprint(model):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def swapped(model):
    optimizer = sabun.swap(torch.optim.AdamW(groups(model, -1), lr=1e-2))
    x, y = batch()
    train(model, optimizer, lambda: sabun.log(val_loss=model(x, y)["loss"].item()))


def by_lightning(model):
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader

    from sabun.integrations.lightning import attach

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.classifier = model

        def training_step(self, rows, _):
            return self.classifier(*rows)["loss"]

        def validation_step(self, rows, _):
            self.log("val_loss", self.classifier(*rows)["loss"])

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(groups(self, 1), lr=1e-2)
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 1.0, lambda _: 1.0])]

    loader = DataLoader([batch()], batch_size=1)
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1,
    )  # fmt: skip
    attach(trainer).fit(Module(), loader, loader)


def by_trainer(model):
    from transformers import Trainer, TrainingArguments

    from sabun.integrations.transformers import attach

    x, y = batch()
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), num_train_epochs=4, per_device_train_batch_size=1, learning_rate=1e-2,
        weight_decay=0.1, max_grad_norm=0.0, lr_scheduler_type="constant", use_cpu=True, eval_strategy="epoch",
        save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    rows = [{"x": x, "labels": y}]
    attach(Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)).train()


if __name__ == "__main__":
    model = build()
    {"swap": swapped, "lightning": by_lightning, "trainer": by_trainer}[sys.argv[1]](model)
    sys.stdout.write(f"WEIGHTS {fingerprint(model)}\n")
