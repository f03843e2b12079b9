import numpy as np
import pytest
import torch

from napari_vox3d.errors import Vox3dError
from napari_vox3d.networks import ELFPredictor
from napari_vox3d.training import losses

TERMS = {name: term for name, (term, _) in losses.TERMS.items()}
every_term = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def cells():
    """Predicted and true ELF and density of two cells."""
    return tuple(random(2, 1, 6, 5, 4, seed=seed) for seed in range(3))


@every_term
def test_terms_vanish_at_the_truth_alone(term, cells):
    predicted, true, sad = cells
    assert term(true, true, sad).item() == pytest.approx(0, abs=1e-6)
    assert term(predicted, true, sad) > 1e-3


@every_term
def test_terms_do_not_see_where_the_cell_begins_nor_how_its_axes_are_named(term, cells):
    expected = term(*cells)
    shifted = [values.roll((2, 3, 1), (2, 3, 4)) for values in cells]
    turned = [values.permute(0, 1, 4, 2, 3).flip(2) for values in cells]
    torch.testing.assert_close(term(*shifted), expected)
    if term is not TERMS["gradient"]:  # forward differences begin at the other end
        torch.testing.assert_close(term(*turned), expected)


@every_term
def test_terms_average_over_the_batch(term, cells):
    single = [term(*(values[n : n + 1] for values in cells)) for n in range(2)]
    torch.testing.assert_close(term(*cells), torch.stack(single).mean())


@every_term
def test_following_the_gradient_leads_to_the_truth(term, cells):
    predicted, true, sad = (values[:1] for values in cells)
    predicted = predicted.clone().requires_grad_()
    start = term(predicted, true, sad)
    optimizer = torch.optim.Adam([predicted], lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        term(predicted, true, sad).backward()
        optimizer.step()
    assert term(predicted, true, sad) < 0.4 * start


def test_voxel_loss_is_quadratic_then_linear():
    zero, ones = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    assert losses.voxel_loss(zero + 0.05, zero, ones).item() == pytest.approx(0.05**2 / 0.2)
    assert losses.voxel_loss(zero + 0.5, zero, ones).item() == pytest.approx(0.5 - 0.05)


def test_weights_fall_with_the_density_and_average_to_one():
    sad = torch.tensor([0.0, 0.5, 1.0, 2.0]).view(1, 1, 1, 1, 4)
    weights = losses.density_weights(sad).flatten()
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    expected = torch.tensor([1.0, 0.75, 0.5, 0.0]) ** 2
    torch.testing.assert_close(weights, expected / expected.mean())


def test_gradient_loss_goes_round_the_cell():
    true, step = torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4)
    step[:, :, 0] = 1.0  # two differences of 1 along D, one of them over the border
    assert losses.gradient_loss(step, true).item() == pytest.approx(2 / 4 / 3)
    assert losses.gradient_loss(true + 0.3, true) == 0  # a constant has none


def test_distribution_loss_is_the_wasserstein_distance():
    from scipy.stats import wasserstein_distance

    a, b = random(1, 1, 4, 4, 4), random(1, 1, 4, 4, 4, seed=1)
    expected = wasserstein_distance(a.flatten().numpy(), b.flatten().numpy())
    assert losses.distribution_loss(a, b).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [losses.distribution_loss, losses.soft_distribution_loss])
def test_distributions_do_not_know_places(loss):
    values = random(1, 1, 5, 4, 3)
    shuffled = values.flatten()[torch.randperm(60)].view(values.shape)
    assert loss(shuffled, values).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [losses.distribution_loss, losses.soft_distribution_loss])
def test_large_cells_are_sampled(loss, monkeypatch):
    p, t = random(1, 1, 16, 16, 16), random(1, 1, 16, 16, 16, seed=1) ** 2
    whole = loss(p, t)
    monkeypatch.setattr(losses, "CDF_VOXELS", 2000)
    torch.manual_seed(0)
    sampled = loss(p, t)
    assert sampled != whole
    assert sampled.item() == pytest.approx(whole.item(), rel=0.2)


