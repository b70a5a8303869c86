"""Training through ``sabun.poc`` against a bare loop over the same model, data and optimizer: the overhead of a study.

    python benchmarks/poc_overhead.py [--task digits-cnn] [--epochs 4] [--rounds 11]

Both train the same number of mini-batches and evaluate on the validation data after every epoch (the engine also before
the first). Interleaved; the ratios of training time and of total time are medians over rounds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time

import torch

from sabun.poc.records import Epoch
from sabun.poc.resolved import resolve
from sabun.poc.spec import Arm, Budget, Run, Study
from sabun.poc.tasks.loading import load
from sabun.poc.training.trainer import Trainer


def bare(task: object, epochs: int, lr: float) -> tuple[float, float]:
    """Train as a user would; return the total seconds and those of training."""
    source, splits = task.source, task.splits  # type: ignore[attr-defined]
    x, y = splits["train"].batch(torch.arange(len(splits["train"])))
    validation = splits["validation"].batch(torch.arange(len(splits["validation"])))
    size = source.batch_size
    steps = len(x) // size
    begin = time.perf_counter()
    torch.manual_seed(0)
    model = source.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * steps)
    training = 0.0
    for _ in range(epochs):
        epoch = time.perf_counter()
        model.train()
        order = torch.randperm(len(x))
        losses = []
        for start in range(0, steps * size, size):
            index = order[start : start + size]
            optimizer.zero_grad()
            loss = source.loss(model, (x[index], y[index]))
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        training += time.perf_counter() - epoch
        float(torch.stack(losses).mean())
        model.eval()
        with torch.no_grad():
            float(source.loss(model, validation))
            float(source.metric(model, validation))
    return time.perf_counter() - begin, training


def through_poc(trainer: Trainer, lr: float) -> tuple[float, float]:
    """Train the same run in a study; return the total seconds and those reported as training."""
    begin = time.perf_counter()
    # A tuning run: it reads no test data, as the bare loop does not.
    run = Run(arm="adamw", seed=1, phase="tune", hyperparameters={"lr": lr})
    done = list(trainer.run(run))
    seconds = time.perf_counter() - begin
    return seconds, sum(item.train_s for item in done if isinstance(item, Epoch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits-cnn")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arm = Arm(name="adamw", optimizer="torch.optim:AdamW")
    study = Study(
        name="overhead",
        task=arguments.task,
        baseline=arm,
        candidates=(arm.model_copy(update={"name": "adamw again"}),),
        budget=Budget(epochs=arguments.epochs, trials=0, seeds=2),
    )
    task = load(arguments.task)
    trainer = Trainer(resolve(study, task))
    trainer.warm_up(arm.name)
    bare(task, 1, 1e-3)
    ratios: dict[str, list[float]] = {"training": [], "everything": []}
    for n in range(arguments.rounds):
        gc.collect()
        if n % 2:
            poc = through_poc(trainer, 1e-3)
            own = bare(task, arguments.epochs, 1e-3)
        else:
            own = bare(task, arguments.epochs, 1e-3)
            poc = through_poc(trainer, 1e-3)
        ratios["everything"].append(poc[0] / own[0])
        ratios["training"].append(poc[1] / own[1])
        print(
            f"  training: bare {own[1]:.3f} s, through poc {poc[1]:.3f} s; everything: {own[0]:.3f} s, {poc[0]:.3f} s"
        )
    for what, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        print(f"{arguments.task}, {what}: through poc / bare loop = {middle:.3f} (quartiles {low:.3f}–{high:.3f})")


if __name__ == "__main__":
    import piped

    piped.run(main)
