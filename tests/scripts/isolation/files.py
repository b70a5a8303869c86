# ruff: noqa: I001, PTH123, PTH208, SIM115, T201
"""Reads data by a relative path and writes files in the ways of scripts, chosen by the arguments."""

import os
import sys
import time
from pathlib import Path

import sabun
import torch
from problem import data, evaluate, network, train

mode, target = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
(x, y), (vx, vy) = data()
model = network()
optimizer = sabun.swap(torch.optim.Adam(model.parameters(), lr=1e-2))
if mode == "resume" and Path("last.pt").exists():
    model.load_state_dict(torch.load("last.pt"))
if mode == "pretrained":
    model.load_state_dict(torch.load("checkpoints/pretrained.pt"))
if mode == "read":
    print("READ", Path("data/numbers.txt").read_text(), Path("../beside.txt").read_text())
for epoch in range(1, 4):
    train(model, optimizer, x, y)
    loss, accuracy = evaluate(model, vx, vy)
    if mode == "torch-outside":
        torch.save(model.state_dict(), target)
    if mode == "python-outside":
        Path(target).write_text("outside")
    if mode == "run-dir":
        (Path(target) / "here.txt").write_text("inside")
        print("WROTE", sorted(os.listdir()), Path.cwd() == Path(target))
    sabun.log(val_loss=loss)
    if mode == "after-log":
        with open(target, "w") as file:  # not an atomic write
            for line in range(200):
                print(line, file=file, flush=True)
                time.sleep(0.005)
    Path("checkpoints").mkdir(exist_ok=True)
    torch.save(model.state_dict(), "checkpoints/last.pt")
    torch.save(model.state_dict(), "last.pt")
    Path("history.csv").open("a").write(f"{epoch}\n")
if mode == "os-exit":
    os._exit(0)
