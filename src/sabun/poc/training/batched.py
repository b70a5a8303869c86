"""Seeds of one arm trained together: one model whose parameters are stacked along a first dimension.

Small models spend their time on calls, not on arithmetic: with ``torch.func`` the calls of one training serve many.
``vmap`` turns the loss of one model into the losses of all, and its gradient into theirs; the graph of that is traced
once for a shape (``make_fx``) and then costs no more dispatch than a model written by hand. Each seed keeps its own
initial weights, its own batches and its own curve.

Special case: a unit of one seed is no batch; it is trained as ever. Products of stacked matrices round differently from
single ones, so a seed ends where it would have ended alone up to rounding, which training then amplifies; that is why
the specification declares it (``budget.batch_seeds``) and every record says how many were trained together. It needs

- a task that says ``batchable = True``: loss and metric are functions of ``model(x)`` and the batch alone, the model
  has no buffers and draws no numbers, the data are tensors;
- an optimizer whose step treats every number by itself: no norm of a tensor, no matrix, no closure.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from sabun.errors import StudyError
from sabun.optim import Optimizer
from sabun.poc.executors.base import Unit
from sabun.poc.pruning import exceeded
from sabun.poc.records import Epoch, RunResult, outcome
from sabun.poc.seeds import seeds_of
from sabun.poc.spec import Run, Study
from sabun.poc.tasks.base import FunctionTask, Scores, Split, Task, Trained, seeded
from sabun.poc.training.single import Stepping, Trainer, finite, now, sha256_of
from sabun.script.protocol import averaged, enter_mode, needs_closure, state_bytes

__all__ = ["Together", "check", "reason_against"]

# Classes of torch.optim whose step treats every number by itself.
_ELEMENTWISE = frozenset(
    {"ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"}
)
_TOLERANCE = 1e-4
"""How far, relative to the largest, a gradient of the first step may be from that of the seed alone (float32 has
rounded at 1e-7 then; a task that is not what it says is off by its whole size)."""


def reason_against(optimizer: torch.optim.Optimizer) -> str | None:
    """Why the seeds of this optimizer are trained one by one; None where they can be trained together."""
    if needs_closure(optimizer):
        return "its step asks for several gradients"
    if isinstance(optimizer, Optimizer):
        for group in optimizer.param_groups:
            if group["preconditioner"].needs_matrix:
                return f"its {group['preconditioner'].name} preconditioner is one of whole matrices"
            if group["step_control"].make() is not None:
                return f"its step control ({group['step_control']}) measures all parameters at once"
            if group["stochastic_rounding"]:
                return "it rounds at random"
        return None
    kind = type(optimizer)
    if kind.__module__.partition(".")[0] == "torch" and kind.__name__ in _ELEMENTWISE:
        return None
    return f"nothing says that {kind.__name__} treats every number by itself"


def check(trainer: Trainer) -> dict[str, str]:
    """Arm → why its seeds are trained one by one, for the arms where they are.

    Raises StudyError for a task whose seeds cannot be trained together, or are not the same then.
    """
    task = _batchable(trainer.task, trainer.study)
    unit = tuple(Run(arm=trainer.study.baseline.name, seed=seed, phase="tune") for seed in range(2))
    stacked = _Stacked(task, trainer.study, unit, {})
    with seeded(0):
        try:
            losses = stacked.backward(0)
            stacked.evaluate_each("validation")
        except Exception as error:
            raise StudyError(
                f"task {trainer.study.task!r} cannot be trained for several seeds at once: "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}.",
                fix="Leave out batch_seeds, or mend the task: its loss and metric may use model(x) and tensors only.",
            ) from error
        for place, run in enumerate(unit):
            session = task.session(seeds_of(trainer.study, run))
            loss = session.loss(0)
            torch.autograd.backward(loss)
            alone = dict(session.model.named_parameters())
            for name, parameter in stacked.model.named_parameters():
                gradient = alone[name].grad
                if gradient is None or parameter.grad is None:
                    continue
                off = float((parameter.grad[place] - gradient).abs().max())
                if not off <= _TOLERANCE * float(gradient.abs().max()) + 1e-12:
                    raise StudyError(
                        f"task {trainer.study.task!r}: trained together, seed {run.seed} has another gradient "
                        f"than alone (loss {float(losses[place]):.6g}, alone {float(loss.detach()):.6g}).",
                        fix="Leave out batch_seeds: the loss is no function of the model and its batch alone.",
                    )
    reasons = {arm.name: reason_against(trainer.optimizer(arm.name, stacked.models[0])) for arm in trainer.study.arms}
    return {arm: reason for arm, reason in reasons.items() if reason is not None}


def _batchable(task: Task, study: Study) -> FunctionTask:
    if not isinstance(task, FunctionTask) or not getattr(task.source, "batchable", False):
        raise StudyError(
            f"task {study.task!r} does not say that its seeds may be trained together.",
            fix="Leave out batch_seeds; or set batchable = True on the task, if its loss and metric are functions of "
            "model(x) and the batch alone.",
        )
    if not task.holds_tensors:
        raise StudyError(
            f"task {study.task!r}: seeds can be trained together on tensors only, and its data are datasets.",
            fix="Leave out batch_seeds, or give the data as tensors.",
        )
    return task


class Together(Stepping):
    """One training of all the seeds of a unit."""

    def __init__(self, trainer: Trainer, unit: Unit, epochs: int) -> None:
        self.unit = unit
        self.stacked = _Stacked(_batchable(trainer.task, trainer.study), trainer.study, unit, trainer.graphs)
        super().__init__(trainer, unit[0], epochs, self.stacked)

    def backward(self, number: int) -> Tensor:
        return self.stacked.backward(number)

    def carry_out(self) -> Iterator[tuple[Run, Epoch | RunResult]]:
        """Epoch by epoch for every seed, and the results last. A seed that diverges ends there; the others go on."""
        started = now()
        places = range(len(self.unit))
        curves: list[list[Epoch]] = [[] for _ in places]
        ended: dict[int, RunResult] = {}
        with seeded(0):
            for epoch in range(self.epochs + 1):
                done = self._epochs(epoch)
                for place in places:
                    if place in ended:
                        continue
                    curves[place].append(done[place])
                    yield self.unit[place], done[place]
                    if not finite(done[place]) or exceeded(self.unit[place].ceilings, curves[place]):
                        ended[place] = self._outcome(place, curves[place], started)
                if len(ended) == len(self.unit):
                    break
            for place in places:
                if place not in ended:
                    ended[place] = self._outcome(place, curves[place], started)
                yield self.unit[place], ended[place]

    def _epochs(self, epoch: int) -> list[Epoch]:
        """One epoch of each seed; its seconds are its share of what the epoch took."""
        self.enter_training()
        losses, train_s, optimizer_s = self.spend(epoch * self.per_epoch)
        count = len(self.unit)
        train = torch.stack(losses).mean(dim=0).tolist() if losses else [None] * count
        begin = time.perf_counter()
        scores = self._scores_of_each("validation")
        eval_s = time.perf_counter() - begin
        return [
            Epoch(
                epoch, train[place], scores[place].loss, scores[place].metric, train_s / count if epoch else 0.0,
                eval_s / count, optimizer_s / count, self.evaluations, self.lr(),
            )
            for place in range(count)
        ]  # fmt: skip

    def _scores_of_each(self, split: Split) -> list[Scores]:
        enter_mode(self.optimizer, "eval")
        with averaged(self.optimizer):
            return self.stacked.evaluate_each(split)

    def _outcome(self, place: int, curve: list[Epoch], started: str) -> RunResult:
        run = self.unit[place]
        test = self._scores_of_each("test")[place] if run.phase == "evaluate" else None
        return RunResult(
            run=run.id,
            arm=run.arm,
            seed=run.seed,
            phase=run.phase,
            hyperparameters=run.hyperparameters,
            status=outcome(curve, pruned=exceeded(run.ceilings, curve)),
            epochs=tuple(curve),
            test_loss=test.loss if test else None,
            test_metric=test.metric if test else None,
            optimizer_state_bytes=state_bytes(self.optimizer) // len(self.unit),
            weights_sha256=sha256_of((name, p[place]) for name, p in self.stacked.model.named_parameters()),
            started=started,
            ended=now(),
            together=len(self.unit),
        )


class _Stack(nn.Module):
    """Stands for the models of all seeds: their names, with parameters that have a first dimension more."""

    def __init__(self, skeleton: nn.Module, stacked: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._held = (skeleton, stacked)  # in a tuple, so that torch takes neither for a submodule

    def named_parameters(self, *_: object, **__: object) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self._held[1].items()

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        yield from self._held[1].values()

    def train(self, mode: bool = True) -> _Stack:
        self._held[0].train(mode)
        return self


class _Stacked(Trained):
    """The sessions of all seeds as one: their batches side by side, their losses as a vector."""

    def __init__(self, task: FunctionTask, study: Study, unit: Unit, graphs: dict[object, Callable[..., Any]]) -> None:
        self.task = task
        sessions = [task.session(seeds_of(study, run)) for run in unit]
        self.steps_per_epoch = sessions[0].steps_per_epoch
        self.models = [session.model for session in sessions]
        skeleton = self.models[0]
        if any(True for _ in skeleton.buffers()):
            raise StudyError(
                f"task {study.task!r}: its model has buffers (running statistics?), which seeds cannot share.",
                fix="Leave out batch_seeds.",
            )
        held, _ = stack_module_state(self.models)
        self.stacked = {
            name: nn.Parameter(value.detach(), requires_grad=parameter.requires_grad)
            for (name, value), parameter in zip(held.items(), skeleton.parameters(), strict=True)
        }
        self.trained = [name for name, value in self.stacked.items() if value.requires_grad]
        self.model = _Stack(skeleton, self.stacked)
        self._skeleton = skeleton
        self._sessions = sessions
        self._graphs = graphs
        self._epoch = -1
        self._orders = torch.empty(0)

    def backward(self, step: int) -> Tensor:
        """The losses of all seeds on their mini-batches number ``step``; gradients go to the stacked parameters."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._orders = torch.stack([session.order(epoch) for session in self._sessions])
            self._epoch = epoch
        size = self.task.batch_size
        batch = self.task.splits["train"].batch(self._orders[:, position * size : (position + 1) * size])
        trained = {name: self.stacked[name] for name in self.trained}
        fixed = {name: value for name, value in self.stacked.items() if name not in trained}
        with torch.no_grad():
            gradients, losses = self._graph(trained, fixed, batch)(trained, fixed, batch)
        for name, gradient in gradients.items():
            self.stacked[name].grad = gradient
        return losses  # type: ignore[no-any-return]

    def _graph(self, trained: Any, fixed: Any, batch: Sequence[Tensor]) -> Callable[..., Any]:
        """The gradients and losses of all seeds as one graph of plain operations, traced once for their shapes."""
        key = tuple((part.shape, part.dtype) for part in (*trained.values(), *fixed.values(), *batch))
        if key not in self._graphs:
            source, skeleton = self.task.source, self._skeleton

            def one(trained: Any, fixed: Any, batch: Any) -> Tensor:
                return source.loss(_Model(skeleton, {**trained, **fixed}), batch)  # type: ignore[no-any-return]

            self._graphs[key] = _lean(make_fx(vmap(grad_and_value(one)))(trained, fixed, batch))
        return self._graphs[key]

    def evaluate_each(self, split: Split) -> list[Scores]:
        """Loss and metric of every seed over a whole split."""
        data, size, skeleton = self.task.splits[split], self.task.evaluation_batch_size, self._skeleton

        def score(held: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, ...]:
            model = _Model(skeleton, held)
            functions = (source.loss, source.metric) if self.task.has_metric else (source.loss,)
            return tuple(torch.as_tensor(function(model, batch)) for function in functions)

        source = self.task.source
        loss, metric = torch.zeros(len(self.models)), torch.zeros(len(self.models))
        was_training = skeleton.training
        skeleton.eval()
        with torch.no_grad():
            for start in range(0, len(data), size):
                indices = torch.arange(start, min(start + size, len(data)), device=self.task.device)
                batch, share = data.batch(indices), len(indices) / len(data)
                found, *more = vmap(score, in_dims=(0, None))(self.stacked, batch)
                loss += share * found.cpu()
                for values in more:
                    metric += share * values.cpu()
        skeleton.train(was_training)
        metrics = metric.tolist() if self.task.has_metric else [None] * len(self.models)
        return [Scores(*pair) for pair in zip(loss.tolist(), metrics, strict=True)]


class _Model:
    """What a task's loss is given for a model: called, it is the skeleton with one seed's parameters.

    Loss and metric ask for the same outputs one after the other; the second gets those of the first.
    """

    def __init__(self, skeleton: nn.Module, held: Mapping[str, Tensor]) -> None:
        self._skeleton = skeleton
        self._held = held
        self.training = skeleton.training
        self._last: tuple[tuple[Any, ...], Any] = ((), None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        asked, output = self._last
        if options or not arguments or len(asked) != len(arguments) or any(map(operator.is_not, asked, arguments)):
            output = functional_call(self._skeleton, dict(self._held), arguments, options)
            self._last = (arguments, output)
        return output


_SAME_SHAPE = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.expand.default}


def _lean(traced: GraphModule) -> GraphModule:
    """The same graph without its calls that change nothing: views and expansions to the shape that is there."""
    for node in traced.graph.nodes:
        source = node.args[0] if node.args else None
        if node.target in _SAME_SHAPE and _shape(node) is not None and _shape(node) == _shape(source):
            node.replace_all_uses_with(source)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _shape(node: Any) -> Any:
    value = getattr(node, "meta", {}).get("val")
    return value.shape if isinstance(value, Tensor) else None
