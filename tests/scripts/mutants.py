"""Ways to break a training script, as transformations of its source. Each stands for a mistake that people make.

A mutation returns the broken source, or None where it does not apply. ``outside`` is a directory that the script may
write to though it should not. Mutations work on the syntax tree, except where a pattern of the text is enough.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

Mutation = Callable[[str, Path], str | None]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Enter a mutation under its name."""
    MUTATIONS[function.__name__.replace("_", "-")] = function
    return function


def mutants(source: str, outside: Path) -> Iterator[tuple[str, str]]:
    """Yield the mutations that apply, with the broken source."""
    for name, function in MUTATIONS.items():
        broken = function(source, outside)
        if broken is not None and broken != source:
            yield name, broken


# Where things are in a script


def _tree(source: str) -> ast.Module:
    return ast.parse(source)


def _swap(source: str) -> tuple[str, str, str, str] | None:
    """The line of the swap, its indentation, the variable that it assigns, and what is swapped."""
    found = re.search(r"^( *)([\w.]+) = sabun\.swap\((.+)\)$", source, re.M)
    return (found.group(0), found.group(1), found.group(2), found.group(3)) if found else None


def _constructor(source: str) -> str | None:
    """The expression that makes the optimizer which is swapped, on one line."""
    swap = _swap(source)
    if swap is None:
        return None
    if "torch.optim" in swap[3]:
        return swap[3]
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == swap[3]:
            text = ast.unparse(node.value)
            if text.startswith("torch.optim."):
                return text
    return None


def _model(source: str) -> tuple[str, str] | None:
    """The variable of the model whose parameters the optimizer has, and the expression that makes it."""
    constructor = _constructor(source)
    found = re.search(r"(\w+)\.(?:named_)?parameters\(\)", constructor or "")
    if found is None:
        return None
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == found.group(1):
            return found.group(1), ast.unparse(node.value)
    return None


def _after_swap(source: str, *lines: str) -> str | None:
    swap = _swap(source)
    if swap is None:
        return None
    return source.replace(swap[0], "\n".join([swap[0], *(swap[1] + line for line in lines)]), 1)


def _before_steps(source: str, *lines: str) -> str | None:
    """Insert lines before every step of the swapped optimizer."""
    swap = _swap(source)
    if swap is None:
        return None
    name = swap[2]
    pattern = rf"^( *)((?:loss = )?(?:self\.)?{re.escape(name)}\.step\(.*\)|scaler\.step\({re.escape(name)}\))$"

    def widen(found: re.Match[str]) -> str:
        own = "self." + name if "self." in found.group(2) else name
        return "\n".join(found.group(1) + line.replace("OPTIMIZER", own) for line in lines) + "\n" + found.group(0)

    broken = re.sub(pattern, widen, source, flags=re.M)
    return broken if broken != source else None


def _steps(source: str, replacement: str) -> str | None:
    """Replace the steps of the swapped optimizer."""
    swap = _swap(source)
    if swap is None:
        return None
    pattern = rf"^( *)((?:self\.)?{re.escape(swap[2])}|scaler)\.step\((.*)\)$"
    if re.search(rf"= {re.escape(swap[2])}\.step\(", source):
        return None
    return re.sub(
        pattern, lambda m: m.group(1) + replacement.replace("STEP", m.group(0).strip()), source, count=0, flags=re.M
    )


def _log(source: str, change: Callable[[str], str]) -> str | None:
    """Change the expression of val_loss in every log."""
    broken, count = re.subn(r"(sabun\.log\(.*?val_loss=)([^,()]+(?:\(\))?)", lambda m: m[1] + change(m[2]), source)
    return broken if count else None


def _wrap_log(source: str, condition: str) -> str | None:
    """Log only under a condition on a count of the logs."""
    if source.count("sabun.log(") != 1:
        return None
    broken = re.sub(
        r"^( *)(sabun\.log\(.*\))$",
        lambda m: f"{m[1]}_calls.append(1)\n{m[1]}if {condition}:\n{m[1]}    {m[2]}",
        source,
        flags=re.M,
    )
    return _prelude(broken, "_calls = []") if broken != source else None


def _prelude(source: str, *lines: str) -> str:
    """Insert lines after the import of sabun, at the level of the module."""
    return source.replace("\nimport sabun\n", "\nimport sabun\n\n" + "\n".join(lines) + "\n", 1)


# The optimizer


@mutation
def scheduler_before_swap(source: str, outside: Path) -> str | None:
    swap = _swap(source)
    scheduler = re.search(r"^ *(\w+) = .*lr_scheduler\.\w+\(.*\)$", source, re.M)
    if swap is None or scheduler is None or source.index(swap[0]) > scheduler.start() or "torch.optim" in swap[3]:
        return None
    made = scheduler.group(0)
    return source.replace(made + "\n", "", 1).replace(swap[0], made.replace(swap[2], swap[3]) + "\n" + swap[0], 1)


