"""The check for a GPU, on a CPU: all of its stages run, and every check holds there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu_check


def test_a_dry_run_holds_every_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "PRESETS", ("sgd", "soap", "sabun"))
    monkeypatch.setattr(gpu_check, "CAPTURED", ("adamw", "sabun"))
    out = tmp_path / "record.json"
    assert gpu_check.main(["--dry-run", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    records: list[dict[str, Any]] = found["records"]
    assert found["dry_run"]
    assert {record["stage"] for record in records} == {*(stage.__name__ for stage, _ in gpu_check.STAGES), "end"}
    assert not [record for record in records if "error" in record]
    # Three presets, dtypes and twice each; two of rounding, 16 of state; two graphs, the scaler and two checkpoints.
    assert records[-1] | {"at_s": 0} == {"stage": "end", "at_s": 0, "checks": 18 + 2 + 16 + 2 + 1 + 2, "failed": 0}


def test_a_stage_that_fails_is_recorded_and_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(check: gpu_check.Check, end: float) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu_check, "STAGES", ((broken, 1), (gpu_check.environment, 1), (gpu_check.timing, 10_000)))
    out = tmp_path / "record.json"
    assert gpu_check.main(["--dry-run", "--out", str(out), "--seconds", "100"]) == 1
    first, second, third, end = json.loads(out.read_text())["records"]
    assert first["error"] == "RuntimeError: no such kernel"
    assert second["torch"] == torch.__version__
    assert third["skipped"] == "no time is left"
    assert end["failed"] == 1


def test_without_a_gpu_it_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.main([])
    assert "--dry-run" in capsys.readouterr().err


def test_the_page_quotes_the_records_of_the_gpu() -> None:
    root = Path(gpu_check.__file__).parent
    page = (root.parent / "docs" / "large-models.md").read_text(encoding="utf-8")
    for name, checks in (("gpu_check-h200", 91), ("gpu_check-h100-products", 17)):
        records = json.loads((root / "results" / f"{name}.json").read_text(encoding="utf-8"))["records"]
        assert records[-1]["checks"] == checks == sum("ok" in record for record in records)
        assert records[-1]["failed"] == 0
        assert f"{checks} checks, none failed" in page
        times = {(r["optimizer"], r["dtype"]): r for r in records if r["stage"] == "timing"}
        for line in page.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for found, dtype in zip(cells[1:3], ("torch.float32", "torch.bfloat16"), strict=False):
                if row := times.get((cells[0], dtype)):
                    captured = f" (captured {row['captured_ms']:.2f})" if "captured_ms" in row else ""
                    assert found == f"{row['device_ms']:.2f} ms{captured}"
        if times:
            shown = {line.split("|")[1].strip() for line in page.splitlines() if line.count("|") > 2}
            ours = {"sabun adamw fused=auto", "sabun sabun fused=auto", "torch AdamW fused"}
            assert ours <= shown
            for ours_, theirs in (("adamw", "AdamW fused"), ("sabun", "Muon and AdamW fused")):
                for dtype in ("torch.float32", "torch.bfloat16"):
                    both = times[f"sabun {ours_} fused=auto", dtype], times[f"torch {theirs}", dtype]
                    assert f" {both[0]['device_ms'] / both[1]['device_ms']:.2f} " in page
