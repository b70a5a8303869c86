"""A study that TensorBoard watches: one curve for each training run of each arm, epoch by epoch, while it goes on.

Run with ``python examples/tensorboard_logging.py`` (needs ``pip install 'sabun[poc,tensorboard]'``). The same on the
command line: ``sabun poc run --track tensorboard``.
"""

import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from sabun.integrations.trackers import track
from sabun.poc.study import default_study, run

folder = Path(tempfile.mkdtemp())
study = default_study(  # a sketch: a verdict wants the default budget
    task="digits", baseline="torch.optim:SGD(momentum=0.9)", candidates=["euler", "nesterov@adam"],
    epochs=3, trials=2, tuning_seeds=1, seeds=2,
)  # fmt: skip
run(study, folder / "study", on_event=track("tensorboard", folder / "study", to=str(folder / "board")))

for place in sorted((folder / "board").glob("*/evaluate-*")):  # ARM/PHASE-SEED-ID
    events = EventAccumulator(str(place))
    events.Reload()
    losses = [float(make_ndarray(event.tensor_proto)) for event in events.Tensors("val_loss")]
    print(f"{place.relative_to(folder / 'board')}: validation loss", *(f"{loss:.3f}" for loss in losses))
print(f"look at them: tensorboard --logdir {folder / 'board'}")
