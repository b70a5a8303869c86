"""The rivals: torch's and the field's optimizers, from their own packages.

What is searched of each stands in :mod:`comparison.spaces`. torch's optimizers are the compiled ones (``fused=True``)
where there are such.
"""

from __future__ import annotations

import pytorch_optimizer
import schedulefree
import torch

from comparison.arm import Arm, of_model, of_parameters
from comparison.peers import AdaMuonAdamW, MuonAdamW

__all__ = ["BASELINE", "RIVAL_ARMS"]

BASELINE = "AdamW"
LARGEST_FACTOR = 512
"""Largest side of a matrix that SOAP gets a factor for; a longer side has none.

With the package's 10,000 a step on a vocabulary of 2,000 words takes seconds.
"""

RIVAL_ARMS = (
    Arm(BASELINE, of_parameters(torch.optim.AdamW, fused=True), 1e-3),
    Arm("SGD, Nesterov", of_parameters(torch.optim.SGD, nesterov=True, fused=True), 3e-2),
    Arm("NAdamW", of_parameters(torch.optim.NAdam, decoupled_weight_decay=True), 2e-3),
    Arm("Muon + AdamW", of_model(MuonAdamW), 4e-3),
    Arm("NorMuon + AdamW", of_model(MuonAdamW, beta2=0.95), 4e-3),
    Arm("AdaMuon + AdamW", of_model(AdaMuonAdamW, use_adjusted_lr=True), 4e-3),
    Arm("SOAP", of_parameters(pytorch_optimizer.SOAP, max_precondition_dim=LARGEST_FACTOR), 4e-3),
    Arm("schedule-free AdamW", of_parameters(schedulefree.AdamWScheduleFree), 4e-3),
    Arm("AdEMAMix", of_parameters(pytorch_optimizer.AdEMAMix, weight_decouple=True), 1e-3),
    # Not tuned: the defaults of each.
    Arm("AdamW, untuned", of_parameters(torch.optim.AdamW, fused=True), 1e-3, fixed="linear"),
    Arm("Prodigy, untuned", of_parameters(pytorch_optimizer.Prodigy, safeguard_warmup=True, bias_correction=True), 1.0,
        fixed="linear"),
)  # fmt: skip