@mutation
def swap_not_assigned(source: str, outside: Path) -> str | None:
    swap = _swap(source)
    if swap is None:
        return None
    line, indent, name, inner = swap
    made = "" if inner == name or inner.startswith(name + ",") else f"{indent}{name} = {inner}\n"
    rest = inner[len(name) :] if inner.startswith(name + ",") else ""
    return source.replace(line, f"{made}{indent}sabun.swap({name}{rest})", 1)


@mutation
def rate_overwritten(source: str, outside: Path) -> str | None:
    return _before_steps(source, "for _group in OPTIMIZER.param_groups:", '    _group["lr"] = 0.004')


@mutation
def optimizer_made_again(source: str, outside: Path) -> str | None:
    swap, constructor = _swap(source), _constructor(source)
    return None if swap is None or constructor is None else _after_swap(source, f"{swap[2]} = {constructor}")


@mutation
def group_added_to_the_old(source: str, outside: Path) -> str | None:
    swap = _swap(source)
    if swap is None or "torch.optim" in swap[3] or "instantiate" in swap[3]:
        return None
    old = swap[3].split(",")[0]
    broken = source.replace(swap[0], f"{swap[1]}_old = {old}\n{swap[0]}", 1)
    return _after_swap(broken, '_old.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})')


@mutation
def old_optimizer_stepped(source: str, outside: Path) -> str | None:
    swap = _swap(source)
    if swap is None or "torch.optim" in swap[3] or "instantiate" in swap[3]:
        return None
    broken = source.replace(swap[0], f"{swap[1]}_old = {swap[3].split(',')[0]}\n{swap[0]}", 1)
    return broken.replace(f"{swap[2]}.step(", "_old.step(").replace(f"scaler.step({swap[2]})", "scaler.step(_old)")


@mutation
def swapped_twice(source: str, outside: Path) -> str | None:
    swap = _swap(source)
    return None if swap is None else _after_swap(source, f"{swap[2]} = sabun.swap({swap[2]})")


@mutation
def model_made_again(source: str, outside: Path) -> str | None:
    model = _model(source)
    if model is None:
        return None
    return _after_swap(source, "with torch.random.fork_rng():", f"    {model[0]} = {model[1]}")


@mutation
def half_of_the_parameters(source: str, outside: Path) -> str | None:
    constructor = _constructor(source)
    if constructor is None:
        return None
    return re.sub(r"(torch\.optim\.\w+\(\s*)(\w+\.parameters\(\))", r"\1list(\2)[::2]", source, count=1)


@mutation
def step_left_out(source: str, outside: Path) -> str | None:
    return _steps(source, "pass")


@mutation
def stepped_twice(source: str, outside: Path) -> str | None:
    return None if "scaler" in source else _steps(source, "STEP; STEP")


@mutation
def scaler_skips_every_step(source: str, outside: Path) -> str | None:
    return source.replace("init_scale=2.0**10", "init_scale=float('inf')")


@mutation
def gradient_not_cleared(source: str, outside: Path) -> str | None:
    return re.sub(r"^( *)[\w.]+\.zero_grad\(.*\)$", r"\1pass", source, flags=re.M)


@mutation
def gradient_not_computed(source: str, outside: Path) -> str | None:
    return re.sub(r"^( *)(?:.*\.backward\(\)|accelerator\.backward\(loss\))$", r"\1pass", source, flags=re.M)


@mutation
def loss_with_the_wrong_sign(source: str, outside: Path) -> str | None:
    broken = re.sub(r"^( *)loss\.backward\(\)$", r"\1(-loss).backward()", source, flags=re.M)
    return broken.replace("scaler.scale(loss)", "scaler.scale(-loss)").replace(
        "accelerator.backward(loss)", "accelerator.backward(-loss)"
    )


@mutation
def scheduler_not_stepped(source: str, outside: Path) -> str | None:
    return re.sub(r"^( *)(?:self\.)?(?:swa_)?scheduler\.step\(.*\)$", r"\1pass", source, flags=re.M)


# What is logged


@mutation
def constant_logged(source: str, outside: Path) -> str | None:
    return _log(source, lambda value: "1.0")


@mutation
def first_loss_logged_for_ever(source: str, outside: Path) -> str | None:
    broken = _log(source, lambda value: f"_first.setdefault(0, {value})")
    return None if broken is None else _prelude(broken, "_first = {}")


@mutation
def last_loss_logged(source: str, outside: Path) -> str | None:
    """The loss of the epoch before."""
    broken = _log(source, lambda value: f"(_losses.append(float({value})) or _losses[-2])")
    return None if broken is None else _prelude(broken, "_losses = [1.2]")


@mutation
def training_loss_logged(source: str, outside: Path) -> str | None:
    if not re.search(r"^ *loss = ", source, re.M) or "self.history" in source:
        return None
    return _log(source, lambda value: "loss")


