"""A roll-out in MLflow: tags on model versions, and the aliases ``champion`` and ``challenger``.

A training job tags the model version that it registers with its choice (:func:`tag_version`). :func:`sync` points the
aliases to the newest version of each side according to the stage, for consumers of ``models:/NAME@champion``:

    share 0          champion → newest champion version;     no challenger
    0 < share < 1    champion → newest champion version;     challenger → newest challenger version
    share 1          champion → newest challenger version;   no challenger: nothing is left to challenge

Promotion and roll-back move them: ``sabun rollout promote --mlflow NAME``. The audit log is written first and is
authoritative; where MLflow cannot be reached, ``sabun rollout mlflow NAME`` updates the aliases later. The head hash of
the audit log is stored as the tag ``sabun.audit_head`` of the registered model: an anchor outside the log's directory.

Needs ``pip install mlflow`` (the full package or ``mlflow-skinny``), and a tracking server or database as usual.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from sabun.errors import MissingExtraError, RolloutError, SabunError
from sabun.rollout.choice import Choice, Role
from sabun.rollout.state import Rollout, RolloutState

__all__ = ["Aliases", "Client", "sync", "tag_version"]

ROLE, ROLLOUT, JOB, STAGE = "sabun.role", "sabun.rollout", "sabun.job_id", "sabun.stage"
SHARE, HEAD = "sabun.share", "sabun.audit_head"


@dataclass(frozen=True, slots=True)
class Aliases:
    """The model version of each alias; None: the alias is not set."""

    champion: str | None
    challenger: str | None


class Client(Protocol):
    """The methods of ``mlflow.MlflowClient`` that are used, without MLflow's own types."""

    def get_registered_model(self, name: str, /) -> Any:
        """Return a registered model, with its aliases."""

    def search_model_versions(self, filter_string: str, /, *, page_token: str | None = None) -> Any:
        """Return one page of a model's versions."""

    def set_registered_model_alias(self, name: str, alias: str, version: str, /) -> None:
        """Point an alias at a version."""

    def delete_registered_model_alias(self, name: str, alias: str, /) -> None:
        """Remove an alias."""

    def set_registered_model_tag(self, name: str, key: str, value: str, /) -> None:
        """Tag a model."""

    def set_model_version_tag(self, name: str, version: str, key: str, value: str, /) -> None:
        """Tag a version."""


def tag_version(model: str, version: str | int, choice: Choice, *, client: Client | None = None) -> None:
    """Tag a registered model version with the side of the roll-out that trained it."""
    client = _client(client)
    tags = {ROLE: choice.role, ROLLOUT: choice.rollout, JOB: choice.job_id, STAGE: choice.stage}
    for key, value in tags.items():
        client.set_model_version_tag(model, str(version), key, value)


def sync(model: str, rollout: Rollout | str | Path | None = None, *, client: Client | None = None) -> Aliases:
    """Point the aliases of the registered ``model`` to the versions for the stage of ``rollout``, and return them.

    Raises RolloutError where the roll-out has no valid state, or no version was trained by the side that an alias
    needs; then no alias is moved. Raises it too where MLflow fails, possibly after some aliases have moved; the
    roll-out's log is not affected, and repeating the call moves the others. Repeating it twice changes nothing.
    """
    state = (rollout if isinstance(rollout, Rollout) else Rollout(rollout)).state()
    try:
        return _move_aliases(_client(client), model, state)
    except SabunError:
        raise
    except Exception as error:  # each kind of server and database has its own exceptions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RolloutError(
            f"MLflow failed while the aliases of {model!r} were moved: {reason[:300]}. "
            f"The roll-out itself is at stage {state.stage.name!r}; jobs follow its audit log.",
            fix=f"When MLflow is available again, run: sabun rollout mlflow {model}",
        ) from error


def _move_aliases(client: Client, model: str, state: RolloutState) -> Aliases:
    newest = _newest(client, model, state.plan.name)
    share = state.stage.share
    wanted: dict[str, Role] = {"champion": "challenger" if share == 1 else "champion"}
    if 0 < share < 1:
        wanted["challenger"] = "challenger"
    for alias, role in wanted.items():
        if role not in newest:
            raise RolloutError(
                f"no version of {model!r} was trained by the {role} of {state.plan.name!r} for the alias {alias!r}.",
                fix="Tag what jobs register: sabun.integrations.mlflow.tag_version(model, version, choice).",
            )
    present = dict(client.get_registered_model(model).aliases)
    for alias in ("champion", "challenger"):
        if alias in wanted:
            if str(present.get(alias)) != newest[wanted[alias]]:
                client.set_registered_model_alias(model, alias, newest[wanted[alias]])
        elif alias in present:
            client.delete_registered_model_alias(model, alias)
    for key, value in ((ROLLOUT, state.plan.name), (STAGE, state.stage.name), (SHARE, str(share)), (HEAD, state.head)):
        client.set_registered_model_tag(model, key, value)
    return Aliases(*(newest[wanted[alias]] if alias in wanted else None for alias in ("champion", "challenger")))


def _newest(client: Client, model: str, rollout: str) -> dict[str, str]:
    """Return side → its newest version in this roll-out."""
    found: dict[str, int] = {}
    token: str | None = None
    while True:
        page = client.search_model_versions(_filter(model), page_token=token)
        for version in page:
            role = version.tags.get(ROLE)
            if role is not None and version.tags.get(ROLLOUT) == rollout:
                found[role] = max(found.get(role, 0), int(version.version))
        token = page.token
        if not token:
            return {role: str(version) for role, version in found.items()}


def _filter(model: str) -> str:
    if "'" in model:
        raise RolloutError(f"the model name {model!r} contains a quote.", fix="Rename the registered model.")
    return f"name='{model}'"


def _client(client: Client | None) -> Client:
    if client is not None:
        return client
    try:
        made = importlib.import_module("mlflow").MlflowClient()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the roll-out's aliases need {error.name}, which is not installed.", fix="pip install mlflow"
        ) from None
    return cast("Client", made)
