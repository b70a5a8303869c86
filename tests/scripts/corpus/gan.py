"""Two networks with an optimizer each. The generator's is compared, by the distance of its samples to the data."""

import torch
import torch.nn.functional as F
from torch import nn

import sabun

fixed = torch.randn(256, 4, generator=torch.Generator().manual_seed(3))
real = torch.randn(512, 2, generator=torch.Generator().manual_seed(4)) * 0.3 + torch.tensor([1.0, -1.0])
netG = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
netD = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
optimizerD = torch.optim.Adam(netD.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizerG = sabun.swap(optimizerG)
for epoch in range(1, 5):
    for rows in torch.randperm(len(real)).split(64):
        ones, zeros = torch.ones(len(rows), 1), torch.zeros(len(rows), 1)
        netD.zero_grad()
        fake = netG(torch.randn(len(rows), 4))
        errD = F.binary_cross_entropy_with_logits(netD(real[rows]), ones)
        errD = errD + F.binary_cross_entropy_with_logits(netD(fake.detach()), zeros)
        errD.backward()
        optimizerD.step()
        netG.zero_grad()
        errG = F.binary_cross_entropy_with_logits(netD(fake), ones)
        errG.backward()
        optimizerG.step()
    with torch.no_grad():
        samples = netG(fixed)
        distance = (samples.mean(0) - real.mean(0)).norm() + (samples.std(0) - real.std(0)).norm()
    sabun.log(epoch=epoch, train_loss=errG, val_loss=distance)
