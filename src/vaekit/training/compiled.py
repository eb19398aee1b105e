"""The compiled training step: when it pays, and a module's forward pass (and with it the backward one) compiled."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.messages import first_line

# Steps from which compiling gains more than it costs, by network, on the safe side; `python -m benchmarks compiling` measures
# both. A resnet has not been measured since it is a deeper conv.
PAYS_FROM = {"wang2023": 6_000, "conv": 20_000, "mlp": 25_000, "pixelcnn": 4_500}


def pays(network: str, steps: int) -> bool:
    """Whether a training of `steps` steps is long enough to compile its step."""
    return steps >= PAYS_FROM.get(network, steps + 1)


def by_default(network: str, steps: int, device: str) -> bool:
    """Whether a training is compiled where nobody has said so. Not on CUDA, which "auto" may be: captured graphs have yet to be
    measured there.
    """
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return pays(network, steps) and not on_cuda


def compiled(module: nn.Module, say: Callable[[str], None]) -> Callable[..., Any]:
    """`module(x, y, *asked)` for batches of one shape, compiled at the first call, and again for others of `asked`; on CUDA its
    kernels are captured as one graph. It draws the random numbers that the module itself would draw, so that the results differ
    by rounding alone.

    Where compiling fails, for want of a compiler most likely, `say` says why and the module goes on as it is.
    """
    on_cuda = any(parameter.is_cuda for parameter in module.parameters())
    options: dict[str, Any] = {
        "fallback_random": True,
        # A step is a hundred small calls: Python between them, and asking at each step whether the module is still what it was,
        # take a twentieth of the report's. Nothing but weights changes in a training.
        "guard_filter_fn": lambda guards: [not guard.name.startswith("L['module']") for guard in guards],
        "triton.cudagraphs" if on_cuda else "cpp_wrapper": True,
    }
    # A code object of its own: the compiler keeps what it made by code object, and takes eight of them at most.
    function = types.FunctionType(_forward.__code__.replace(), globals(), "forward")
    run: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False, options=options)
    failed = False

    def forward(x: Tensor, y: Tensor | None = None, *asked: int) -> Any:
        nonlocal failed
        if not failed:
            try:
                return run(module, x, y, *asked)
            except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore[reportAttributeAccessIssue]
                failed = True
                say(f"the training step can't be compiled here, and goes on without ({first_line(error)})")
        return module(x, y, *asked)

    return forward


def _forward(module: nn.Module, x: Tensor, y: Tensor | None, *asked: int) -> Any:
    return module(x, y, *asked)
