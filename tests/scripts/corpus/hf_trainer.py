"""Hugging Face's Trainer with a small BERT; it makes its optimizer and its schedule itself."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from sabun.integrations.transformers import attach

ids = torch.randint(0, 40, (64, 8), generator=torch.Generator().manual_seed(1))
rows = [{"input_ids": row, "labels": int(row[0] > 20)} for row in ids]
config = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16,
)  # fmt: skip
arguments = TrainingArguments(
    "out", num_train_epochs=3, per_device_train_batch_size=16, learning_rate=1e-2, weight_decay=0.1, warmup_steps=2,
    use_cpu=True, eval_strategy="epoch", logging_strategy="epoch", save_strategy="no", report_to="none",
    disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(
    model_init=lambda: BertForSequenceClassification(config), args=arguments, train_dataset=rows[:48],
    eval_dataset=rows[48:],
)  # fmt: skip
attach(trainer)
trainer.train()
