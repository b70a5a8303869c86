"""Hugging Face's Trainer, Lightning, Accelerate and Optuna with the real packages: as scripts of a study, and adopted.

Each framework is imported once, by a server whose forks run its scripts. Oracles: a loop written out, another run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import sabun
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Run
from sabun.poc.study import default_study
from sabun.poc.training.script import ScriptTrainer

from ..warm import Warm

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with Warm("transformers", "transformers.trainer", "lightning.pytorch", "accelerate", "optuna") as warm:
        yield warm.command


def run_script(command: str, *arguments: str) -> str:
    done = subprocess.run([*command.split(), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def added_lines(script: Path) -> list[str]:
    lines = script.read_text(encoding="utf-8").split('"""\n', 2)[-1].splitlines()
    named = [line.strip() for line in lines if "sabun" in line or "attach" in line]
    compile("\n".join(line for line in lines if line.strip() not in named), script.name, "exec")
    return named


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("trainer.py", ["from sabun.integrations.transformers import attach", "attach(trainer)"]),
        ("trainer_with_scheduler.py", ["import sabun.integrations.transformers", "optimizer = sabun.swap(optimizer)",
                                       "sabun.integrations.transformers.attach(trainer)"]),
        ("lightning_module.py", ["from sabun.integrations.lightning import attach", "attach(trainer)"]),
    ],
)  # fmt: skip
def test_a_frameworks_script_is_a_study_with_two_lines(
    script: str, lines: list[str], python: str, tmp_path: Path
) -> None:
    """Without an import that is needed anyway, two lines at most; outside of a study they do nothing."""
    path = EXAMPLES / "scripts" / script
    assert added_lines(path) == lines
    arms = ["nesterov@adam", "schedulefree:AdamWScheduleFree"]
    study = default_study(
        task=f"script:{python} {path}", baseline="script", candidates=arms, task_options={"time_limit": 90}
    )
    for arm, values in (("script", {}), ("nesterov@adam", {"lr": 0.003}), (arms[1], {"lr": 0.01})):
        *epochs, last = ScriptTrainer(resolve(study), tmp_path).run(
            Run(arm=arm, seed=0, phase="evaluate", hyperparameters=values)
        )
        assert isinstance(last, RunResult)
        assert last.status == "finished", last.failure
        assert len(epochs) == 3  # no evaluation before training or after it is taken for an epoch
        assert [e.epoch for e in last.epochs] == [1, 2, 3]
        assert [e.gradient_evaluations for e in last.epochs] == [8, 16, 24]
        assert last.epochs[-1].val_loss < last.epochs[0].val_loss
        assert last.epochs[-1].train_loss is not None
    printed = {}
    for seed in (0, 1):
        still = Run(arm="nesterov@adam", seed=seed, phase="evaluate", hyperparameters={"lr": 1e-30})
        *_, printed[seed] = ScriptTrainer(resolve(study), tmp_path).run(still)
    assert printed[0].epochs[0].val_loss != printed[1].epochs[0].val_loss  # the seed is heeded


@pytest.mark.parametrize(
    ("script", "words"),
    [("transformers_trainer.py", r"Optimizer: training loss (\S+) to (\S+)"),
     ("lightning_fit.py", r"loss at the average: \S+ after (40) guarded steps"),
     ("accelerate_loop.py", r"loss at the average: (0\.\d+)"), ("optuna_search.py", r"best loss (0\.0\d+) with")],
)  # fmt: skip
def test_the_examples_run(script: str, words: str, python: str) -> None:
    found = re.search(words, run_script(python, str(EXAMPLES / script)))
    assert found
    if script.startswith("transformers"):
        assert float(found[2]) < 0.5 * float(found[1])


RANK = """
import gc, runpy, sys
from pathlib import Path
from torch.distributed.tensor import debug
runpy.run_path(sys.argv[1], run_name="__main__")
if clear := getattr(debug, "_clear_sharding_prop_cache", None):  # torch 2.8 has none
    clear()
    gc.collect()
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert not [name for name in threads if "gloo" in name], threads
"""


def test_under_torchrun_ddp_and_fsdp_take_the_steps_of_one_process(tmp_path: Path) -> None:
    """DTensor's cache keeps the destroyed process group, and with it threads of Gloo. One that still has a tensor when
    the interpreter ends aborts it (pytorch#179291): the cache is cleared, so that no such thread is left.
    """
    (tmp_path / "rank.py").write_text(RANK, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "rank.py"), str(EXAMPLES / "torchrun_ddp_fsdp.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(value) for value in re.findall(r"on 2 ranks: loss (\S+)", done.stdout)]
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    y = x.sum(1, keepdim=True).sin()
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = sabun.create("nadamw", model, lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    alone = float(nn.functional.mse_loss(model(x), y).detach())
    assert losses == pytest.approx([alone, alone], rel=1e-4)


TRAINER = """
import sys, tempfile, torch, sabun
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from sabun.integrations.transformers import optimizer
where = tempfile.mkdtemp()
rows = [{"input_ids": row, "labels": row} for row in (torch.arange(8) * 3 + torch.arange(32)[:, None]) % 17]
def trainer():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    arguments = TrainingArguments(output_dir=where, num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True,
                                  save_strategy="epoch", report_to="none", disable_tqdm=True)
    return Trainer(model, arguments, train_dataset=rows,
                   optimizer_cls_and_kwargs=optimizer("muon", lr=0.01, weight_decay=0.1))
whole = trainer()
whole.train()
half = trainer()
half.train(resume_from_checkpoint=where + "/checkpoint-4")
pairs = list(zip(whole.model.named_parameters(), half.model.named_parameters()))
print("same", all(torch.equal(a, b) for (_, a), (_, b) in pairs))
groups = whole.optimizer.optimizer.param_groups
print("decays", sorted({(p.ndim > 1, g["weight_decay"]) for g in groups for p in g["params"]}))
print("groups", len(groups))
print("hidden", sorted(n for g in groups for n, part in zip(g["param_names"], g["parts"]) if part != "rest"))
"""


def test_a_trainer_resumes_exactly_and_its_optimizer_knows_the_model(python: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAINER, encoding="utf-8")
    said = run_script(python, str(tmp_path / "train.py"))
    assert "same True" in said
    assert "decays [(False, 0.0), (True, 0.1)]" in said
    assert "groups 2" in said
    assert "wte" not in said.rpartition("hidden")[2]  # embeddings are no hidden matrices
    assert "attn.c_attn.weight" in said.rpartition("hidden")[2]


LIGHTNING = """
import lightning.pytorch as pl, torch, sabun
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from sabun.integrations.lightning import AveragedEvaluation, Guarding
x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
data = TensorDataset(x, x.sum(1, keepdim=True))
def make(model):
    return sabun.Optimizer(model.parameters(), lr=0.05, scheme="nesterov", averaging="ema(decay=0.5)")
class Module(pl.LightningModule):
    def __init__(self, bad=None):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.bad, self.seen = nn.Linear(3, 1), bad, []
    def training_step(self, batch, index):
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        return loss * float("nan") if self.bad and self.bad <= self.global_step < self.bad + 4 else loss
    def validation_step(self, batch, _):
        self.seen.append(float(nn.functional.mse_loss(self.net(batch[0]), batch[1])))
    def configure_optimizers(self):
        return make(self.net)
def fit(module, *callbacks, **options):
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                         callbacks=list(callbacks), **options)
    trainer.fit(module, DataLoader(data, 16), DataLoader(data, 64))
    return trainer
module = Module()
fit(module, AveragedEvaluation())
net = Module().net
optimizer, expected = make(net), []
for _ in range(3):
    for rows in torch.arange(64).split(16):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x[rows]), data.tensors[1][rows]).backward()
        optimizer.step()
    with optimizer.averaged(), torch.no_grad():
        expected.append(float(nn.functional.mse_loss(net(x), data.tensors[1])))
        handed = net.weight.clone()
print("averages", module.seen == expected, torch.equal(module.net.weight, handed))
plain, guarded = Module(), Module()
fit(plain, gradient_clip_val=0.1)
trainer = fit(guarded, Guarding(), gradient_clip_val=0.1)
print("guarded", torch.equal(plain.net.weight, guarded.net.weight), trainer.global_step)
class Noisy(Module):
    def training_step(self, batch, index):
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        return loss * float("nan") if self.trainer.fit_loop.total_batch_idx == self.bad else loss
for bad in (None, 9):
    noisy, guarding = Noisy(bad), Guarding(every=4)
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                         callbacks=[guarding], accumulate_grad_batches=4)
    trainer.fit(noisy, DataLoader(data, 1, shuffle=True))
    print("accumulated", bad, guarding.guard.steps, [event for event, _ in guarding.guard.events])
sick = Module(bad=4)
guarding = Guarding(champion=lambda params: torch.optim.SGD(params, lr=0.01), every=4, max_rollbacks=1)
try:
    trainer = fit(sick, guarding)
except Exception as error:
    print("gave up", type(error).__name__)
print("finite", bool(torch.isfinite(sick.net.weight).all()), guarding.guard.fallen_back, len(guarding.guard.events) > 0)
"""


def test_lightning_validates_at_the_average_and_is_guarded(python: str, tmp_path: Path) -> None:
    (tmp_path / "fit.py").write_text(LIGHTNING, encoding="utf-8")
    said = run_script(python, str(tmp_path / "fit.py"))
    assert "averages True True" in said  # as a loop written out
    assert "guarded True 12" in said  # a guard without trouble changes nothing
    assert "accumulated None 80 ['guard.started']" in said  # batches of one, 4 to a step
    assert "accumulated 9 80 ['guard.started', 'guard.skipped']" in said  # in the second batch of the third step
    assert "finite True True True" in said  # four losses in succession are NaN