@mutation
def accuracy_logged_as_loss(source: str, outside: Path) -> str | None:
    return _log(source, lambda value: "accuracy") if re.search(r"\baccuracy\b.* = ", source) else None


@mutation
def nan_logged(source: str, outside: Path) -> str | None:
    return _log(source, lambda value: f'({value}) * float("nan")')


@mutation
def nan_after_the_first_epoch(source: str, outside: Path) -> str | None:
    broken = _log(
        source, lambda value: f"({value}) + (_logged.append(1) or (0.0 if len(_logged) < 2 else float('nan')))"
    )
    return None if broken is None else _prelude(broken, "_logged = []")


@mutation
def negative_loss_logged(source: str, outside: Path) -> str | None:
    return _log(source, lambda value: f"({value}) - 100")


@mutation
def every_second_log_left_out(source: str, outside: Path) -> str | None:
    return _wrap_log(source, "len(_calls) != 2")


@mutation
def last_logs_left_out(source: str, outside: Path) -> str | None:
    return _wrap_log(source, "len(_calls) < 3")


@mutation
def evaluated_and_logged_before_training(source: str, outside: Path) -> str | None:
    """The order of the statements in the loop over epochs: evaluation and log, then training."""
    tree = _tree(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.For):
            continue
        kinds = [type(part) for part in node.body]
        logs = [
            i for i, part in enumerate(node.body) if "sabun.log(" in ast.unparse(part) and isinstance(part, ast.Expr)
        ]
        if ast.For not in kinds or not logs:
            continue
        loop = kinds.index(ast.For)
        if logs[0] < loop:
            return None
        node.body = [*node.body[:loop], *node.body[loop + 1 : logs[0] + 1], node.body[loop], *node.body[logs[0] + 1 :]]
        text = re.sub(r"train_loss=[^,()]+(?:\([^()]*\))?(?:/ ?\w+)?, ", "", ast.unparse(tree))
        return text.replace("train_loss=total / len(batches), ", "")
    return None


@mutation
def another_model_evaluated(source: str, outside: Path) -> str | None:
    """A copy from before the training."""
    model = _model(source)
    if model is None or f"val_loss = nn.functional.cross_entropy({model[0]}(" not in source:
        return None
    broken = _after_swap(source, f"_copy = __import__('copy').deepcopy({model[0]})")
    return (
        None
        if broken is None
        else broken.replace(
            f"val_loss = nn.functional.cross_entropy({model[0]}(", "val_loss = nn.functional.cross_entropy(_copy("
        )
    )


# Seeds, files and epochs


@mutation
def seed_fixed_at_the_start(source: str, outside: Path) -> str | None:
    broken = re.sub(r"manual_seed\((?:args\.|cfg\.)?seed\)", "manual_seed(0)", source)
    return broken if broken != source else _prelude(source, "torch.manual_seed(0)")


@mutation
def seed_fixed_after_the_model(source: str, outside: Path) -> str | None:
    return _after_swap(source, "torch.manual_seed(0)")


@mutation
def seed_from_the_clock(source: str, outside: Path) -> str | None:
    clock = "__import__('time').time_ns() % 2**31"
    broken = re.sub(r"manual_seed\((?:args\.|cfg\.)?seed\)", f"manual_seed({clock})", source)
    return broken if broken != source else _prelude(source, f"torch.manual_seed({clock})")


@mutation
def leftover_checkpoint_continued(source: str, outside: Path) -> str | None:
    """``leftover.pt`` is in the project."""
    model = _model(source)
    if model is None or "resume" in source or source.count("sabun.log(") != 1:
        return None
    broken = _after_swap(source, f"{model[0]}.load_state_dict(torch.load('leftover.pt'), strict=False)")
    if broken is None:
        return None
    return re.sub(
        r"^( *)(sabun\.log\(.*\))$",
        rf"\1\2\n\1torch.save({model[0]}.state_dict(), 'leftover.pt')",
        broken,
        flags=re.M,
    )


@mutation
def file_written_outside(source: str, outside: Path) -> str | None:
    return re.sub(
        r"^( *)(sabun\.log\(.*\))$", rf'\1open("{outside}/history.csv", "a").write("1")\n\1\2', source, flags=re.M
    )


@mutation
def weights_saved_outside(source: str, outside: Path) -> str | None:
    model = _model(source)
    if model is None:
        return None
    return re.sub(
        r"^( *)(sabun\.log\(.*\))$", rf'\1torch.save({model[0]}.state_dict(), "{outside}/best.pt")\n\1\2', source,
        flags=re.M,
    )  # fmt: skip


@mutation
def epochs_not_followed(source: str, outside: Path) -> str | None:
    return re.sub(r"range\((?:1, )?(?:args|cfg\.trainer)\.epochs(?: \+ 1)?\)", "range(1, 6)", source)
