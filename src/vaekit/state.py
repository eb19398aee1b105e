"""A process belongs to whoever calls: vaekit does the same whatever torch, numpy and Python's warnings are set to there, and
leaves all of it as it was.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
HERE = f"{Path(__file__).parent}{os.sep}"
AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # kinds of devices that have an autocast of their own
NUMPY: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
PLAIN = nullcontext()


def undisturbed(function: F) -> F:
    """Decorates what is called from outside: it runs under the settings that a process begins with, and ends with those that
    it was called under.

    Of torch: default dtype and device, gradients, inference mode, autocast, anomaly detection, the precision of float32
    products; deterministic algorithms stay, but what has none warns instead of failing. Of numpy: how it takes overflow and the
    like. Of scikit-learn: data frames out of `transform`, inside. Of Python: warnings that the caller has made errors are shown
    instead, but for those by `warn`. Thread counts and the choice of kernels stay the caller's. What threads share is changed
    from the first call in to the last one out, and so for other threads, too.
    """

    @functools.wraps(function)
    def called(*args, **kwargs):
        if _thread.inside:
            return function(*args, **kwargs)
        with _process, _settled_thread():
            try:
                _thread.inside = True
                return function(*args, **kwargs)
            finally:
                _thread.inside = False

    return cast(F, called)


def warn(message: str) -> None:
    """A warning to the caller: it names the caller's line, and is an error where the caller's filters say so."""
    if _thread.unwarned:
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(HERE):
        level, frame = level + 1, frame.f_back
    filters = _process.filters
    with nullcontext() if filters is None else warnings.catch_warnings():
        if filters is not None:
            _set_filters(filters)
        warnings.warn(message, stacklevel=level)


@contextmanager
def unwarned() -> Iterator[None]:
    """No warnings by `warn` in the block."""
    _thread.unwarned, before = True, _thread.unwarned
    try:
        yield
    finally:
        _thread.unwarned = before


def show_errors() -> None:
    """Has warnings that would be errors be shown instead."""
    _set_filters([("default" if action == "error" else action, *rest) for action, *rest in warnings.filters])


def _set_filters(filters: list[tuple]) -> None:
    warnings.resetwarnings()  # which tells the interpreter of the change
    warnings.filters.extend(filters)  # pyright: ignore[reportAttributeAccessIssue]  (declared as a sequence)


class _Setting(NamedTuple):
    """How a setting is read and written, and what it is in a process that has just begun."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    plain: Any


class _Thread(threading.local):
    inside = False  # a function of ours: those that it calls have nothing to do
    unwarned = False


class _Process:
    """The settings that threads share: the first call in changes them, the last one out puts them back."""

    def __init__(self):
        self.lock, self.calls, self.overlap = threading.Lock(), 0, False
        self.found: list[tuple] = []  # the caller's filters of warnings
        self.filters: list[tuple] | None = None  # the same, while errors among them are shown
        self.changed: list[tuple[Callable[[Any], Any], Any]] = []

    def __enter__(self) -> None:
        with self.lock:
            if not self.calls:
                try:
                    self._settle()
                except BaseException:
                    self._put_back()
                    raise
            self.overlap = self.overlap or self.calls > 0
            self.calls += 1

    def __exit__(self, *_) -> None:
        with self.lock:
            self.calls -= 1
            if not self.calls:
                self._put_back()

    def after_fork(self) -> None:
        """A new process has one thread, the one that forked: nobody ends the calls of the others, or opens their lock."""
        self.lock, self.calls = threading.Lock(), int(_thread.inside)
        if not self.calls:
            self._put_back()

    def _settle(self) -> None:
        self.found = list(warnings.filters)
        for one in self.found:
            if one[0] == "error":
                self.filters = self.found
                self.changed.append((_set_filters, self.found))
                show_errors()
                break
        torch = sys.modules.get("torch")
        if torch is None:  # data is read without it
            return
        settings = _of_torch()
        if _products() != "highest" or _coarse(getattr(torch.backends.mkldnn, "conv", None)) != "none":
            settings = settings + _of_products()
        for read, write, plain in settings:
            if (before := read()) != plain:
                self.changed.append((write, before))
                write(plain)

    def _put_back(self) -> None:
        while self.changed:
            write, before = self.changed.pop()
            write(before)
        # Blocks of `catch_warnings` that overlap in threads leave behind what one of them found of the other.
        if self.overlap and warnings.filters != self.found:
            _set_filters(self.found)
        self.filters, self.overlap = None, False


@functools.cache
def _of_torch() -> list[_Setting]:
    """What threads share of torch's settings, but for the precision of products."""
    import torch

    def deterministic() -> bool:
        return torch.get_deterministic_debug_mode() == 2

    def anomaly() -> tuple[bool, bool]:
        on = torch.is_anomaly_enabled()
        return on, on and torch.is_anomaly_check_nan_enabled()

    return [
        _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        _Setting(deterministic, lambda fails: torch.set_deterministic_debug_mode(2 if fails else 1), False),
        _Setting(anomaly, lambda on: torch.autograd.set_detect_anomaly(*on), (False, False)),
    ]


@functools.cache
def _of_products() -> list[_Setting]:
    """The precision of float32 products and convolutions: torch's older setting, and its newer ones by backend."""
    import torch

    cpu = [getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv")]
    owners = [owner for owner in (torch.backends, torch.backends.cuda.matmul, *cpu) if owner is not None]
    return [
        _Setting(lambda: _products() or "highest", torch.set_float32_matmul_precision, "highest"),
        *(
            _Setting(functools.partial(_coarse, owner), functools.partial(setattr, owner, "fp32_precision"), "none")
            for owner in owners
        ),
    ]


def _products() -> str | None:
    """The older setting; None once a newer one differs from it, when torch refuses to tell."""
    import torch

    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _coarse(owner) -> str:
    """A backend's precision of float32, where it is a coarser one; else "none", its default. Older torch has no setting."""
    found = getattr(owner, "fp32_precision", "none")
    return found if found in ("bf16", "tf32") else "none"


def _settled_thread() -> AbstractContextManager:
    """The settings that each thread has of its own, in a block."""
    import numpy as np  # here, for the command line takes `show_errors` alone

    torch = sys.modules.get("torch")
    kinds = () if torch is None else [kind for kind in AUTOCAST if torch.is_autocast_enabled(kind)]
    learns = torch is None or (torch.is_grad_enabled() and not torch.is_inference_mode_enabled())
    on_cpu = torch is None or torch.empty(0).device.type == "cpu"
    sklearn = sys.modules.get("sklearn")
    arrays = sklearn is None or sklearn.get_config()["transform_output"] == "default"
    if learns and on_cpu and arrays and not kinds and np.geterr() == NUMPY:
        return PLAIN
    with ExitStack() as undo:
        undo.enter_context(np.errstate(**NUMPY))
        if sklearn is not None and not arrays:
            undo.enter_context(sklearn.config_context(transform_output="default"))
        if torch is not None and not learns:
            undo.enter_context(torch.inference_mode(False))  # which enables gradients, too
        if torch is not None and not on_cpu:
            undo.enter_context(torch.device("cpu"))
        if torch is not None:
            for kind in kinds:
                # No cache: the caller's block would keep one of weights that a training changes.
                undo.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        return undo.pop_all()


_thread, _process = _Thread(), _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.after_fork)
