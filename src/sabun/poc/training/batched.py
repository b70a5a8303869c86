"""Batched seeds: several seeds of one arm trained as one model, with parameters stacked along a first dimension.

Small models spend their time on calls, not on arithmetic. With ``torch.func`` the calls of one training serve all
seeds: ``vmap`` maps the loss of one model and its gradient over the seeds, and the resulting graph is traced once per
shape (``make_fx``), after which it has no more dispatch overhead than a model written by hand. Each seed keeps its own
initial weights, mini-batches and learning curve.

Products of stacked matrices round differently from single ones, so a seed agrees with its single run only up to
rounding, which training then amplifies. The specification therefore declares it (``budget.batch_seeds``), and every
record holds the number of batched seeds. Requirements:

- a task with ``batchable = True``: loss and metric are functions of ``model(x)`` and the batch alone, the model has no
  buffers and draws no random numbers, and the data are tensors;
- an elementwise optimizer: no norm of a tensor, no matrix operation, no closure, nothing that depends on shapes.
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
from sabun.optim import torch_internals as internals
from sabun.poc.pruning import exceeded
from sabun.poc.records import Epoch, RunResult, outcome
from sabun.poc.resolved import ResolvedStudy
from sabun.poc.seeds import seeds_of
from sabun.poc.spec import Run, Study
from sabun.poc.tasks.function_task import FunctionTask
from sabun.poc.tasks.task import Scores, Split, Task, Trained, seeded
from sabun.poc.training.loop import TrainingLoop, finite
from sabun.script.protocol import averaged, enter_mode, needs_closure

__all__ = ["BatchedTraining", "check", "reason_against"]

# Classes of torch.optim with an elementwise step.
_ELEMENTWISE = frozenset(
    {"ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"}
)
_TOLERANCE = 1e-4
"""Allowed difference between the first gradients of batched and single training, relative to the largest entry. float32
rounds at 1e-7; a task that is not batchable is off by the size of the gradient."""


def reason_against(optimizer: torch.optim.Optimizer) -> str | None:
    """Return why the seeds of this optimizer cannot be batched; None if they can."""
    if needs_closure(optimizer):
        return "its step evaluates several gradients"
    if isinstance(optimizer, Optimizer):
        for group in optimizer.param_groups:
            if group["preconditioner"].needs_matrix:
                return f"its preconditioner ({group['preconditioner'].name}) uses whole matrices"
            if group["step_control"].make() is not None:
                return f"its step control ({group['step_control']}) uses all parameters at once"
            if group["stochastic_rounding"]:
                return "it uses stochastic rounding"
            if group["state_dtype"] in ("bfloat16", "8bit"):
                return "its state is rounded at random"
            if group["step_limit"] is not None:  # of a stack they are others
                return "its step limit depends on the shapes of parameters"
            if group["rest"] is not None:
                return "its hidden matrices are found by the shapes of parameters"
        return None
    kind = type(optimizer)
    if kind.__module__.partition(".")[0] == "torch" and kind.__name__ in _ELEMENTWISE:
        return None
    return f"{kind.__name__} is not known to be elementwise"


def check(resolved: ResolvedStudy) -> dict[str, str]:
    """Return, for each arm whose seeds cannot be batched, the reason.

    Raises StudyError for a task whose seeds cannot be batched, or whose gradients differ in a batch.
    """
    study = resolved.study
    task = _batchable(resolved.task, study)
    unit = tuple(Run(arm=study.baseline.name, seed=seed, phase="tune") for seed in range(2))
    stacked = _StackedSessions(task, study, unit, {})
    with seeded(0):
        try:
            losses = stacked.backward(0)
            stacked.evaluate_each("validation")
        except Exception as error:
            raise StudyError(
                f"task {study.task!r}: training batched seeds fails with "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}.",
                fix="Leave out batch_seeds, or let loss and metric use nothing but model(x) and tensors.",
            ) from error
        for place, run in enumerate(unit):
            session = task.session(seeds_of(study, run))
            loss = session.loss(0)
            torch.autograd.backward(loss)
            single = dict(session.model.named_parameters())
            for name, parameter in stacked.model.named_parameters():
                gradient = single[name].grad
                if gradient is None or parameter.grad is None:
                    continue
                difference = float((parameter.grad[place] - gradient).abs().max())
                if not difference <= _TOLERANCE * float(gradient.abs().max()) + 1e-12:
                    raise StudyError(
                        f"task {study.task!r}: the gradient of seed {run.seed} in a batch differs from its gradient "
                        f"alone (loss {float(losses[place]):.6g}, alone {float(loss.detach()):.6g}).",
                        fix="Leave out batch_seeds: the loss is not a function of the model and its batch alone.",
                    )
    reasons = {name: reason_against(resolved.optimizer(name, stacked.models[0])) for name in resolved.arms}
    return {arm: reason for arm, reason in reasons.items() if reason is not None}


def _batchable(task: object, study: Study) -> FunctionTask:
    if not isinstance(task, FunctionTask) or not getattr(task.source, "batchable", False):
        raise StudyError(
            f"task {study.task!r} does not declare that its seeds can be batched.",
            fix="Leave out batch_seeds; or set batchable = True on the task, if its loss and metric are functions of "
            "model(x) and the batch alone.",
        )
    if not task.holds_tensors:
        raise StudyError(
            f"task {study.task!r}: batched seeds need tensors, and its data are datasets.",
            fix="Leave out batch_seeds, or return the data as tensors.",
        )
    return task


class BatchedTraining(TrainingLoop):
    """The training of all seeds of ``unit`` as one model. ``graphs`` keeps traced graphs for later units."""

    def __init__(
        self,
        resolved: ResolvedStudy,
        task: Task,
        unit: tuple[Run, ...],
        epochs: int,
        graphs: dict[object, Callable[..., Any]],
    ) -> None:
        self.unit = unit
        self.stacked = _StackedSessions(_batchable(task, resolved.study), resolved.study, unit, graphs)
        super().__init__(resolved, unit[0], epochs, self.stacked, seeds=len(unit))

    def backward(self, number: int) -> Tensor:
        """Return the losses of all seeds on mini-batch ``number`` and set the gradients of the parameters."""
        return self.stacked.backward(number)

    def train(self) -> Iterator[tuple[Run, Epoch | RunResult]]:
        """Yield every seed's epochs as they end, and the results last. A diverged seed ends; the others continue."""
        curves: list[list[Epoch]] = [[] for _ in self.unit]
        ended: dict[int, RunResult] = {}
        with seeded(0):
            for epoch in range(self.epochs + 1):
                for place, (run, done) in enumerate(zip(self.unit, self._epochs(epoch), strict=True)):
                    if place in ended:
                        continue
                    curves[place].append(done)
                    yield run, done
                    if not finite(done) or exceeded(run.ceilings, curves[place]):
                        ended[place] = self._result(place, curves[place])
                if len(ended) == len(self.unit):
                    break
            for place, run in enumerate(self.unit):
                yield run, ended[place] if place in ended else self._result(place, curves[place])

    def _epochs(self, epoch: int) -> list[Epoch]:
        """One epoch of each seed. Its seconds are its share of the whole."""
        losses, train_s, optimizer_s, _ = self.train_epoch(epoch)  # every seed is timed again, alone
        train = torch.stack(losses).mean(dim=0).tolist() if losses else [None] * self.seeds
        begin = time.perf_counter()
        scores = self._scores_of_each("validation")
        eval_s = time.perf_counter() - begin
        return [
            Epoch(
                epoch=epoch,
                train_loss=train_loss,
                val_loss=score.loss,
                val_metric=score.metric,
                train_s=train_s / self.seeds,
                eval_s=eval_s / self.seeds,
                optimizer_s=optimizer_s / self.seeds,
                gradient_evaluations=self.evaluations,
                lr=self.lr(),
            )
            for train_loss, score in zip(train, scores, strict=True)
        ]

    def _scores_of_each(self, split: Split) -> list[Scores]:
        enter_mode(self.optimizer, "eval")
        with averaged(self.optimizer):
            return self.stacked.evaluate_each(split)

    def _result(self, place: int, curve: list[Epoch]) -> RunResult:
        run = self.unit[place]
        test = self._scores_of_each("test")[place] if run.phase == "evaluate" else None
        status = outcome(curve, pruned=exceeded(run.ceilings, curve))
        weights = ((name, p[place]) for name, p in self.stacked.model.named_parameters())
        return self.result(run, status, curve, weights, test=test)


