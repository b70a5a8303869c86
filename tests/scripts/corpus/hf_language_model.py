"""Hugging Face's Trainer with a small GPT-2 that was made before it, and a cosine schedule."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from sabun.integrations.transformers import attach

tokens = (torch.arange(8) * 3 + torch.arange(64)[:, None]) % 17
rows = [{"input_ids": row, "labels": row} for row in tokens]
model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=8, n_embd=16, n_layer=1, n_head=2))
arguments = TrainingArguments(
    "out", num_train_epochs=3, per_device_train_batch_size=8, learning_rate=1e-2, lr_scheduler_type="cosine",
    use_cpu=True, eval_strategy="epoch", logging_strategy="epoch", save_strategy="no", report_to="none",
    disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(model, arguments, train_dataset=rows[:48], eval_dataset=rows[48:])
attach(trainer)
trainer.train()
