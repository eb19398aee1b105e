"""The machine a run stands on: device, precision, seeds."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.ranks import Part, local_rank, size

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
FEWEST, MOST = 32, 1000  # samples at once outside training
# Bytes that a layer may hand to the next one: what a processor's caches keep, and what is little on an accelerator. The best
# batches by hand on two cores hold 5 to 10 MB (the report's VQ-VAE and a resnet; less wide networks do as well with more).
IN_CACHE, ON_A_CARD = 6 * 2**20, 2**29


def _keep_freed_memory() -> None:
    """Lets glibc keep up to 64 MB of freed memory, instead of handing it back to the system, which then fills every page of
    it with zeros before the next layer gets it: half of the time of a batch norm, in runs where it happens. glibc goes by the
    largest block it has seen freed, of 32 MB at most. No page of this one is ever touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


_keep_freed_memory()


def pick_device(name: str = "auto") -> torch.device:
    """The torch device for `name`: "auto" (CUDA, then Apple's MPS, then the CPU) or any name torch knows.

    Raises ValueError for a device that this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return (
                torch.device("cuda", local_rank() % torch.cuda.device_count()) if size() > 1 else torch.device("cuda")
            )
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # what can't be brought back, such as from "meta", is of no use
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} can't be used here ({reason}); try device='auto' or 'cpu'") from None
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The one precision context of a run: "float32" (nothing changes) or "bfloat16"."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype is not None else contextlib.nullcontext()


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that it is faster than float32 there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether a training takes less time in bfloat16 there; on cards it was not measured."""
    return device.type == "cpu" and fast_bfloat16(device)


@torch.no_grad()
def samples_at_once(module: nn.Module, x: Tensor, y: Tensor | None = None) -> int:
    """How many samples like the one in x (1, ...), with its label y (1,), go through `module(x, y)` together outside training,
    FEWEST to MOST: fewer where its layers are wide, so that what one hands to the next is still in the processor's caches.
    The module is in eval mode.
    """
    sizes = [1]

    here = threading.get_ident()  # another thread may use the module at the same time

    def look(layer, inputs, output):
        if isinstance(output, Tensor) and threading.get_ident() == here:
            sizes.append(output.numel() * output.element_size())

    hooks = [layer.register_forward_hook(look) for layer in module.modules() if not list(layer.children())]
    try:
        with seeded(0):
            module(x, y)
    finally:
        for hook in hooks:
            hook.remove()
    limit = IN_CACHE if x.device.type == "cpu" else ON_A_CARD
    return max(FEWEST, min(MOST, limit // max(sizes)))


def derive_seed(seed: int, *keys: int | str) -> int:
    """A 63-bit seed from a run's seed and a place in it, such as ("noise", epoch, step); no two places share one."""
    digest = hashlib.blake2b(repr((int(seed), *keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class _Stream:
    """Torch's stream of random numbers, which all threads draw from. A block of it (reentrant) leaves the stream where it was;
    of blocks in several threads, the first one in takes note and the last one out puts it back. It may be long, so in it
    numbers are drawn in shorter blocks of `drawing` or `seeded`, between which other threads draw theirs.
    """

    def __init__(self):
        self.turn, self.users, self.fork = threading.RLock(), 0, contextlib.nullcontext()

    def __enter__(self) -> None:
        with self.turn:
            if not self.users:
                self.fork = _forked()
                self.fork.__enter__()
            self.users += 1

    def __exit__(self, *_) -> None:
        with self.turn:
            self.users -= 1
            if not self.users:
                self.fork.__exit__(None, None, None)


stream = _Stream()


def _forked() -> contextlib.AbstractContextManager:
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def _seed(seed: int) -> None:
    """`torch.manual_seed` of the devices in use alone. For each of the others torch writes the whole stack down at every call,
    to seed it once it comes to be used: for small networks that is a good part of a step.
    """
    torch.default_generator.manual_seed(seed)
    torch.mps.manual_seed(seed)  # does nothing where there is none
    for backend in (torch.cuda, torch.xpu):
        if backend.is_initialized():
            backend.manual_seed_all(seed)


_part: Part | None = None  # of a batch, that is looked at


def current_part() -> Part | None:
    """The part of a batch that is looked at, or all of it; None where nobody has said, nor will settle what it comes to."""
    return _part


def piece() -> Part | None:
    """The part of a batch that is looked at, where it is not all of it."""
    return None if _part is None or _part.is_whole else _part


def drawn(draw: Callable[[int], Tensor], n: int, dim: int = 0) -> Tensor:
    """`draw(n)`, noise for n images along `dim`; in a part of a batch, the part's share of what is drawn for all of it, so that
    noise doesn't depend on how a batch is divided.
    """
    part = piece()
    if part is None:
        return draw(n)
    each = n // max(1, part.stop - part.start)
    return draw(part.total * each).narrow(dim, part.start * each, n)


@contextlib.contextmanager
def drawing(seed: int, part: Part | None = None) -> Iterator[None]:
    """Torch's random numbers inside the block come from `seed`, and no other thread draws meanwhile. part: of a batch, that is
    all that is looked at in the block; see `drawn`.
    """
    global _part
    with stream.turn:
        _seed(seed)
        _part, before = part, _part
        try:
            yield
        finally:
            _part = before


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """`drawing`, after which the stream goes on where it was."""
    with stream.turn, _forked():
        _seed(seed)
        yield


def check_random_state(random_state) -> int:
    """scikit-learn's `random_state` (None, an int, a RandomState or a Generator) as one integer seed."""
    if random_state is None:
        return int(np.random.randint(2**31 - 1))  # as in scikit-learn: `np.random.seed` makes two calls alike
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)) or random_state < 0:
        raise ValueError(f"random_state must be None, an integer >= 0 or a numpy generator, got {random_state!r}")
    return int(random_state)
