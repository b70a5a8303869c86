"""Trains every preset in a process of its own: ``python resume_worker.py DIRECTORY BEGIN``. Used by test_resume.

From step BEGIN (0, or that of a checkpoint) to step 100, with a checkpoint at 50 and at the end. The batches are those
of the step, whoever takes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from capabilities import PRESETS, preset
from training import backward, batches, network

torch.set_num_threads(1)

HALF, END = 50, 100


def main(directory: Path, begin: int) -> None:
    for name in PRESETS:
        model = network(torch.float32, seed=begin)
        optimizer = preset(name, model.named_parameters())
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
        if begin:
            saved = torch.load(directory / f"{name}-{begin}.pt", weights_only=True)
            model.load_state_dict(saved["model"])
            scheduler.load_state_dict(saved["scheduler"])
            optimizer.load_state_dict(saved["optimizer"])
        for n, batch in enumerate(batches(END, torch.float32)[begin:], start=begin + 1):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
            scheduler.step()
            if n in (HALF, END):
                parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
                state = {key: part.state_dict() for key, part in parts.items()}
                torch.save(state, directory / f"{name}-{n}{'-resumed' if begin else ''}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
