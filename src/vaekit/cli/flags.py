"""A command's dataclass as flags: a flag a field, whose docstring is its words, in a box of the help for each topic."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, Optional, TypeVar, get_args, get_origin, get_type_hints

import tyro

Command = TypeVar("Command")
Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

TOPICS = {  # a flag is about the same thing in every command
    "data": "data split_seed resize fit background colour white labels drop skip_bad binarize split reference unlabelled",
    "model": "models architecture latent_dim beta likelihood",
    "prior": "prior",
    "training": "epochs batch_size accumulate optimizer learning_rate schedule warmup_steps rate_warmup_epochs weight_decay "
    "gradient_clip augment early_stopping n_iter_no_change validation_fraction random_state seeds time_budget resume finish",
    "machine": "device precision compile verbose jobs cluster",
    "output": "out overwrite shards shard_size json picture log",
}
TOPIC_OF = {name: topic for topic, names in TOPICS.items() for name in names.split()}
OTHERS = "options"  # the box that --help is in


def parse(command: type[Command], arguments: Sequence[str], prog: str) -> Command:
    """The `command` that `arguments` ask for. A field of it that is a dataclass is made of flags itself, which are about what
    TOPICS says, or else what that field is called. A class variable `notes` has words for the heads of boxes by topic.
    """
    boxes = {topic: [] for topic in (OTHERS, *TOPICS)}
    for topic, *flag in _flags(command, OTHERS):
        boxes.setdefault(topic, []).append(flag)
    for topic in TOPICS:
        if len(boxes[topic]) < 2:  # not worth a box
            boxes[OTHERS] += boxes.pop(topic)
    outside = boxes.pop(OTHERS)
    notes = getattr(command, "notes", {})
    inside = [
        (topic, Annotated[make_dataclass(topic, flags, kw_only=True), tyro.conf.arg(help=notes.get(topic, ""))])
        for topic, flags in boxes.items()
    ]
    parsed: Any = tyro.cli(
        make_dataclass(command.__name__, [*outside, *inside], kw_only=True),
        args=arguments,
        prog=prog,
        description=inspect.getdoc(command),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    values = vars(parsed)
    for topic in boxes:
        values |= vars(values.pop(topic))
    return _made(command, values)


def _flags(kind: type, topic: str) -> Iterator[tuple]:
    """Topic, name, type and default of each flag of a dataclass, and of dataclasses in it."""
    hints, words = get_type_hints(kind, include_extras=True), _words(kind)
    for member in fields(kind):
        name, hint = member.name, hints[member.name]
        if is_dataclass(hint):
            yield from _flags(hint, name)  # pyright: ignore[reportArgumentType]
        else:
            default = field(default=member.default, default_factory=member.default_factory)  # pyright: ignore[reportCallIssue, reportArgumentType]
            yield TOPIC_OF.get(name, topic), name, Annotated[_shown(hint), tyro.conf.arg(help=words.get(name))], default


def _shown(hint):
    """A type as tyro is to show it: without None, which stands for what the words of the field say."""
    kind, *more = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if NoneType not in get_args(kind):
        return hint
    kind = next(one for one in get_args(kind) if one is not NoneType)
    choices = get_args(kind) if get_origin(kind) is Literal else (True, False) if kind is bool else ()
    metavar = f"{{{','.join(map(str, choices))}}}" if choices else kind.__name__.upper()
    # `Optional`, since tyro would check a default of `kind | None` by a library that takes long to import.
    return Annotated[Optional[kind], *more, tyro.conf.arg(metavar=metavar, help_behavior_hint="")]  # noqa: UP045


def _words(kind: type) -> dict[str, str]:
    """The docstring of each field of a dataclass, in one line."""
    words = {}
    for owner in reversed(kind.__mro__):
        words |= _own_words(owner)
    return words


@functools.cache
def _own_words(owner: type) -> dict[str, str]:
    """Of the fields that the class itself has; its source is looked for once."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError):  # it was made, not written
        return {}
    words = {}
    for pair in itertools.pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                words[name] = " ".join(text.split())
    return words


def _made(kind: type, values: dict):
    """A dataclass, and those in it, of the values of all their fields by name."""
    hints = get_type_hints(kind)
    inner = {name: _made(hint, values) for name, hint in hints.items() if is_dataclass(hint)}  # pyright: ignore[reportArgumentType]
    return kind(**{member.name: (values | inner)[member.name] for member in fields(kind)})