class _StackedModel(nn.Module):
    """The parameters of all seeds under the names of one model, with an additional first dimension."""

    def __init__(self, skeleton: nn.Module, stacked: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._parts = (skeleton, stacked)  # in a tuple, so that torch registers neither as a submodule

    def named_parameters(self, *_: object, **__: object) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self._parts[1].items()

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        yield from self._parts[1].values()

    def train(self, mode: bool = True) -> _StackedModel:
        self._parts[0].train(mode)
        return self


class _StackedSessions(Trained):
    """The sessions of all seeds as one session: stacked batches, and a vector of losses."""

    def __init__(
        self, task: FunctionTask, study: Study, unit: tuple[Run, ...], graphs: dict[object, Callable[..., Any]]
    ) -> None:
        self.task = task
        sessions = [task.session(seeds_of(study, run)) for run in unit]
        self.steps_per_epoch = sessions[0].steps_per_epoch
        self.models = [session.model for session in sessions]
        skeleton = self.models[0]
        if any(True for _ in skeleton.buffers()):
            raise StudyError(
                f"task {study.task!r}: its model has buffers (running statistics?), which batched seeds cannot share.",
                fix="Leave out batch_seeds.",
            )
        stacked, _ = stack_module_state(self.models)
        self.stacked = {
            name: nn.Parameter(value.detach(), requires_grad=parameter.requires_grad)
            for (name, value), parameter in zip(stacked.items(), skeleton.parameters(), strict=True)
        }
        self.trained = [name for name, value in self.stacked.items() if value.requires_grad]
        self.model = _StackedModel(skeleton, self.stacked)
        self._skeleton = skeleton
        self._sessions = sessions
        self._graphs = graphs
        self._epoch = -1
        self._orders = torch.empty(0)

    def backward(self, step: int) -> Tensor:
        """Return the losses of all seeds on mini-batch ``step`` and set the gradients of the stacked parameters."""
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
        """Return the graph that computes the gradients and losses of all seeds, traced once per shape."""
        key = tuple((part.shape, part.dtype) for part in (*trained.values(), *fixed.values(), *batch))
        if key not in self._graphs:
            source, skeleton = self.task.source, self._skeleton

            def one(trained: Any, fixed: Any, batch: Any) -> Tensor:
                return source.loss(_SeedModel(skeleton, {**trained, **fixed}), batch)  # type: ignore[no-any-return]

            self._graphs[key] = _simplified(make_fx(vmap(grad_and_value(one)))(trained, fixed, batch))
        return self._graphs[key]

    def evaluate_each(self, split: Split) -> list[Scores]:
        """Return loss and metric of every seed over a whole split."""
        data, size, skeleton = self.task.splits[split], self.task.evaluation_batch_size, self._skeleton

        def score(parameters: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, ...]:
            model = _SeedModel(skeleton, parameters)
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


class _SeedModel:
    """The callable passed to a task's loss as its model: the skeleton with the parameters of one seed.

    Loss and metric call it with the same input one after the other, so the last output is cached.
    """

    def __init__(self, skeleton: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self._skeleton = skeleton
        self._parameters = parameters
        self.training = skeleton.training
        self._last: tuple[tuple[Any, ...], Any] = ((), None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        asked, output = self._last
        if options or not arguments or len(asked) != len(arguments) or any(map(operator.is_not, asked, arguments)):
            output = functional_call(self._skeleton, dict(self._parameters), arguments, options)
            self._last = (arguments, output)
        return output


_SAME_SHAPE = {torch.ops.aten.view.default, internals.unsafe_view(), torch.ops.aten.expand.default}


def _simplified(traced: GraphModule) -> GraphModule:
    """Remove views and expansions to the shape that a tensor already has."""
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
