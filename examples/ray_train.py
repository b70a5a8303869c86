"""Ray Train with a sabun optimizer: two DDP workers that crash on the way, and go on with the optimizer's state.

Run with ``python examples/ray_train.py`` (needs ``pip install 'sabun[ray-train]'``); Ray takes most of the time.
"""

import tempfile
from pathlib import Path

import ray.train
import torch
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

import sabun

EPOCHS, CRASH = 8, 4


def train() -> None:
    """What each worker runs. After a failure Ray starts it again; it goes on from the checkpoint that Ray kept."""
    rank, ranks = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    y = x.sum(1, keepdim=True).sin()
    model = prepare_model(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)))  # DistributedDataParallel
    optimizer = sabun.create("nadamw", model, lr=0.01)  # after the model is wrapped, as under torchrun
    first, checkpoint = 0, ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])  # history and step count too: without them it is another path
        first = state["epoch"] + 1
    for epoch in range(first, EPOCHS):
        for rows in torch.arange(128).split(32):
            mine = rows[rank::ranks]  # each worker its share of the batch
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[mine]), y[mine]).backward()
            optimizer.step()
        if epoch == CRASH and checkpoint is None:
            raise RuntimeError("a machine that fails")
        with torch.no_grad():
            loss = float(nn.functional.mse_loss(model(x), y))
        with tempfile.TemporaryDirectory() as folder:
            kept = None
            if rank == 0:  # the replicas are equal
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
                torch.save(state, Path(folder) / "state.pt")
                kept = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"epoch": epoch, "since": epoch + 1 - first, "loss": loss}, checkpoint=kept)


if __name__ == "__main__":
    ray.init(
        "local", num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False
    )  # what a small machine has; on a cluster: ray.init()
    trainer = TorchTrainer(
        train,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            storage_path=tempfile.mkdtemp(),  # on a cluster: storage that all machines share
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=1),
        ),
    )
    metrics = trainer.fit().metrics
    print(
        f"loss {metrics['loss']:.6f} after {metrics['epoch'] + 1} epochs, the last {metrics['since']} since the crash"
    )
    ray.shutdown()
