"""A script with Hugging Face's Trainer that is given its optimizer and scheduler: the optimizer is swapped where it is
made. Without a study the three lines that name sabun do nothing.

    python examples/scripts/trainer_with_scheduler.py
    sabun poc check --script "python examples/scripts/trainer_with_scheduler.py" --candidate nesterov@adam
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_linear_schedule_with_warmup

import sabun.integrations.transformers

tokens = torch.arange(8) * 3 + torch.arange(96)[:, None]
rows = [{"input_ids": row, "labels": row} for row in tokens % 17]

model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=8, n_embd=16, n_layer=1, n_head=2))
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), num_train_epochs=3, per_device_train_batch_size=8, use_cpu=True,
    eval_strategy="epoch", logging_strategy="epoch", save_strategy="no", report_to="none", disable_tqdm=True,
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
optimizer = sabun.swap(optimizer)
scheduler = get_linear_schedule_with_warmup(optimizer, 2, 24)
trainer = Trainer(
    model, arguments, train_dataset=rows[:64], eval_dataset=rows[64:], optimizers=(optimizer, scheduler)
)  # fmt: skip
sabun.integrations.transformers.attach(trainer)
trainer.train()
