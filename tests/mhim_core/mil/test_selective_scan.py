"""The scan in chunks is the recursion, token after token."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mhim_core.mil import selective_scan
from mhim_core.mil.selective_scan import BranchParameters, SelectiveScan, inverse_softplus, scan

NUM_STATES, DIM, BRANCHES = 5, 6, 3


def recursion(zx_NX: torch.Tensor, rows_AN: torch.Tensor, parameters: BranchParameters) -> torch.Tensor:
    """S_t = exp(-Δ_t e^A) S_{t-1} + Δ_t B_t x_tᵀ, y_t = C_tᵀ S_t + D x_t, of every branch and head."""
    num_heads, num_convolved = parameters.delta_bias_AH.shape[1], parameters.taps_AWV.shape[2]
    num_channels = num_convolved - 2 * NUM_STATES
    branches = []
    for rows_N, taps, shift, delta_bias, log_decay, skip in zip(rows_AN, *parameters, strict=True):
        z_NE, xbc_NV, dt_NH = zx_NX[rows_N].split([num_channels, num_convolved, num_heads], dim=1)
        state, outputs = zx_NX.new_zeros(num_heads, NUM_STATES, num_channels // num_heads), []
        for t in range(len(rows_N)):
            before = [(tap, t - len(taps) + 1 + tap) for tap in range(len(taps))]
            convolved = F.silu(shift + sum(taps[tap] * xbc_NV[u] for tap, u in before if u >= 0))
            x_E, b_S, c_S = convolved.split([num_channels, NUM_STATES, NUM_STATES])
            x_HP = x_E.view(num_heads, -1)
            delta_H = F.softplus(dt_NH[t] + delta_bias)
            decay_H = torch.exp(-delta_H * log_decay.exp())
            added = delta_H[:, None, None] * b_S[:, None] * x_HP[:, None, :]
            state = decay_H[:, None, None] * state + added
            y_HP = (c_S[:, None] * state).sum(dim=1) + skip[:, None] * x_HP
            gated_E = y_HP.flatten() * F.silu(z_NE[t])
            outputs.append(gated_E / (gated_E.square().mean() + 1e-5).sqrt())
        branches.append(torch.zeros_like(z_NE).index_add(0, rows_N, torch.stack(outputs)))
    return torch.stack(branches).mean(dim=0)


def inputs(num: int) -> tuple[torch.Tensor, torch.Tensor, BranchParameters]:
    generator = torch.Generator().manual_seed(num)
    module = SelectiveScan(DIM, NUM_STATES, BRANCHES)

    def draw(shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()

    rows_AN = torch.stack([torch.randperm(num, generator=generator) for _ in range(BRANCHES)])
    names = ("conv_taps", "conv_shift", "delta_bias", "log_decay", "skip")
    parameters = BranchParameters(*(draw(getattr(module, name).shape) for name in names))
    return draw((num, module.project_in.out_features)), rows_AN, parameters


@pytest.mark.parametrize(
    ("num", "chunk", "span"),
    [(1, 64, 4096), (2, 4, 64), (7, 64, 4096), (23, 8, 24), (23, 4, 11), (23, 64, 60)],
    ids=["one", "two", "short", "spans", "odd spans", "groups of branches"],
)
def test_the_scan_in_chunks_is_the_recursion_with_its_gradients(
    num: int, chunk: int, span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selective_scan, "CHUNK_TOKENS", chunk)
    monkeypatch.setattr(selective_scan, "SPAN_TOKENS", span)
    zx_NX, rows_AN, parameters = inputs(num)
    expected, actual = recursion(zx_NX, rows_AN, parameters), scan(zx_NX, rows_AN, parameters, NUM_STATES)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn(actual.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaves = [zx_NX, *parameters]
    gradients = torch.autograd.grad((actual * weight).sum(), leaves)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), leaves), rtol=1e-9, atol=1e-9)


def test_decays_of_any_size_stay_finite_in_float32() -> None:
    zx_NX, rows_AN, parameters = inputs(150)
    strong = parameters._replace(log_decay_AH=torch.full_like(parameters.log_decay_AH, 4.0))
    for dt in (-60.0, 60.0):
        x = zx_NX.detach().clone()
        x[:, -strong.delta_bias_AH.shape[1] :] = dt
        leaves = [tensor.detach().float().requires_grad_() for tensor in (x, *strong)]
        mean_NE = scan(leaves[0], rows_AN, BranchParameters(*leaves[1:]), NUM_STATES)
        gradients = torch.autograd.grad(mean_NE.sum(), leaves)
        assert all(torch.isfinite(tensor).all() for tensor in (mean_NE, *gradients))


def test_the_same_input_gives_the_same_bits() -> None:
    zx_NX, rows_AN, parameters = inputs(40)
    runs = []
    for _ in range(2):
        mean_NE = scan(zx_NX, rows_AN, parameters, NUM_STATES)
        runs.append([mean_NE.detach(), *torch.autograd.grad(mean_NE.square().sum(), [zx_NX, *parameters])])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


def test_the_step_and_the_decay_start_in_their_ranges() -> None:
    module, generator = SelectiveScan(512, 16, 8), torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters(recurse=False):
        module.start_parameter(name, parameter, generator)
    delta, decay = F.softplus(module.delta_bias.detach()), module.log_decay.detach().exp()
    assert 1e-3 <= float(delta.min()) < 2e-3
    assert 0.05 < float(delta.max()) <= 0.1001
    assert 1 <= float(decay.min()) < 2
    assert 15 < float(decay.max()) <= 16
    assert set(module.skip.flatten().tolist()) == set(module.gate_scale.tolist()) == {1.0}
    x = torch.tensor([1e-6, 0.3, 20.0], dtype=torch.float64)
    torch.testing.assert_close(F.softplus(inverse_softplus(x)), x)
