"""Hugging Face's Trainer with an optimizer of sabun, by its name.

Run with ``python examples/transformers_trainer.py`` (needs ``pip install 'sabun[transformers]'``).
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from sabun.integrations.transformers import optimizer

tokens = torch.arange(8) * 3 + torch.arange(96)[:, None]
rows = [{"input_ids": row, "labels": row} for row in tokens % 17]

torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=8, n_embd=16, n_layer=1, n_head=2))
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), num_train_epochs=5, per_device_train_batch_size=8, use_cpu=True,
    logging_strategy="epoch", save_strategy="no", report_to="none", disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(
    model, arguments, train_dataset=rows, optimizer_cls_and_kwargs=optimizer("muon", lr=0.01, weight_decay=0.01)
)  # fmt: skip
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"{type(trainer.optimizer.optimizer).__name__}: training loss {losses[0]:.3f} to {losses[-1]:.3f}")
