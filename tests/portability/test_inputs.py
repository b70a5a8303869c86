"""Names that are legal on every system, and files as other systems write them: CRLF, a byte order mark, code pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sabun.cli.app import run
from sabun.poc import study_options
from sabun.poc.spec import Study
from sabun.poc.study import default_study
from sabun.poc.tasks import script_command
from sabun.poc.training import run_directory
from sabun.poc.training.script_records import read_record
from sabun.rollout.rollout_plan import RolloutPlan
from sabun.text_safety import legal_name

TINY = f"{Path(__file__).parents[1] / 'poc' / 'tiny.py'}:Tiny"

# What Windows refuses in the name of a file: characters, names of devices, an end in a dot or a space.
ILLEGAL = set('<>:"/\\|?*') | {chr(number) for number in range(32)}
DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(10))}


@pytest.mark.parametrize(
    "name",
    ["CON", "nul.txt", "com1.a.b", "a/b\\c", "C:\\runs\\x", "trailing. ", "...", "", "a" * 300, "検証 1", "a\nb",
     "x" * 59 + ".y", "SGD(lr=0.1, momentum=0.9)", "aux@adam"],
)  # fmt: skip
@pytest.mark.parametrize("kept", ["-_.", "-_.@()=,"])
def test_a_name_made_from_any_text_is_legal_everywhere(name: str, kept: str) -> None:
    made = legal_name(name, kept=kept, fallback="study")
    assert made
    assert not set(made) & ILLEGAL
    assert made[-1] not in ". "
    assert made.partition(".")[0].strip().casefold() not in DEVICES
    assert len(made) <= 61


def test_a_study_called_as_a_device_has_a_folder(tmp_path: Path) -> None:
    study = default_study(task=TINY, baseline="torch.optim:SGD", candidates=("torch.optim:AdamW",))
    for name in ("con", "PRN.2026", "runs:1"):
        folder = study_options.default_directory(study.model_copy(update={"name": name}))
        assert folder.name.partition(".")[0].casefold() not in DEVICES
        assert not set(folder.name) & ILLEGAL


def test_arms_whose_names_differ_in_case_alone_share_no_file(tmp_path: Path) -> None:
    """Where folders do not tell A from a, two arms must not write to one file: no name on disk has an arm in it."""
    study = default_study(task=TINY, baseline="torch.optim:SGD", candidates=("torch.optim:AdamW",), seeds=2, trials=0,
                          epochs=1)  # fmt: skip
    arms = [study.baseline.model_copy(update={"name": "A"}), study.candidates[0].model_copy(update={"name": "a"})]
    study = Study.build({**study.model_dump(), "baseline": arms[0].model_dump(), "candidates": [arms[1].model_dump()]})
    (tmp_path / "study.toml").write_text(_toml(study), encoding="utf-8")
    pytest.importorskip("tensorboard")
    where = ["--out", str(tmp_path / "out"), "--track", "tensorboard", "--track-to", str(tmp_path / "tb")]
    assert run(["poc", "run", str(tmp_path / "study.toml"), "--quiet", *where]) == 0
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert len({name.casefold() for name in files}) == len(files)
    logged = [name.casefold() for name in files if "tfevents" in name]
    assert len({name.rpartition("/")[0] for name in logged}) == len(logged)


def _toml(study: Study) -> str:
    arms = [("baseline", study.baseline), *(("candidates", arm) for arm in study.candidates)]
    head = [f"name = {json.dumps(study.name)}", f"task = {json.dumps(study.task)}"]
    parts = [f"{'[[candidates]]' if kind == 'candidates' else '[baseline]'}\nname = {json.dumps(arm.name)}\n"
             f"optimizer = {json.dumps(arm.optimizer)}" for kind, arm in arms]  # fmt: skip
    budget = study.budget
    parts.append(f"[budget]\nepochs = {budget.epochs}\ntrials = {budget.trials}\nseeds = {budget.seeds}")
    return "\n".join([*head, *parts]) + "\n"


STUDY = """name = "digits"
task = "digits"
note = "損失を比べる"
[baseline]
name = "today"
optimizer = "torch.optim:SGD"
[[candidates]]
name = "new"
optimizer = "torch.optim:AdamW"
"""


def test_a_study_file_with_crlf_and_a_byte_order_mark_is_the_same_study(tmp_path: Path) -> None:
    hashes = set()
    for number, raw in enumerate(
        (STUDY.encode(), STUDY.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + STUDY.encode())
    ):
        path = tmp_path / f"{number}.toml"
        path.write_bytes(raw)
        hashes.add(Study.load(path).hash)
    assert len(hashes) == 1


def test_a_plan_with_crlf_and_a_byte_order_mark_is_the_same_plan(tmp_path: Path) -> None:
    path = tmp_path / "rollout.toml"
    sides = ["--champion", "torch.optim:AdamW", "--challenger", "nesterov@adam", "--name", "x"]
    assert run(["rollout", "init", *sides, "--champion-lr", "0.1", "--challenger-lr", "0.1", "--plan", str(path)]) == 0
    plan = RolloutPlan.load(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert RolloutPlan.load(path) == plan


CSV = "arm,seed,epoch,val_loss\n" + "".join(
    f"{arm},{seed},{epoch},{1.0 / epoch + seed / 100 + (arm == 'new') / 10}\n"
    for arm in ("today", "new")
    for seed in range(6)
    for epoch in (1, 2)
)


def test_logs_with_crlf_and_a_byte_order_mark_are_judged_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = []
    for raw in (CSV.encode(), CSV.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + CSV.encode()):
        path = tmp_path / "runs.csv"
        path.write_bytes(raw)
        assert run(["poc", "judge", str(path), "--baseline", "today", "--json"]) == 0
        judged.append(json.loads(capsys.readouterr().out)["candidates"])
    assert judged[0] == judged[1] == judged[2]
    assert judged[0]


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("study.toml", STUDY, ["poc", "run"]),
        ("runs.csv", CSV.replace("new", "新しい"), ["poc", "judge", "--baseline", "today"]),
        ("rollout.toml", "# 計画\nname = 'x'\n", ["rollout", "init", "--plan"]),
    ],
)
@pytest.mark.parametrize("encoding", ["cp932", "utf-16"])
def test_a_file_in_another_encoding_is_refused_with_the_way_out(
    name: str, text: str, command: list[str], encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    assert run([*command, str(path)]) != 0
    error = capsys.readouterr().err
    assert "is not encoded as UTF-8" in error
    assert "Save it as UTF-8" in error
    assert "Traceback" not in error
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_line_of_the_protocol_may_end_as_on_windows() -> None:
    record = b'{"kind":"swap","optimizer":"AdamW"}'
    assert read_record(record + b"\r\n", -1) == read_record(record + b"\n", -1)


def test_a_command_with_a_drive_and_spaces_is_read_by_windows_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = script_command.command_line.split
    monkeypatch.setattr(script_command.command_line, "split", lambda text: split(text, windows=True))
    monkeypatch.setattr(script_command.shutil, "which", lambda name, path=None: name)
    found = script_command.ScriptCommand.parse(r'script:"C:\x y\python.exe" "C:\x y\train.py" --lr {lr}', {})
    assert found.parts == (r"C:\x y\python.exe", r"C:\x y\train.py", "--lr", "{lr}")


def test_links_where_an_account_may_not_make_symbolic_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A junction for a directory; for a file a hard link, and a copy where even that is refused."""
    original = tmp_path / "original"
    original.write_bytes(b"1")

    def refuse(self: Path, target: Path, target_is_directory: bool = False) -> None:
        error = OSError("A required privilege is not held by the client")
        error.winerror = 1314  # type: ignore[misc]
        raise error

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run_directory._link(tmp_path / "hard", original)
    assert (tmp_path / "hard").stat().st_ino == original.stat().st_ino

    def other_drive(self: Path, target: Path) -> None:
        raise OSError("not on the same drive")

    monkeypatch.setattr(Path, "hardlink_to", other_drive)
    run_directory._link(tmp_path / "copy", original)
    assert (tmp_path / "copy").read_bytes() == b"1"
    assert (tmp_path / "copy").stat().st_ino != original.stat().st_ino
