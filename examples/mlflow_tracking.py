"""A study that MLflow watches: every training run of every arm is a run there, epoch by epoch, while it goes on.

Run with ``python examples/mlflow_tracking.py`` (needs ``pip install 'sabun[poc,mlflow]'``). The same on the command
line: ``sabun poc run --track mlflow --track-to sqlite:///mlflow.db``.
"""

import tempfile
from pathlib import Path
from statistics import mean

import mlflow

from sabun.integrations.trackers import track
from sabun.poc.study import default_study, run

folder = Path(tempfile.mkdtemp())
address = f"sqlite:///{folder / 'mlflow.db'}"  # or that of your tracking server
study = default_study(  # a sketch: a verdict wants the default budget
    task="digits", baseline="torch.optim:SGD(momentum=0.9)", candidates=["euler", "nesterov@adam"],
    epochs=3, trials=2, tuning_seeds=1, seeds=2,
)  # fmt: skip
run(study, folder / "study", on_event=track("mlflow", folder / "study", to=address))

client = mlflow.MlflowClient(tracking_uri=address)
experiment = client.get_experiment_by_name(study.name)
paired = client.search_runs([experiment.experiment_id], "tags.`sabun.phase` = 'evaluate'")
for arm in study.arms:
    losses = [found.data.metrics["test_loss"] for found in paired if found.data.tags["sabun.arm"] == arm.name]
    print(f"{arm.name}: mean test loss {mean(losses):.3f} over {len(losses)} runs in MLflow")
print(f"look at them: mlflow ui --backend-store-uri {address}")
