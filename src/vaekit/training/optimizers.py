"""The optimizers: Adam, and Muon, which treats the weights of linear and convolutional layers as the matrices that they are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vaekit.training.plan import Plan
from vaekit.world import gains_by_bfloat16

# Of Newton-Schulz's odd quintic: five passes of it bring every singular value near 1 (Jordan et al. 2024).
QUINTIC, PASSES = (3.4445, -4.7750, 2.0315), 5
# How many go on one square in bfloat16: in a third the square's rounding, whose eigenvalues may be below zero, would blow up.
HALF_PASSES = (2, 2, 1)
HALF_FROM = 2**15  # values of a matrix, below which a product is too small to gain by bfloat16
MOMENTUM = 0.95
ADAM_KEEPS = ("step", "exp_avg", "exp_avg_sq")  # of a parameter, in a group that says nothing else
MATRICES = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def make_optimizer(module: nn.Module, plan: Plan) -> torch.optim.Adam:
    """The plan's optimizer over the trainable parameters of `module`, with the plan's weight decay."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    settings = {"lr": plan.learning_rate, "betas": plan.betas, "fused": parameters[0].device.type != "mps"}
    matrices = set(matrices_of(module))
    if plan.optimizer == "muon":
        return Muon(parameters, matrices, decay=plan.weight_decay, half=plan.half, **settings)
    if plan.weight_decay:
        return DecayedAdam(parameters, matrices, decay=plan.weight_decay, **settings)
    return torch.optim.Adam(parameters, **settings)


def gains_by_half(plan: Plan, device: torch.device) -> bool:
    """Whether the plan's optimizer takes less time here where it multiplies in bfloat16."""
    return plan.optimizer == "muon" and gains_by_bfloat16(device)


def matrices_of(module: nn.Module) -> Iterator[Tensor]:
    """The trainable weights of its linear and convolutional layers: what maps features to features. Biases, scales, tables of
    codes or classes and learned variances are none.
    """
    for part in module.modules():
        if isinstance(part, MATRICES) and part.weight.requires_grad:
            yield part.weight


class DecayedAdam(torch.optim.Adam):
    """Adam; `matrices` among the `parameters` become smaller in each step by `decay` times its learning rate, whatever comes of
    the gradient (Loshchilov & Hutter 2019).
    """

    def __init__(
        self, parameters: list[nn.Parameter], matrices: set[Tensor], *, decay: float, keeps=ADAM_KEEPS, **settings
    ):
        of = {True: [], False: []}
        for parameter in parameters:
            of[parameter in matrices].append(parameter)
        super().__init__([{"params": of[False]}, {"params": of[True], "keeps": keeps, "decay": decay}], **settings)

    @torch.no_grad()
    def step(self, closure=None):
        """One step; returns what `closure` gives."""
        self.shrink()
        return super().step(closure)

    def shrink(self) -> None:
        """The decay of a step; what has no gradient stays."""
        for group in self.param_groups:
            if decay := group.get("decay"):
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.mul_(1 - decay * group["lr"])


class Muon(DecayedAdam):
    """Adam, but for `matrices` among the `parameters`: those move by their momentum with all its singular values brought to one
    size, so that no direction waits for the others (Jordan et al. 2024).

    A convolution's kernel is the matrix (out, in * k * k), a transposed one's (in, out * k * k). The step is scaled to Adam's,
    by 0.2 sqrt(the longer side) (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        matrices: set[Tensor],
        *,
        decay: float = 0.0,
        half: bool = False,
        **settings,
    ):
        super().__init__(parameters, matrices, decay=decay, keeps=("momentum",), **settings)
        self.param_groups[1]["half"] = half

    def __setstate__(self, state):
        torch.optim.Optimizer.__setstate__(self, state)  # Adam's would want a step of every parameter

    @torch.no_grad()
    def step(self, closure=None):
        """One step of both; returns what `closure` gives."""
        self.shrink()
        others, matrices = self.param_groups
        self.param_groups = [others]
        loss = super().step(closure)
        self.param_groups = [others, matrices]
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in matrices["params"]:
            if parameter.grad is None:
                continue
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            momentum = self.state[parameter]["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            ahead = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's
            wide = ahead if ahead.shape[0] <= ahead.shape[1] else ahead.T
            alike.setdefault(wide.shape, []).append((parameter, wide))
        for (rows, columns), pairs in alike.items():
            half = matrices["half"] and rows * columns >= HALF_FROM
            updates = orthogonalised(torch.stack([wide for _, wide in pairs]), half=half)
            rate = 0.2 * columns**0.5 * matrices["lr"]
            for (parameter, _), update in zip(pairs, updates, strict=True):
                update = update if len(parameter) == rows else update.T
                parameter.sub_(update.reshape(parameter.shape), alpha=rate)
        return loss


def orthogonalised(matrices: Tensor, *, half: bool = False) -> Tensor:
    """Matrices (n, rows, columns), no higher than wide, with their singular values brought to between 0.7 and 1.2 and their
    singular vectors kept.

    Newton-Schulz's passes X <- (a + b XX' + c (XX')^2) X are taken on XX' alone, whose powers commute: the small side's square
    is all that the passes multiply, and X itself is multiplied once, at the end. half: in bfloat16, as Jordan et al. have
    them, with X multiplied after every second pass.
    """
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = x.bfloat16() if half else x
    for passes in HALF_PASSES if half else (PASSES,):
        x = _passes(x, passes)
    return x.to(matrices.dtype)


def _passes(x: Tensor, n: int) -> Tensor:
    """`n` of them on x (n, rows, columns)."""
    square = x @ x.mT
    product = factor = _quintic(square)
    for _ in range(n - 1):
        square = factor @ square @ factor
        factor = _quintic(square)
        product = factor @ product
    return product @ x


def _quintic(square: Tensor) -> Tensor:
    """a + b XX' + c (XX')^2, of XX' (n, rows, rows)."""
    a, b, c = QUINTIC
    factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor
