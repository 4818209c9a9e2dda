"""Few-step diffusion: a student learns to do in one step what its teacher does in two.

Progressive distillation (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2, in the coordinates of `objectives`): from
x at noise level sigma the teacher takes two DDIM steps, sigma -> middle -> below, and ends at x''. The student is to
get there at once, so its estimate of x0 must be

    D* = (x'' - (below / sigma) x) / (1 - below / sigma)

The teacher's guidance is distilled with it (Meng et al. 2023, arXiv 2210.03142): the student needs no second pass for
it, so four of its steps cost four evaluations where the teacher's eight cost sixteen. Only the diffusion network is
trained; a coarse model stays as it is. The student is a `MelDiffusion` like any other, whose own sampling is those few
DDIM steps, and can be the teacher of one with half as many.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition, Player
from audiogen.core.rng import SampleRng
from audiogen.generators.diffusion import WHITE, MelDiffusion, whiten
from audiogen.generators.mel_model import frame_mask, masked_mean
from audiogen.generators.task import GeneratorTask

LEAST_NOISE = 0.6  # training begins at the data plus 0.6 to 1 of the level's noise, as sampling at a temperature does


def begin_student(teacher: MelDiffusion, steps: int) -> MelDiffusion:
    """A copy of the teacher that samples in `steps` DDIM steps, its guidance to be built in."""
    if steps < 1:
        raise UserError(f"steps={steps}: a student takes 1 step at least")
    student = copy.deepcopy(teacher)
    sampling = replace(teacher.config.sampling, sampler="ddim", steps=steps, guidance=1.0, interval=None)
    student.config = replace(teacher.config, sampling=sampling)
    return student


class Distillation(GeneratorTask):
    """Trains `student` (see `begin_student`) to agree with two steps of `teacher`."""

    def __init__(
        self,
        teacher: MelDiffusion,
        student: MelDiffusion,
        *,
        demos: Sequence[tuple[str, Condition, int]] = (),
        render: Callable[[Tensor], Audio] | None = None,
    ) -> None:
        super().__init__(student, demos=demos, render=render)
        self.teacher = teacher.eval().requires_grad_(False)

    def players(self) -> list[Player]:
        return [Player("student", self.model.network, self.loss)]

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss": distance of the student's estimate to D*, weighted as the objective weighs it; "jump", the distance
        of where the two end, in deviations of the data."""
        student = self.model
        steps = student.config.sampling.steps
        device = batch.mel.device
        self.teacher.to(device)
        levels = student.objective.sigmas(2 * steps).to(device)
        index = 2 * (rng.fork("step").rand(1, device=device)[:, 0] * steps).long().clamp(max=steps - 1)
        sigma, middle, below = (levels[index + offset] for offset in (0, 1, 2))
        with torch.no_grad():
            x0, mask, coarse = self._residual(batch)
            spread = LEAST_NOISE + (1 - LEAST_NOISE) * rng.fork("spread").rand(1, device=device)[:, 0]
            noise = rng.fork("noise").randn(*x0.shape[1:], device=device)
            x = x0 + _rows(spread * sigma) * noise
            denoise = self._teacher_of(batch.condition, coarse)
            end = self._two_steps(denoise, x, sigma, middle, below)
            ratio = _rows(below / sigma)
            target = (end - ratio * x) / (1 - ratio)
        estimate = student.denoise(x, sigma, batch.condition, coarse)
        weight = _rows(student.objective.weight(sigma))
        jump = masked_mean(((1 - ratio) * (estimate - target)).abs().detach(), mask)
        return {"loss": masked_mean(weight * (estimate - target).square(), mask), "jump": jump}

    def _residual(self, batch: Batch) -> tuple[Tensor, Tensor, Any]:
        """What the diffusion model generates: the standardised mel, or what the coarse model leaves of it."""
        x0 = self.teacher.standardise(batch.mel)
        mask = frame_mask(batch.lengths, x0)
        coarse = self.teacher.coarse(batch.condition) if self.teacher.coarse is not None else None
        return (x0 if coarse is None else whiten(x0, coarse).clamp(-WHITE, WHITE)), mask, coarse

    def _teacher_of(self, condition: Condition, coarse: Any) -> Callable[[Tensor, Tensor], Tensor]:
        without = condition._replace(vector=torch.zeros_like(condition.vector))
        return self.teacher.guided_denoiser(condition, without, coarse, self.teacher.config.sampling)

    def _two_steps(
        self, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, middle: Tensor, below: Tensor
    ) -> Tensor:
        x = torch.lerp(denoise(x, sigma), x, _rows(middle / sigma))
        return torch.lerp(denoise(x, middle), x, _rows(below / middle))


def _rows(value: Tensor) -> Tensor:
    return value[:, None, None]
