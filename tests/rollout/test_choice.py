"""The draw of jobs: the promised share, growing shares, kill switches, restarts."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from sabun.errors import OptionError, RolloutError, SabunWarning, StateError
from sabun.rollout.choice import Choice, choose, draw
from sabun.rollout.rollout_plan import RolloutPlan
from sabun.rollout.state import Rollout

JOBS = [f"train-{number}" for number in range(100_000)]
SHARES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.99, 1.0)


def start(folder: Path, plan: RolloutPlan, stage: str = "poc") -> Rollout:
    rollout = Rollout(folder)
    rollout.start(plan)
    while rollout.state().stage.name != stage:
        rollout.promote(override="this test is not about gates")
    return rollout


@pytest.mark.parametrize("name", ["trial", "別の導入", "b"])
def test_the_share_of_100_000_jobs_is_the_stage_share(name: str) -> None:
    draws = [draw(name, job) for job in JOBS]
    assert min(draws) >= 0.0
    assert max(draws) < 1.0
    for share in SHARES:
        assert abs(sum(u < share for u in draws) / len(JOBS) - share) <= 0.005
    assert len({*draws}) == len(JOBS)


def test_a_larger_share_only_adds_jobs() -> None:
    draws = {job: draw("trial", job) for job in JOBS}
    chosen = [{job for job, u in draws.items() if u < share} for share in SHARES]
    for smaller, larger in itertools.pairwise(chosen):
        assert smaller < larger
    assert not chosen[0]
    assert chosen[-1] == {*JOBS}


def test_ids_that_count_up_are_drawn_independently_of_the_name() -> None:
    # Two roll-outs at 50% must overlap on a quarter of the jobs, not on a half or on none.
    both = sum(draw("a", job) < 0.5 and draw("b", job) < 0.5 for job in JOBS) / len(JOBS)
    assert abs(both - 0.25) < 0.005


def test_the_draw_is_what_the_documentation_says() -> None:
    # 53 bits of SHA-256 over a JSON list; fixed for ever, because a change would swap jobs of a running roll-out.
    digest = sha256(b'["trial", "job-1"]').hexdigest()
    assert draw("trial", "job-1") == (int(digest[:16], 16) >> 11) / 2**53


def test_promotion_adds_jobs_and_keeps_those_that_were_in(tmp_path: Path, plan: RolloutPlan) -> None:
    rollout, before = start(tmp_path, plan), set()
    for stage in ("poc", "pilot", "canary", "production"):
        if stage != "poc":
            rollout.promote(override="test")
        now = {job for job in JOBS[:150] if choose(job, path=tmp_path).role == "challenger"}
        assert before <= now
        before = now
    assert len(before) == 150


def test_every_process_and_hash_seed_chooses_alike(tmp_path: Path, plan: RolloutPlan) -> None:
    start(tmp_path, plan, "canary")
    here = [choose(job, path=tmp_path).role for job in JOBS[:40]]
    code = (
        "import sys, json; from sabun.rollout import choose;"
        "print(json.dumps([choose(f'train-{i}', path=sys.argv[1]).role for i in range(40)]))"
    )
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={"PYTHONHASHSEED": seed, "RANK": seed, "PATH": ""},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == here
    assert {"champion", "challenger"} == {*here}


def test_choosing_needs_no_torch_and_no_extra(tmp_path: Path, plan: RolloutPlan) -> None:
    start(tmp_path, plan, "pilot")
    code = (
        "import sys; from sabun.rollout import choose; choose('j', path=sys.argv[1]);"
        "print([m for m in ('torch','numpy','pydantic','typer','scipy','sabun.poc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("value", "killed"), [("1", True), ("yes", True), ("trial", True), ("0", False), ("", False), (" False ", False)]
)
def test_the_kill_variable_acts_from_the_next_job(
    tmp_path: Path, plan: RolloutPlan, monkeypatch: pytest.MonkeyPatch, value: str, killed: bool
) -> None:
    start(tmp_path, plan, "production")
    running = choose("job", path=tmp_path)
    assert (running.role, running.reason) == ("challenger", "share")
    monkeypatch.setenv("SABUN_KILL", value)
    following = choose("job-2", path=tmp_path)
    assert (following.role, following.reason) == (("champion", "kill-variable") if killed else ("challenger", "share"))
    # The job under way, restarted, keeps what its checkpoint says.
    assert choose("job", path=tmp_path, stored=running.state_dict()) == running


def test_the_kill_file_acts_from_the_next_job(tmp_path: Path, plan: RolloutPlan) -> None:
    start(tmp_path, plan, "production")
    (tmp_path / "KILL").touch()
    assert (choose("a", path=tmp_path).role, choose("a", path=tmp_path).reason) == ("champion", "kill-file")
    (tmp_path / "KILL").unlink()
    assert choose("a", path=tmp_path).role == "challenger"


def test_a_restart_keeps_its_choice_through_json_whatever_the_stage_is_by_then(
    tmp_path: Path, plan: RolloutPlan
) -> None:
    rollout = start(tmp_path, plan, "production")
    first = choose("job", path=tmp_path)
    stored = json.loads(json.dumps(first.state_dict()))
    rollout.rollback(reason="drill")
    assert choose("job", path=tmp_path).role == "champion"
    again = choose("job", path=tmp_path, stored=stored)
    assert (again.role, again.stage, again.draw) == ("challenger", "production", first.draw)
    assert again.side.optimizer == first.side.optimizer
    with pytest.raises(RolloutError, match="belongs to job 'job'"):
        choose("other", path=tmp_path, stored=stored)
    for broken in ({}, {"job_id": "x"}, {**stored, "side": 3}, {**stored, "more": 1}):
        with pytest.raises(StateError, match="not a stored choice"):
            Choice.from_state_dict(broken)


def test_doubt_means_champion(tmp_path: Path, plan: RolloutPlan) -> None:
    (tmp_path / "rollout.toml").write_text(plan.to_toml())
    assert choose("a", path=tmp_path).reason == "not-started"
    rollout = Rollout(tmp_path)
    rollout.start()
    for _ in range(3):
        rollout.promote(override="test")
    log = tmp_path / "rollout.audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"share":0.25', b'"share":0.35'))
    with pytest.warns(SabunWarning, match="champion"):
        choice = choose("a", path=tmp_path)
    assert (choice.role, choice.reason) == ("champion", "audit-log")


def test_an_edited_plan_has_no_effect_until_it_is_applied(tmp_path: Path, plan: RolloutPlan) -> None:
    start(tmp_path, plan, "pilot")
    text = (tmp_path / "rollout.toml").read_text()
    (tmp_path / "rollout.toml").write_text(text.replace("share = 0.05", "share = 0.25"))
    assert choose("a", path=tmp_path).share == 0.05


def test_the_plan_is_found_by_the_environment(
    tmp_path: Path, plan: RolloutPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path, plan)
    monkeypatch.setenv("SABUN_ROLLOUT", str(tmp_path))
    assert choose("a").rollout == "trial"
    monkeypatch.setenv("SABUN_ROLLOUT", str(tmp_path / "rollout.toml"))
    assert choose("a").rollout == "trial"
    monkeypatch.delenv("SABUN_ROLLOUT")
    monkeypatch.chdir(tmp_path)
    assert choose("a").rollout == "trial"
    with pytest.raises(RolloutError, match="no roll-out plan"):
        choose("a", path=tmp_path / "nowhere")
    with pytest.raises(OptionError, match="job_id"):
        choose("", path=tmp_path)