def test_soft_distribution_counts_its_tail_more():
    """The same shift of all values, at a low ELF and around 0.82."""
    low, high = torch.full((1, 1, 3, 3, 3), 0.3), torch.full((1, 1, 3, 3, 3), 0.8)
    ratio = losses.soft_distribution_loss(high, high + 0.04) / losses.soft_distribution_loss(
        low, low + 0.04
    )
    assert ratio.item() == pytest.approx(1 + (0.82 - 0.6) / 0.4, rel=0.02)


def test_peak_loss_sees_a_shifted_a_low_and_a_false_peak():
    true = torch.full((1, 1, 12, 12, 12), 0.2)
    true[0, 0, 2:5, 2:5, 2:5] = 0.9
    low, false = true.clone(), true.clone()
    low[0, 0, 2:5, 2:5, 2:5] = 0.8
    false[0, 0, 8:11, 8:11, 8:11] = 0.9
    shifted = true.roll(6, 2)
    base, *worse = (losses.peak_loss(p, true).item() for p in (true, low, false, shifted))
    assert base == pytest.approx(0, abs=1e-6)
    assert 0.05 < worse[0] < worse[1] < worse[2]
    elsewhere = true.clone()
    elsewhere[0, 0, :, 0] = 0.1  # far below any peak
    assert losses.peak_loss(elsewhere, true).item() < 0.02


def test_peaks_are_a_small_share_of_the_voxels():
    """Only the 32 highest voxels of 4³ are compared, and 0.2 % of larger cells."""
    true = torch.linspace(0.5, 1, 64).view(1, 1, 4, 4, 4)
    wrong = true.clone()
    wrong.flatten()[:16] = 0.0
    assert losses.peak_loss(wrong, true).item() == pytest.approx(0, abs=1e-3)


def test_balance_weighs_by_learnt_variances_within_bounds():
    etas = [torch.nn.Parameter(torch.tensor(value)) for value in (0.0, 1.0, 9.0)]
    terms = [torch.tensor(2.0)] * 3
    expected = 2 + 2 / np.e + 1 + 2 * np.exp(-5) + 5
    assert losses.balance(terms, etas).item() == pytest.approx(expected, rel=1e-6)


def network():
    return ELFPredictor(base=8, blocks=1, kernel=1, attention_every=0)


def test_objective_sums_or_balances_its_terms(cells):
    net = network()
    with torch.no_grad():
        net.eta_grad.fill_(1.0)
    voxel, gradient = (TERMS[name](*cells) for name in ("voxel", "gradient"))
    weights = {"voxel": 1.0, "gradient": 3.0}
    fixed = losses.Objective(weights, learnt=False)
    learnt = losses.Objective(weights)
    torch.testing.assert_close(fixed(net, *cells), voxel + 3 * gradient)
    torch.testing.assert_close(learnt(net, *cells), voxel + 3 * gradient / np.e + 1)
    assert str(fixed) == "voxel + 3 × gradient"
    assert str(learnt) == "voxel + 3 × gradient with learnt weights"


def test_objective_trains_its_own_variances_only():
    net = network()
    losses.Objective(["voxel", "soft-cdf"]).prepare(net)
    trained = [name for name, p in net.named_parameters() if "eta" in name and p.requires_grad]
    assert trained == ["eta_vox", "eta_hist"]
    losses.Objective(["voxel"], learnt=False).prepare(net)
    assert not net.eta_vox.requires_grad


def test_default_objective_is_the_specified_one():
    objective = losses.Objective()
    assert objective.weights == {"voxel": 1, "gradient": 1, "cdf": 1, "peak": 1}
    assert objective.learnt


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "needs a loss"),
        (["taste"], "No loss is called 'taste'; choose from voxel, gradient, cdf"),
        ({"voxel": 0.0}, "must be positive"),
        (["cdf", "soft-cdf"], "two forms of one loss"),
    ],
)
def test_impossible_objectives_are_one_sentence(terms, message):
    with pytest.raises(Vox3dError, match=message):
        losses.Objective(terms)
