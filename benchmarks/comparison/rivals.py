"""The rivals: torch's and the field's optimizers, from their own packages.

Each tuned one has a learning rate, two further hyperparameters of four values each (weight decay and a momentum or
another memory), and the schedules of :mod:`comparison.training`. The first value of each is the package's default or
the nearest to it. torch's optimizers are the compiled ones (``fused=True``) where there are such.
"""

from __future__ import annotations

import pytorch_optimizer
import schedulefree
import torch

from comparison.arm import DECAYS, Arm, of_model, of_parameters
from comparison.peers import AdaMuonAdamW, MuonAdamW

__all__ = ["BASELINE", "RIVAL_ARMS"]

BASELINE = "AdamW"
_PAIRS = ((0.9, 0.999), (0.9, 0.95), (0.8, 0.99), (0.95, 0.99))
LARGEST_FACTOR = 512
"""Largest side of a matrix that SOAP gets a factor for; a longer side has none.

With the package's 10,000 a step on a vocabulary of 2,000 words takes seconds.
"""

RIVAL_ARMS = (
    Arm(BASELINE, of_parameters(torch.optim.AdamW, fused=True), 1e-3, {"weight_decay": DECAYS, "betas": _PAIRS}),
    Arm("SGD, Nesterov", of_parameters(torch.optim.SGD, nesterov=True, fused=True), 3e-2,
        {"momentum": (0.9, 0.8, 0.95, 0.98), "weight_decay": (0.0, 1e-4, 1e-3, 1e-2)}),
    Arm("NAdamW", of_parameters(torch.optim.NAdam, decoupled_weight_decay=True), 2e-3,
        {"weight_decay": DECAYS, "betas": _PAIRS}),
    Arm("Muon + AdamW", of_model(MuonAdamW), 4e-3,
        {"weight_decay": DECAYS, "momentum": (0.95, 0.9, 0.8, 0.7)}),
    Arm("NorMuon + AdamW", of_model(MuonAdamW, beta2=0.95), 4e-3,
        {"weight_decay": DECAYS, "momentum": (0.95, 0.9, 0.8, 0.7)}),
    Arm("AdaMuon + AdamW", of_model(AdaMuonAdamW, use_adjusted_lr=True), 4e-3,
        {"weight_decay": DECAYS, "betas": ((0.95, 0.95), (0.9, 0.95), (0.8, 0.95), (0.7, 0.95))}),
    Arm("SOAP", of_parameters(pytorch_optimizer.SOAP, max_precondition_dim=LARGEST_FACTOR), 4e-3,
        {"weight_decay": DECAYS, "betas": ((0.95, 0.95), (0.9, 0.95), (0.8, 0.95), (0.9, 0.99))}),
    Arm("schedule-free AdamW", of_parameters(schedulefree.AdamWScheduleFree), 4e-3,
        {"weight_decay": DECAYS, "betas": ((0.9, 0.999), (0.95, 0.99), (0.98, 0.99), (0.9, 0.95))}),
    Arm("AdEMAMix", of_parameters(pytorch_optimizer.AdEMAMix, weight_decouple=True, weight_decay=0.1), 1e-3,
        {"alpha": (5.0, 1.0, 2.0, 8.0),
         "betas": ((0.9, 0.999, 0.99), (0.9, 0.999, 0.96), (0.8, 0.99, 0.96), (0.9, 0.999, 0.999))}),
    # Not tuned: the defaults of each.
    Arm("AdamW, untuned", of_parameters(torch.optim.AdamW, fused=True), 1e-3, fixed="linear"),
    Arm("Prodigy, untuned", of_parameters(pytorch_optimizer.Prodigy, safeguard_warmup=True, bias_correction=True), 1.0,
        fixed="linear"),
)  # fmt: skip
