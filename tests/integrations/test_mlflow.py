"""Aliases in a real MLflow registry, on SQLite, move with the stages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sabun.errors import MissingExtraError, RolloutError
from sabun.rollout import Rollout, choose
from sabun.rollout.rollout_plan import Gate, RolloutPlan, Side, Stage

WHY = "this test is not about gates"


@pytest.fixture
def rollout(tmp_path: Path) -> Rollout:
    stages = (Stage("poc", 0.0), Stage("canary", 0.5, Gate("x")), Stage("production", 1.0, Gate("x")))
    found = Rollout(tmp_path / "rollout")
    found.start(RolloutPlan("trial", Side("torch.optim:AdamW"), Side("torch.optim:SGD"), stages))
    return found


@pytest.fixture
def client(tmp_path: Path) -> Any:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    found.create_registered_model("forecast")
    return found


def train(client: Any, rollout: Rollout, jobs: int) -> dict[str, str]:
    """Let ``jobs`` jobs register a version each; return the newest version by side."""
    from sabun.integrations.mlflow import tag_version

    newest = {}
    for number in range(jobs):
        choice = choose(f"job-{number}", path=rollout.folder)
        version = client.create_model_version("forecast", source=f"/models/{number}").version
        tag_version("forecast", version, choice, client=client)
        newest[choice.role] = str(version)
    return newest


def aliases(client: Any) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model("forecast").aliases.items()}


def test_aliases_move_with_promotion_and_roll_back(client: Any, rollout: Rollout) -> None:
    from sabun.integrations.mlflow import Aliases, sync

    with pytest.raises(RolloutError, match="no version of 'forecast' was trained by the champion"):
        sync("forecast", rollout, client=client)
    assert aliases(client) == {}

    first = train(client, rollout, 2)
    assert sync("forecast", rollout, client=client) == Aliases(first["champion"], None)
    assert aliases(client) == {"champion": first["champion"]}

    rollout.promote(override=WHY)
    with pytest.raises(RolloutError, match="by the challenger"):
        sync("forecast", rollout, client=client)
    assert aliases(client) == {"champion": first["champion"]}  # nothing is moved by halves
    both = train(client, rollout, 12)
    assert sync("forecast", rollout, client=client) == Aliases(both["champion"], both["challenger"])
    assert aliases(client) == both

    state, _ = rollout.promote(override=WHY)
    sync("forecast", rollout, client=client)
    assert aliases(client) == {"champion": both["challenger"]}
    tags = client.get_registered_model("forecast").tags
    assert tags["sabun.stage"] == "production"
    assert tags["sabun.audit_head"] == state.head
    assert rollout.log.verify(anchor=tags["sabun.audit_head"]).ok

    rollout.rollback(reason="drill")
    for _ in range(2):  # doing it twice changes nothing
        sync("forecast", rollout.folder, client=client)
        assert aliases(client) == {"champion": both["champion"]}


def test_versions_of_other_roll_outs_are_not_taken(client: Any, rollout: Rollout) -> None:
    from sabun.integrations.mlflow import sync

    version = client.create_model_version("forecast", source="/models/x").version
    for key, value in (("sabun.role", "champion"), ("sabun.rollout", "another")):
        client.set_model_version_tag("forecast", version, key, value)
    client.create_model_version("forecast", source="/models/untagged")
    with pytest.raises(RolloutError, match="no version"):
        sync("forecast", rollout, client=client)


class Failing:
    """The client, which fails from its n-th call on."""

    def __init__(self, client: Any, calls: int) -> None:
        self.client, self.left = client, calls

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise ConnectionError("the server is gone\nand says more")
            return getattr(self.client, name)(*args, **kwargs)

        return call


def test_mlflow_failing_at_any_call_leaves_the_roll_out_in_order_and_a_repetition_mends_it(
    client: Any, rollout: Rollout
) -> None:
    from sabun.integrations.mlflow import sync

    train(client, rollout, 2)
    sync("forecast", rollout, client=client)
    rollout.promote(override=WHY)
    both = train(client, rollout, 12)
    sync("forecast", rollout, client=client)
    rollout.promote(override=WHY)
    before, log = rollout.state(), rollout.log.path.read_bytes()
    for calls in range(20):
        failing = Failing(client, calls)
        if calls == 8:  # two to read, two aliases, four tags: that is all
            sync("forecast", rollout, client=failing)
            break
        with pytest.raises(RolloutError, match=r"the server is gone\. .*at stage 'production'") as caught:
            sync("forecast", rollout, client=failing)
        assert caught.value.fix.endswith("sabun rollout mlflow forecast")
        assert rollout.log.path.read_bytes() == log
        assert rollout.state() == before
        assert rollout.verify()[1] == []
        assert aliases(client)["champion"] in (both["champion"], both["challenger"])
        sync("forecast", rollout, client=client)
        assert aliases(client) == {"champion": both["challenger"]}
        # Back to where it was, to fail one call later.
        for alias, version in both.items():
            client.set_registered_model_alias("forecast", alias, version)
    assert failing.left == 0


def test_a_promotion_stands_when_the_server_is_gone(
    rollout: Rollout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow")
    import socket

    from sabun.cli import app

    with socket.socket() as probe:  # a port on which nobody listens
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{probe.getsockname()[1]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    folder = str(rollout.folder)
    for command in (["promote", "--override", WHY], ["rollback", "--reason", "drill"]):
        code = app.run(["rollout", *command, "--mlflow", "forecast", "--plan", folder])
        told = capsys.readouterr()
        assert code == 1
        assert f"trial: stage {rollout.state().stage.name}" in told.out
        assert "error: MLflow failed while the aliases of 'forecast' were moved" in told.err
        assert "fix: When MLflow is available again, run: sabun rollout mlflow forecast" in told.err
        assert told.err.count("\n") == 2
        assert rollout.verify()[1] == []
    names = [record.event for record in rollout.log.read()]
    assert names == ["rollout.started", "rollout.promoted", "rollout.rolled-back"]


def test_without_mlflow_it_says_what_to_install(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    from sabun.integrations.mlflow import sync

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match="pip install mlflow"):
        sync("forecast", rollout)
