"""The ranks, processes that train one model together: plain functions over torch's default process group, each the identity
where there is none. A batch is one, whatever number of ranks it is divided among: each has a `Part` of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")
RENDEZVOUS_SECONDS = 50  # within which all ranks must have met
PATIENCE = timedelta(minutes=10)  # of a rank that waits for what another one does with it
NEVER = 2**62  # later than any step

_apart = 0  # blocks of `apart` that are open
_turns = 0  # of `in_turn` so far
_store: Any = None  # what ranks can say to each other without waiting


class RankLost(RuntimeError):
    """A rank has lost the others, or never found them."""


def size() -> int:
    """How many ranks train together: the processes of torch's default group; 1 where there is none."""
    return dist.get_world_size() if not _apart and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this process is, 0 to size() - 1."""
    return dist.get_rank() if size() > 1 else 0


def local_rank() -> int:
    """Which of those on this machine this process is."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def is_first() -> bool:
    """Whether this is the rank that writes, and that is heard."""
    return rank() == 0


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """In the block this rank does nothing together with others."""
    global _apart
    _apart += 1
    try:
        yield
    finally:
        _apart -= 1


def _reduced(tensor: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
    if size() == 1:
        return tensor
    found = tensor.detach().to(_carrier(tensor.device), copy=True).contiguous()
    dist.all_reduce(found, how)
    return found.to(tensor.device)


def _carrier(device: torch.device) -> torch.device:
    """Where a tensor has to be, for the group's backends to take it to the other ranks."""
    takes = {kind for kind, _, _ in (pair.partition(":") for pair in dist.get_backend_config().split(","))}
    if not takes or device.type in takes:
        return device
    return torch.device("cuda", torch.cuda.current_device()) if "cuda" in takes else torch.device("cpu")


def summed(tensor: Tensor) -> Tensor:
    """The sum over ranks, on every rank; without a gradient."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def earliest(tensor: Tensor) -> Tensor:
    """The least over ranks, element by element."""
    return _reduced(tensor, dist.ReduceOp.MIN)


def greatest(*numbers: int) -> tuple[int, ...]:
    """The greatest of each over ranks: whether anything is so on any of them, what all of them then know."""
    return numbers if size() == 1 else tuple(_reduced(torch.tensor(numbers), dist.ReduceOp.MAX).tolist())


def from_first(make: Callable[[], T]) -> T:
    """What `make()` gives on the first rank, on every rank; the others don't call it. What it raises is raised on all."""
    if size() == 1:
        return make()
    box: list = [None]
    failure = None
    if is_first():
        try:
            box = [(make(), None)]
        except Exception as error:
            failure, box = error, [(None, _sendable(error))]
    dist.broadcast_object_list(box, src=0)
    if failure is not None:
        raise failure
    found, theirs = box[0]
    if theirs is not None:
        raise theirs
    return found


def _sendable(error: Exception) -> Exception:
    """An error that says the same, of a kind that every process knows."""
    if isinstance(error, OSError):
        return type(error)(error.errno, error.strerror, error.filename)
    return ValueError(str(error)) if isinstance(error, ValueError) else RuntimeError(str(error))


def check_alike(facts: dict) -> None:
    """Raises ValueError on all ranks where `facts` of one of them are not those of the first: names rank and fact."""
    if size() == 1:
        return
    found: list = [None] * size()
    dist.all_gather_object(found, facts)
    for number, theirs in enumerate(found):
        for name, mine in found[0].items():
            if theirs.get(name) != mine:
                raise ValueError(
                    f"rank {number} of {size()} has another {name} ({theirs.get(name)!s:.80}) than rank 0 ({mine!s:.80}); all "
                    "ranks need the same command, the same data and the same vaekit"
                )


def alike(module: nn.Module) -> None:
    """Gives all ranks what the first one's `module` holds."""
    if size() > 1:
        for tensor in module.state_dict().values():
            shared = tensor.detach().to(_carrier(tensor.device), copy=True).contiguous()
            dist.broadcast(shared, src=0)
            tensor.copy_(shared)


@torch.no_grad()
def add_up(tensors: list[Tensor]) -> None:
    """Adds up each of the tensors over ranks, in place. In one piece, whose order is always the same: the result is the same to
    the last bit in a process that has begun elsewhere in a training.
    """
    if size() > 1 and tensors:
        whole = summed(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def first_to_say(message: str) -> bool:
    """Whether no other rank has said `message` before: what befalls all ranks alike is said once."""
    if _store is None:
        return True
    try:
        return _store.add(f"said {message}", 1) == 1
    except RuntimeError:  # the rank that keeps what was said has ended
        return True


def in_turn(make: Callable[[], T]) -> T:
    """`make()` on the first rank of each machine, and then on its others, which find in caches what that one has made."""
    global _turns
    if _store is None:
        return make()
    _turns += 1
    done = f"turn {_turns} on machine {os.environ.get('GROUP_RANK', 0)}"
    if local_rank() == 0:
        try:
            return make()
        finally:
            _store.set(done, b"")
    _store.wait([done], timedelta(days=7))  # many images take their time
    return make()


def restarted() -> bool:
    """Whether torchrun has started this process anew after a rank had ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the ranks that torchrun has started, by the environment variables that it sets, for the block; does nothing where
    there are none, or one. Only the first rank writes to standard output in it.

    Raises RankLost where the ranks don't meet within a minute, and where one of them is lost meanwhile.
    """
    global _store
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
        yield
        return
    number, of = os.environ["RANK"], os.environ["WORLD_SIZE"]
    place = (
        f"{os.environ.get('MASTER_ADDR', 'MASTER_ADDR (not set)')}:{os.environ.get('MASTER_PORT', '(no MASTER_PORT)')}"
    )
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    # Its functions keep the group that is there when it is first imported, as the first optimizer does; that group's threads
    # would outlive the interpreter, and abort the process.
    import_module("torch.distributed.nn.functional")
    try:
        meeting = rendezvous("env://", timeout=timedelta(seconds=RENDEZVOUS_SECONDS))
        store, at, count = next(iter(meeting))
        # The store may be the one of the processes before a restart, whose addresses in it are no longer theirs.
        _store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        _store.set_timeout(timedelta(seconds=RENDEZVOUS_SECONDS))
        how = {"store": _store, "rank": at, "world_size": count, "timeout": PATIENCE}
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", **how)
    except (RuntimeError, ValueError) as error:
        raise RankLost(
            f"rank {number} of {of} has not met the others at {place}: {str(error).splitlines()[0]}"
        ) from None
    try:
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(sys.stdout if is_first() else nothing),
            keeping_together(),
        ):
            yield
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


@contextlib.contextmanager
def keeping_together() -> Iterator[None]:
    """Makes torch's error where another rank is lost a RankLost that says so."""
    try:
        yield
    except RuntimeError as error:
        here = str(error)
        if not (isinstance(error, dist.DistError) or any(sign in here for sign in ("gloo", "Gloo", "NCCL"))):
            raise
        raise RankLost(
            f"rank {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '?')} has lost another one, which has ended "
            f"or can't be reached; see what that one says ({here.strip().splitlines()[-1][-160:]})"
        ) from None


class Part(NamedTuple):
    """Images start to stop of a batch of `total`. beside: how many of it each rank looks at in the same round."""

    start: int
    stop: int
    total: int
    beside: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the batch, and no other rank has to know."""
        return len(self.beside) == 1 and self.stop - self.start == self.total

    @property
    def share(self) -> float:
        """Of the batch."""
        return (self.stop - self.start) / self.total


def parts_of_batch(total: int, rounds: int = 1) -> list[Part]:
    """This rank's parts of a batch of `total` images, one for each round: what `rounds` rounds on each of the ranks look at."""

    def place(number: int, turn: int) -> int:
        first, last = total * number // size(), total * (number + 1) // size()
        return first + (last - first) * turn // rounds

    here, found = rank(), []
    for turn in range(rounds):
        beside = tuple(place(other, turn + 1) - place(other, turn) for other in range(size()))
        found.append(Part(place(here, turn), place(here, turn + 1), total, beside))
    return found


def check_enough_images(total: int, rounds: int) -> None:
    """Raises ValueError where a rank would have no image of a batch of `total` in one of its rounds."""
    if total < size() * rounds:
        raise ValueError(
            f"a batch of {total} images is too few for {size() * rounds} parts, of {size()} process(es) in {rounds} "
            "round(s): take a larger batch_size, or a smaller accumulate"
        )


def summed_with_gradient(tensor: Tensor) -> Tensor:
    """The sum over ranks, through which the gradients of all of them come back."""
    return tensor if size() == 1 else _Sum.apply(tensor)  # pyright: ignore[reportReturnType]


def gathered(tensor: Tensor, part: Part | None) -> tuple[Tensor, int]:
    """tensor (B, ...) of this rank's `part` of a batch -> that of all ranks in this round, in their order, through which
    gradients come back; and where this rank's begins in it.
    """
    if part is None or part.is_whole:
        return tensor, 0
    before, after = sum(part.beside[: rank()]), sum(part.beside[rank() + 1 :])
    place = [tensor.new_zeros(n, *tensor.shape[1:]) for n in (before, after)]
    return summed_with_gradient(torch.cat([place[0], tensor, place[1]])), before


class _Sum(torch.autograd.Function):
    """The sum over ranks, and over the gradients that come back."""

    @staticmethod
    def forward(ctx, tensor):
        return summed(tensor)

    @staticmethod
    def backward(ctx, gradient):
        return summed(gradient)
