"""The command line: `vaekit COMMAND ...`. Every field of a model is a flag. Exit codes: 0 done, 1 failed, 2 wrong usage
or input, 130 and 143 after Ctrl-C and SIGTERM. Nothing heavy is imported before a command is chosen.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from vaekit.registry import MODELS, Model


class Command(NamedTuple):
    """home: the module of `vaekit.cli` that has it. line: what it is for."""

    home: str
    line: str


COMMANDS = {
    "data": Command("data", "what is in a data set, and what is wrong with it"),
    "train": Command("train", "train a model: vaekit train MODEL --data DATA --out RUN"),
    "fit-prior": Command("train", "the second stage: a prior that fits a trained model's latents or codes"),
    "sample": Command("generate", "new images from a trained model: a grid, an array, or a folder of labelled images"),
    "encode": Command("generate", "latents or codes of a data set"),
    "decode": Command("generate", "images from latents or codes"),
    "reconstruct": Command("generate", "a data set through encoder and decoder"),
    "score": Command("judge", "the ELBO of each image or row, and which of them stand out"),
    "few-labels": Command("few_labels", "a classifier from few labelled images and many others"),
    "evaluate": Command("judge", "a trained model's numbers on held-out data"),
    "export": Command("share", "encoder, decoder, code lookup and fitted prior as ONNX files"),
    "push": Command("share", "upload a trained model to the Hugging Face Hub: vaekit push RUN user/name"),
    "compare": Command("report", "train several models and write the report that compares them"),
    "explore": Command("explore", "trained models in the browser: map, sliders, codes, drawing"),
    "sweep": Command("report", "a grid of latent_dim and beta: which to take, and why"),
    "doctor": Command("judge", "what is wrong with a run, and what to turn"),
}
TOGETHER = ("train", "fit-prior")  # what torchrun may start in several processes
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
STOPPED = "stopped; a run in a folder goes on with --resume, and fit-prior, compare and sweep when they are run again"


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `vaekit` command."""
    try:
        with _terminable():
            _main(sys.argv[1:] if argv is None else list(argv))
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command by an exception, as Ctrl-C does, so that it tidies up and says how to go on. Neither is raised
    within an import, which may swallow it, as libraries do that try for another one; it then comes again a little later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        if _importing(frame):
            again = threading.Timer(0.02, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(TERMINATED)

    # A Ctrl-C that the shell keeps from a command in the background stays kept from it.
    ours = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else [])]
    before = {number: signal.signal(number, stop) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is under way in `frame` or what called it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        from vaekit import __version__

        print(f"vaekit {__version__}")
        return
    if arguments[0] not in COMMANDS:
        from vaekit.messages import nearest

        _fail(f"unknown command {arguments[0]!r}{nearest(arguments[0], COMMANDS)}; `vaekit --help` lists them all", 2)
    try:
        with warnings.catch_warnings():
            from vaekit.state import show_errors

            show_errors()  # a command ends with a sentence of its own, not with somebody's warning
            warnings.showwarning = _show_warning
            _run(*arguments)
    except KeyboardInterrupt:
        _fail(STOPPED, INTERRUPTED)
    except SystemExit as stop:
        if stop.code != TERMINATED:
            raise
        _fail(STOPPED, TERMINATED)
    except ValueError as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        raise
    except OSError as error:
        from vaekit.messages import in_words

        # A full disk, no permission, no mirror are the machine's fault, not the command line's.
        wrong = isinstance(error, (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError))
        _fail(in_words(error), 2 if wrong else 1)
    except RuntimeError as error:
        from vaekit.export import ExportFailed
        from vaekit.ranks import RankLost
        from vaekit.training.guard import TrainingFailed

        if not isinstance(error, (TrainingFailed, ExportFailed, RankLost)):
            raise
        _fail(str(error), 1)


def _run(command: str, *rest: str) -> None:
    from vaekit.messages import nearest

    if command == "train":
        if not rest:
            raise ValueError(f"train needs a model, one of {', '.join(MODELS)}; `vaekit train --help` says how")
        name, rest = rest[0], rest[1:]
        if name in ("-h", "--help"):
            print(f"usage: vaekit train MODEL --data DATA --out RUN ...\n\nmodels (each has --help):\n{_rows(MODELS)}")
            return
        if name not in MODELS:
            raise ValueError(f"unknown model {name!r}{nearest(name, MODELS)}; models are {', '.join(MODELS)}")
    if command not in TOGETHER and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"{command} works in one process: call it without torchrun, which {' and '.join(TOGETHER)} know"
        )
    from vaekit.cli.flags import parse

    home = importlib.import_module(f"vaekit.cli.{COMMANDS[command].home}")
    if command == "train":
        made, command = home.make_train(name), f"train {name}"
    else:
        made = getattr(home, command.title().replace("-", ""))
    parse(made, rest, f"vaekit {command}").run()


def _show_warning(message, *_) -> None:
    if int(os.environ.get("RANK", 0)) == 0:  # all ranks see the same
        print(f"vaekit: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from vaekit.ranks import first_to_say

        if not first_to_say(message):
            raise SystemExit(code)
    # In one line, whatever the names of files hold.
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    print(f"vaekit: {shown}", file=sys.stderr)
    raise SystemExit(code)


def _rows(table: Mapping[str, Command | Model]) -> str:
    return "\n".join(f"  {name:<12} {entry.line}" for name, entry in table.items())


def _overview() -> str:
    return (
        "usage: vaekit COMMAND ...\n\nThe workbench for variational autoencoders: train, sample, represent, compare.\n\n"
        f"commands (each has --help):\n{_rows(COMMANDS)}\n\nmodels:\n{_rows(MODELS)}\n\n"
        "data: digits, mnist-5k, mnist, fashion-mnist, sprites, a folder of images (a sub-folder a class), .npy, .npz or idx\n"
        "      files, tables in .csv, .tsv or .parquet files\n\n"
        "start with:\n  vaekit compare --data mnist-5k --out report\n  vaekit train vae --data FOLDER --out runs/vae"
    )
