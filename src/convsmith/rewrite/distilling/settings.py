"""How a network is distilled: every option, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from convsmith.errors import UsageError

__all__ = ["BatchNorm", "Optimizer", "Settings", "check_number"]

Optimizer = Literal["adam", "sgd"]
BatchNorm = Literal["keep", "update"]

EPOCHS = 10.0
RATES = {"adam": 1e-4, "sgd": 1e-3}
BLOCK_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that decides what comes out, besides the networks and the batches.

    Attributes:
        epochs: How often to go through the batches, both phases together; ``None`` with ``steps``.
        steps: How many batches to train on instead.
        lr: The learning rate at the start of each phase; it falls to 0 along a cosine.
        blocks: The share of the steps for the phase block by block; 0 leaves it out.
        places: The layers whose outputs are compared; empty: those that were rewritten.
        whole: Whether the whole network is trained afterwards.
        loss: ``auto``, ``kl``, ``mse``, or the name of a function.
        temperature: What logits are divided by in ``kl``.
        labels: The weight of labels or targets in the loss, from 0 to 1.
        hints: The weight of the errors at the replaced layers while the whole network is trained.
        optimizer: ``adam`` or ``sgd`` (with Nesterov's momentum of 0.9).
        weight_decay: Decoupled from the gradient in ``adam``.
        clip: The largest norm of the gradient; 0: any.
        average: How much of the running average of weights a step keeps; 0: no average.
        batch_norm: Whether statistics stay as they are or follow the batches.
        held_out: The share of the batches that is never trained on.
        evaluate_every: Steps between two looks at them; 0: 20 a phase.
        seed: Of everything that is drawn.
    """

    epochs: float | None = None
    steps: int | None = None
    lr: float
    blocks: float
    places: tuple[str, ...] = ()
    whole: bool
    loss: str
    temperature: float
    labels: float
    hints: float
    optimizer: Optimizer
    weight_decay: float
    clip: float
    average: float
    batch_norm: BatchNorm
    held_out: float
    evaluate_every: int
    seed: int

    @classmethod
    def of(
        cls,
        *,
        epochs: float | None,
        steps: int | None,
        lr: float | None,
        blocks: bool | float | Sequence[str],
        whole: bool,
        loss: object,
        optimizer: str,
        batch_norm: str,
        held_out: object,
        **numbers: Any,
    ) -> Settings:
        """Checks options as the caller gives them, and fills in what is left open.

        Raises:
            UsageError: If one makes no sense.
        """
        if epochs is not None and steps is not None:
            raise UsageError("both epochs= and steps= are given", remedy="give one of them")
        if epochs is None and steps is None:
            epochs = EPOCHS
        if epochs is not None:
            check_number("epochs", epochs, least=0, above=True)
        if steps is not None:
            check_number("steps", steps, least=1, whole=True)
        _one_of("optimizer", optimizer, tuple(RATES))
        _one_of("batch_norm", batch_norm, ("keep", "update"))
        if not callable(loss):
            _one_of("loss", loss, ("auto", "kl", "mse"))
        lr = RATES[optimizer] if lr is None else lr
        check_number("lr", lr, least=0, above=True)
        check_number("temperature", numbers["temperature"], least=0, above=True)
        for name in ("hints", "weight_decay", "clip"):
            check_number(name, numbers[name], least=0)
        check_number("labels", numbers["labels"], least=0, most=1)
        check_number("average", numbers["average"], least=0, most=1, below=True)
        for name, least in (("evaluate_every", 0), ("seed", 0)):
            check_number(name, numbers[name], least=least, whole=True)
        share = 0.0  # batches of their own
        if isinstance(held_out, int | float):
            check_number("held_out", held_out, least=0, most=0.5, above=True)
            share = float(held_out)
        places, part = _blocks(blocks, whole)
        return cls(
            epochs=None if epochs is None else float(epochs),
            steps=steps,
            lr=float(lr),
            blocks=part,
            places=places,
            whole=bool(whole),
            loss=getattr(loss, "__qualname__", type(loss).__name__)
            if callable(loss)
            else str(loss),
            optimizer=optimizer,  # type: ignore[arg-type]
            batch_norm=batch_norm,  # type: ignore[arg-type]
            held_out=share,
            **numbers,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON-ready data."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {**found, "places": list(self.places)}


def _blocks(blocks: bool | float | Sequence[str], whole: bool) -> tuple[tuple[str, ...], float]:
    places: tuple[str, ...] = ()
    if isinstance(blocks, str) or not isinstance(blocks, bool | int | float | Sequence):
        raise UsageError(
            f"blocks={blocks!r} is neither yes or no, nor a share, nor names of layers",
            remedy="give True, False, a share of the steps such as 0.2, or a list of names",
        )
    if isinstance(blocks, Sequence):
        places, blocks = tuple(map(str, blocks)), bool(blocks)
    if not isinstance(blocks, bool):
        check_number("blocks", blocks, least=0, most=1)
    share = BLOCK_SHARE if blocks is True else float(blocks)
    if not share and not whole:
        raise UsageError("neither blocks= nor whole= is to be trained", remedy="ask for one")
    if share == 1 and whole:
        raise UsageError(
            "blocks=1 leaves no step for the whole network",
            remedy="give a smaller share, or whole=False",
        )
    return places, (1.0 if share and not whole else share)


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise UsageError(f"{name}={value!r} is not known", remedy=f"choose {' or '.join(known)}")


def check_number(
    name: str,
    value: object,
    *,
    least: float,
    most: float = math.inf,
    above: bool = False,
    below: bool = False,
    whole: bool = False,
) -> None:
    """Checks that an option is a finite number between bounds.

    Raises:
        UsageError: If it is not; ``above`` and ``below`` leave the bounds themselves out.
    """
    kinds = int if whole else int | float
    if (
        isinstance(value, bool)
        or not isinstance(value, kinds)
        or not math.isfinite(value)
        or value < least
        or value > most
        or (above and value == least)
        or (below and value == most)
    ):
        said = f"above {least:g}" if above else f"of at least {least:g}"
        if most < math.inf:
            said += f" and {'below' if below else 'at most'} {most:g}"
        raise UsageError(
            f"{name}={value!r} makes no sense",
            remedy=f"give {'an integer' if whole else 'a number'} {said}",
        )
