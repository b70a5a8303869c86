"""Full and read-only disks, odd names, unreadable switches: told clearly, nothing half-done, in doubt the champion."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sabun import audit
from sabun.audit import AuditLog
from sabun.cli import app
from sabun.errors import OptionError, RolloutError, SabunWarning, StoreError
from sabun.rollout.choice import choose, draw
from sabun.rollout.rollout_plan import RolloutPlan
from sabun.rollout.state import Rollout

WHY = "this test is not about gates"
ODD = {
    "spaces": " a  b ",
    "unicode": "学習-β-🚂",
    "composed": "é",
    "decomposed": "e\u0301",
    "lines": "a\nb\r\n\x00\t",
    "path": "../../etc/passwd",
    "markup": '"}|<b>\\',
    "surrogate": "\udcff",
    "formula": "=1+1",
    "long": "x" * 100_000,
}


def begun(folder: Path, plan: RolloutPlan, promotions: int = 3) -> Rollout:
    rollout = Rollout(folder)
    rollout.start(plan)
    for _ in range(promotions):
        rollout.promote(override=WHY)
    return rollout


@pytest.mark.parametrize("job", ODD.values(), ids=ODD)
def test_any_text_is_a_jobs_id(job: str, tmp_path: Path, plan: RolloutPlan) -> None:
    begun(tmp_path, plan, 1)
    choice = choose(job, path=tmp_path)
    assert choice.job_id == job
    assert choice == choose(job, path=tmp_path)
    assert choice.role == ("challenger" if draw("trial", job) < 0.05 else "champion")
    stored = json.loads(json.dumps(choice.state_dict()))
    assert choose(job, path=tmp_path, stored=stored).draw == choice.draw
    # It goes into the audit log as one line, and comes out as it went in.
    log = AuditLog(tmp_path / "job.jsonl")
    log.append("guard.started", {"job_id": job})
    log.append("guard.skipped", {"job_id": job})
    assert log.verify().ok
    assert [record.data["job_id"] for record in log.read()] == [job, job]
    assert audit.to_markdown(log.read()).count("\n| ") == 2  # a row each


def test_ids_that_only_look_alike_are_drawn_apart() -> None:
    assert len({draw("trial", job) for job in ODD.values()}) == len(ODD)


@pytest.mark.parametrize("job", ["", " ", "\n", None, 7, b"x"])
def test_what_is_no_id_is_refused(job: object, tmp_path: Path, plan: RolloutPlan) -> None:
    begun(tmp_path, plan, 0)
    with pytest.raises(OptionError, match="job_id must be a non-blank text"):
        choose(job, path=tmp_path)  # type: ignore[arg-type]


def test_a_restarted_job_keeps_its_side_when_the_share_was_changed(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = begun(tmp_path, plan)
    stored = choose("job", path=tmp_path).state_dict()
    path = tmp_path / "rollout.toml"
    path.write_text(path.read_text().replace("share = 1.0", "share = 0.25"))
    rollout.apply(reason="fewer jobs")
    assert draw("trial", "job") > 0.25
    assert choose("job", path=tmp_path).role == "champion"  # as a new job it would be one
    again = choose("job", path=tmp_path, stored=stored)
    assert (again.role, again.share) == ("challenger", 1.0)


def test_whatever_has_the_name_of_the_kill_file_is_a_switch(tmp_path: Path, plan: RolloutPlan) -> None:
    begun(tmp_path, plan)
    kill = tmp_path / "KILL"
    assert choose("job", path=tmp_path).reason == "share"
    kill.mkdir()
    assert choose("job", path=tmp_path).reason == "kill-file"
    kill.rmdir()
    kill.symlink_to("nowhere")
    assert choose("job", path=tmp_path).reason == "kill-file"
    kill.unlink()
    kill.touch(mode=0)
    assert choose("job", path=tmp_path).reason == "kill-file"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_kill_file_that_nobody_can_look_for_counts_as_there(
    code: int, tmp_path: Path, plan: RolloutPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path, plan)
    real = os.lstat

    def blind(path: str | Path, **options: int) -> os.stat_result:
        if Path(path).name == "KILL":
            raise OSError(code, os.strerror(code))
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", blind)
    assert (choose("job", path=tmp_path).role, choose("job", path=tmp_path).reason) == ("champion", "kill-file")


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow past ``size``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_log_that_cannot_grow_refuses_the_move_and_stays_whole(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout = begun(tmp_path, plan, 1)
    before, raw = rollout.state(), rollout.log.path.read_bytes()
    for room in (0, 1, 100):
        for move in (lambda: rollout.promote(override=WHY), lambda: rollout.rollback(reason="drill")):
            with no_file_larger_than(len(raw) + room), pytest.raises(StoreError, match="cannot write to"):
                move()
            assert rollout.log.path.read_bytes() == raw
            assert rollout.state() == before
            assert rollout.verify()[1] == []
    assert rollout.rollback(reason="there is room again").stage.name == "poc"


def test_a_state_file_that_cannot_be_written_does_not_undo_the_move(
    tmp_path: Path, plan: RolloutPlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = begun(tmp_path, plan, 0)

    def refuse(*_: object) -> None:
        raise RolloutError("cannot write rollout.state.json: Read-only file system.", fix="x")

    with monkeypatch.context() as patch:
        patch.setattr("sabun.rollout.state._write", refuse)
        with pytest.warns(SabunWarning, match=r"rollout\.promoted is in the audit log and in force, but cannot write"):
            state, _ = rollout.promote(override=WHY)
        assert state.stage.name == rollout.state().stage.name == "pilot"
        assert app.run(["rollout", "status", "--plan", str(tmp_path)]) == 0  # looking works where nobody may write
        assert "rollout.state.json does not agree with the log" in capsys.readouterr().out
    assert rollout.renew()
    assert rollout.verify()[1] == []


def test_a_plan_that_cannot_be_written_starts_nothing(
    tmp_path: Path, plan: RolloutPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RolloutError, match=r"cannot write .*rollout.toml: .*No space left") as caught:
            Rollout(tmp_path).start(plan)
    assert caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == []
    assert Rollout(tmp_path).start(plan).stage.name == "poc"


def test_a_read_only_folder_is_told_and_jobs_still_choose(
    tmp_path: Path, plan: RolloutPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = begun(tmp_path, plan)
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = os.open

    def read_only(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    assert choose("job", path=tmp_path).role == "challenger"
    with pytest.raises(StoreError, match="Read-only file system") as caught:
        rollout.rollback(reason="drill")
    assert caught.value.fix
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == held


def test_a_log_that_cannot_be_read_makes_it_the_champion(
    tmp_path: Path, plan: RolloutPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path, plan)
    real = Path.exists

    def blind(self: Path, **options: bool) -> bool:
        if "audit" in self.name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self, **options)

    monkeypatch.setattr(Path, "exists", blind)
    with pytest.warns(SabunWarning, match="Permission denied"):
        choice = choose("job", path=tmp_path)
    assert (choice.role, choice.reason) == ("champion", "audit-log")
