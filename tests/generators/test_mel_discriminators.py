"""Discriminators that see style, score and frames as they should, and whose slope can be held."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.generators.adversarial import r1_penalty
from audiogen.generators.mel_discriminators import MelDiscriminatorConfig, MelDiscriminators, at_places, score

KINDS = ("convolutional", "recurrent")


def made(seed: int = 0, **fields) -> MelDiscriminators:
    torch.manual_seed(seed)
    config = MelDiscriminatorConfig(widths=(4, 6, 8, 8), recurrent_width=12, **fields)
    return MelDiscriminators(config, n_mels=80, vector_dim=5, aligned_dim=7)


def condition(frames: int, batch: int = 2) -> Condition:
    return Condition(vector=torch.randn(batch, 5), aligned=torch.rand(batch, 7, frames))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 7, 64])
def test_any_number_of_frames_is_judged_at_places_of_its_own(kind, frames):
    (judgement,) = made(kinds=(kind,))(torch.randn(2, 80, frames), condition(frames))
    assert judgement.verdicts.shape[0] == 2 and judgement.verdicts.shape[1] >= max(1, frames // 8)
    assert torch.isfinite(judgement.verdicts).all()


@pytest.mark.parametrize("kind", KINDS)
def test_style_and_score_enter_as_an_inner_product(kind):
    """Projection: the verdict is affine in the style and in the roll, for any clip."""
    judge, x, given = made(kinds=(kind,)), torch.randn(2, 80, 32), condition(32)
    nothing = Condition(vector=torch.zeros(2, 5), aligned=torch.zeros(2, 7, 32))
    verdict = lambda c: judge(x, c)[0].verdicts  # noqa: E731
    plain = verdict(nothing)
    style = verdict(nothing._replace(vector=given.vector)) - plain
    roll = verdict(nothing._replace(aligned=given.aligned)) - plain
    assert style.abs().min() > 0 and roll.abs().min() > 0
    both = verdict(Condition(vector=2 * given.vector, aligned=-given.aligned))
    torch.testing.assert_close(both, plain + 2 * style - roll, rtol=1e-4, atol=1e-5)


def test_the_roll_counts_where_it_is():
    judge, x, given = made(kinds=("convolutional",)), torch.randn(1, 80, 64), condition(64, 1)
    other = given._replace(aligned=torch.cat((given.aligned[..., :32], torch.rand(1, 7, 32)), dim=2))
    a, b = (judge(x, c)[0].verdicts for c in (given, other))
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.equal(a[:, 4:], b[:, 4:])


def test_a_verdict_of_the_recurrent_one_is_on_all_that_was_heard_so_far():
    judge, given, x = made(kinds=("recurrent",)), condition(32, 1), torch.randn(1, 80, 32)
    early, late = x.clone(), x.clone()
    early[..., 0] += 1
    late[..., 31] += 1
    plain, after_early, after_late = (judge(y, given)[0].verdicts for y in (x, early, late))
    assert (plain != after_early).all()
    assert torch.equal(plain[:, :7], after_late[:, :7]) and plain[0, 7] != after_late[0, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_has_the_gradient_that_differences_find(kind):
    judge, given = made(kinds=(kind,)).double(), condition(12)
    given = Condition(vector=given.vector.double(), aligned=given.aligned.double())
    x, mask = torch.randn(2, 80, 12, dtype=torch.float64), torch.ones(2, 1, 12, dtype=torch.float64)
    penalty = lambda: r1_penalty(lambda y: score(judge(y, given), mask), x)  # noqa: E731
    parameter = judge.judges[0].project.plain.weight
    (found,) = torch.autograd.grad(penalty(), parameter)
    turn = torch.randn_like(parameter)
    parameter.data += 1e-4 * turn
    above = float(penalty().detach())
    parameter.data -= 2e-4 * turn
    below = float(penalty().detach())
    assert (above - below) / 2e-4 == pytest.approx(float((found * turn).sum()), rel=1e-4)


def test_padding_has_no_say_in_the_score():
    judge, given, x = made(kinds=("recurrent",)), condition(32), torch.randn(2, 80, 32)
    mask = torch.ones(2, 1, 32)
    mask[1, :, 16:] = 0
    other = x.clone()
    other[1, :, 16:] = 5
    assert torch.equal(score(judge(x, given), mask), score(judge(other, given), mask))
    assert at_places(mask, 8).tolist() == [[1] * 8, [1] * 4 + [0] * 4]


def test_spectral_norm_bounds_every_layer_and_is_saved(tmp_path):
    judge, given, x = made(spectral_norm=True), condition(16), torch.randn(2, 80, 16)
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.mul_(7)
    for _ in range(40):  # each pass in training is a step of the power iteration
        judge(x, given)
    judge.eval()
    seen = 0
    for module in judge.modules():
        for name in ("weight", "weight_ih", "weight_hh"):
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.GRUCell)) and hasattr(module, name):
                largest = float(torch.linalg.matrix_norm(getattr(module, name).detach().flatten(1), 2))
                assert largest == pytest.approx(1, abs=0.05)
                seen += 1
    assert seen == 5 + 2 * 3 + 1 + 2  # convolutions, two projections, the layer before the cell, the cell
    torch.save(judge.state_dict(), tmp_path / "judge.pt")
    again = made(seed=1, spectral_norm=True).eval()
    again.load_state_dict(torch.load(tmp_path / "judge.pt", weights_only=True))
    for a, b in zip(judge(x, given), again(x, given), strict=True):
        assert torch.equal(a.verdicts, b.verdicts)


def test_odd_settings_are_one_clear_error():
    with pytest.raises(UserError, match="did you mean 'recurrent'"):
        MelDiscriminatorConfig(kinds=("recurent",))
    with pytest.raises(UserError, match="empty"):
        MelDiscriminatorConfig(kinds=())
