"""Hugging Face's Trainer, given an optimizer and a scheduler that were made without ``swap``."""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_linear_schedule_with_warmup

from sabun.integrations.transformers import attach

tokens = torch.arange(8) * 3 + torch.arange(64)[:, None]
rows = [{"input_ids": row, "labels": row} for row in tokens % 17]
model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=8, n_embd=16, n_layer=1, n_head=2))
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), num_train_epochs=3, per_device_train_batch_size=8, use_cpu=True,
    eval_strategy="epoch", logging_strategy="epoch", save_strategy="no", report_to="none", disable_tqdm=True,
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = get_linear_schedule_with_warmup(optimizer, 2, 18)
trainer = Trainer(
    model, arguments, train_dataset=rows[:48], eval_dataset=rows[48:], optimizers=(optimizer, scheduler)
)  # fmt: skip
attach(trainer)
trainer.train()
