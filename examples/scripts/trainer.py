"""A script with Hugging Face's Trainer, which makes its own optimizer. The two lines that name sabun are all that a
study needs; without a study they do nothing.

    python examples/scripts/trainer.py
    sabun poc check --script "python examples/scripts/trainer.py" --candidate nesterov@adam
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from sabun.integrations.transformers import attach

tokens = torch.arange(8) * 3 + torch.arange(96)[:, None]
rows = [{"input_ids": row, "labels": row} for row in tokens % 17]

model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=8, n_embd=16, n_layer=1, n_head=2))
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), num_train_epochs=3, per_device_train_batch_size=8, learning_rate=3e-3, use_cpu=True,
    eval_strategy="epoch", logging_strategy="epoch", save_strategy="no", report_to="none", disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(
    model, arguments, train_dataset=rows[:64], eval_dataset=rows[64:],
    optimizer_cls_and_kwargs=(torch.optim.NAdam, {"lr": 3e-3}),
)  # fmt: skip
attach(trainer)
trainer.train()
