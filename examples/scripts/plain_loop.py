"""A training script as teams write them: a loop over mini-batches. The three lines that name sabun are all that a study
needs; without a study they do nothing.

    python examples/scripts/plain_loop.py
    sabun poc check --script "python examples/scripts/plain_loop.py" --candidate nesterov@adam
    sabun poc run --script "python examples/scripts/plain_loop.py" --candidate nesterov@adam
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale
from torch import nn

import sabun

x, y = load_breast_cancer(return_X_y=True)
x, y = torch.tensor(scale(x), dtype=torch.float32), torch.tensor(y)
train_x, train_y, val_x, val_y = x[:400], y[:400], x[400:], y[400:]

model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
optimizer = sabun.swap(optimizer)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5 * 25)

for epoch in range(1, 6):
    model.train()
    for rows in torch.randperm(400).split(16):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(train_x[rows]), train_y[rows])
        loss.backward()
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        logits = model(val_x)
    val_loss = nn.functional.cross_entropy(logits, val_y)
    accuracy = (logits.argmax(1) == val_y).float().mean()
    sabun.log(epoch=epoch, train_loss=loss, val_loss=val_loss, accuracy=accuracy)
    print(f"epoch {epoch}: validation loss {val_loss:.4f}, accuracy {accuracy:.3f}")
