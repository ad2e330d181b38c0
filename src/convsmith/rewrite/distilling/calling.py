"""The one call: checks what it is given, trains, and hands back the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from convsmith.errors import MissingDependencyError, UsageError
from convsmith.graph import Graph
from convsmith.results import Progress
from convsmith.rewrite.distilling.result import Distillation
from convsmith.rewrite.distilling.settings import BatchNorm, Optimizer, Settings, check_number

if TYPE_CHECKING:
    import torch

    from convsmith.rewrite.distilling.networks import WorkingNetwork

__all__ = ["distill"]

LAYER_ERROR = "mse of layers"

LAYER_ERROR = "mse of layers"

_Network = TypeVar("_Network", bound="Graph | torch.nn.Module")

_Pair = tuple["WorkingNetwork", "WorkingNetwork", tuple[str, ...]]


def distill(
    original: _Network,
    rewritten: _Network,
    batches: Iterable[Any] | Callable[[int], Iterable[Any]],
    *,
    epochs: float | None = None,
    steps: int | None = None,
    lr: float | None = None,
    blocks: bool | float | Sequence[str] = True,
    whole: bool = True,
    loss: Literal["auto", "kl", "mse"] | Callable[..., torch.Tensor] = "auto",
    temperature: float = 2.0,
    labels: float = 0.0,
    hints: float = 0.0,
    optimizer: Optimizer = "adam",
    weight_decay: float = 0.0,
    clip: float = 1.0,
    average: float = 0.97,
    batch_norm: BatchNorm = "keep",
    held_out: float | Iterable[Any] = 0.1,
    evaluate_every: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    every: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Distillation[_Network]:
    """Trains a rewritten network to do what the original does; labels are not needed.

    First every rewritten layer learns to make what the layer that it stands for made of the same
    image, from what really reaches it in the rewritten network; then the network as a whole learns
    to give the original's outputs. Some batches are held out: what comes back is the state that
    was best on them, the given one included, so it is never worse there than what was given (by
    the loss of the outputs; with ``whole=False`` by the error of the layers).

    Args:
        original: A graph, or a ``torch.nn.Module``.
        rewritten: What a rewrite made of it, of the same kind. Both stay as they are.
        batches: A list, a DataLoader or anything else that can be gone through again; or a
            function from the number of the epoch (0, 1, ...) to its batches, such as for
            augmentation. A batch is an array or a tensor, a mapping from names to such, a tuple
            of such for several arguments, or a pair of one of these and labels or targets (or
            ``None``). With a function, a batch must hold the same images in every epoch, or
            ``held_out`` be given as batches.
        epochs: How often to go through them, both phases together; 10 without ``steps``.
        steps: How many batches to train on instead; needed for batches without end.
        lr: The learning rate at the start of a phase, which falls to 0 along a cosine; 0.0001 for
            ``adam``, 0.001 for ``sgd``. What was fitted well is lost at higher ones first.
        blocks: Whether to train layer by layer first: yes (a fifth of the steps), no, a share of
            the steps, or the names of the layers (module paths, values of a graph) to compare
            instead of those that were rewritten.
        whole: Whether to train the network as a whole.
        loss: ``kl`` of softened class scores (axis 1), ``mse`` over the variance of the
            original's output, or a function of the outputs of both networks (a tensor, or a tuple
            of several). ``auto``: ``kl`` for one score per class, ``mse`` for everything else.
        temperature: What scores are divided by in ``kl``.
        labels: The weight of labels (cross entropy) or targets (``mse``) of the first output.
        hints: The weight of the mean error at the rewritten layers in the second phase.
        optimizer: ``adam`` (decoupled weight decay) or ``sgd`` (Nesterov's momentum, 0.9).
        weight_decay: Of the optimizer.
        clip: The largest norm of a gradient; 0: any.
        average: How much a running average of the weights keeps at a step, such as 0.99; the
            average is then what is judged and returned. 0: the weights themselves.
        batch_norm: Whether statistics stay as they are or follow the batches (``update``).
        held_out: The share of the batches that only decides which state is best (at most
            0.5), or batches for that.
        evaluate_every: Steps between two looks at them; 0: 20 looks a phase.
        checkpoint: A file that is written while it runs. If it is there already, the run goes on
            where it was, and ends with the same bits as if it had never been cut off.
        every: Steps between two checkpoints.
        seed: Of everything that is drawn, a shuffling DataLoader included.
        progress: Called after each step.

    Returns:
        The trained network and how it got there. A graph comes back with other constants, a
        module as a copy: same device, types, modes, hooks and ``requires_grad``.

    Raises:
        DataError: If there are no batches, one cannot be used or the networks cannot be run on
            it, or the checkpoint is damaged.
        MissingDependencyError: If torch is not installed.
        OutputError: If the checkpoint cannot be written.
        UsageError: If an option makes no sense, the networks do not belong together, nothing in
            them may be trained, or the checkpoint is of another run.
        UnsupportedOperatorError: If a graph has an operator that cannot be trained; names it.

    Both networks run as at inference: dropout is off. Random states and threads of the process are
    as before when it returns. If the loss becomes NaN, it warns and returns the best state before.

    >>> from torch import manual_seed, nn, randn
    >>> _ = manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))
    >>> cheap = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, (3, 1), padding=(1, 0)),
    ...                                     nn.Conv2d(2, 4, (1, 3), padding=(0, 1))))
    >>> found = distill(net, cheap, [randn(8, 1, 8, 8) for _ in range(10)], lr=0.01)
    >>> found.places, found.after < 0.5 * found.before
    (('0',), True)
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "lr": lr,
        "blocks": blocks,
        "whole": whole,
        "loss": loss,
        "temperature": temperature,
        "labels": labels,
        "hints": hints,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "clip": clip,
        "average": average,
        "batch_norm": batch_norm,
        "held_out": held_out,
        "evaluate_every": evaluate_every,
        "seed": seed,
    }
    settings = Settings.of(**given)
    check_number("every", every, least=1, whole=True)
    path = None if checkpoint is None else Path(checkpoint)
    if find_spec("torch") is None:
        raise MissingDependencyError(
            "torch is not installed", remedy="pip install convsmith[torch]"
        )
    import torch

    from convsmith.rewrite.distilling.feeding import Feed
    from convsmith.rewrite.distilling.networks import GraphNetwork, ModuleNetwork
    from convsmith.rewrite.distilling.training import Trainer

    with torch.inference_mode(False), torch.enable_grad():
        teacher, student, places = _networks(original, rewritten, settings)
        graph = original if isinstance(original, Graph) else None
        own: object = settings.held_out if settings.held_out else held_out
        feed = Feed(
            batches,
            own,
            graph=graph,
            seed=settings.seed,
            limit=settings.steps,
            resumable=path is not None,
        )
        trainer = Trainer(
            student,
            teacher,
            feed,
            settings,
            places=places,
            loss=loss,
            checkpoint=path,
            every=every,
            progress=progress,
        )
        trainer.train()
        if isinstance(student, ModuleNetwork):
            assert isinstance(rewritten, torch.nn.Module)
            module: object = student.written(rewritten, trainer.best_state)
        else:
            assert isinstance(student, GraphNetwork)
            module = student.module.written(trainer.best_state)
    return Distillation(
        module=cast("_Network", module),
        before=trainer.before,
        after=trainer.after,
        loss=trainer.objective.name if settings.whole else LAYER_ERROR,
        phases=trainer.phases,
        places=trainer.places,
        trained=trainer.trained,
        images=feed.images,
        held_out=sum(batch.images for batch in feed.held_out),
        seconds=trainer.seconds,
        resumed=trainer.resumed,
        stopped=trainer.stopped,
        settings=settings.to_dict(),
    )


def _networks(original: object, rewritten: object, settings: Settings) -> _Pair:
    """Working copies of both networks, and the places at which they are compared.

    Raises:
        UsageError: If they do not belong together.
    """
    from torch import nn

    from convsmith.rewrite.distilling import matching
    from convsmith.rewrite.distilling.networks import GraphNetwork, ModuleNetwork

    if isinstance(original, Graph) and isinstance(rewritten, Graph):
        for which in ("inputs", "outputs"):
            one, other = ([v.name for v in getattr(g, which)] for g in (original, rewritten))
            if one != other:
                raise UsageError(
                    f"the {which} are {', '.join(one)} before and {', '.join(other)} after",
                    remedy="distill a rewritten network from the one that it was made from",
                )
        matching.check_paths(settings.places, original.by_name, rewritten.by_name)
        places = settings.places or matching.rewritten_values(original, rewritten)
        return GraphNetwork(original, original), GraphNetwork(rewritten, original), places
    if isinstance(original, nn.Module) and isinstance(rewritten, nn.Module):
        teacher, student = ModuleNetwork(original), ModuleNetwork(rewritten)
        modules = [dict(network.module.named_modules()) for network in (teacher, student)]
        matching.check_paths(settings.places, *modules)
        places = settings.places or matching.rewritten_modules(teacher.module, student.module)
        return teacher, student, places
    kinds = [type(network).__name__ for network in (original, rewritten)]
    if isinstance(original, Graph | nn.Module) and isinstance(rewritten, Graph | nn.Module):
        raise UsageError(
            f"one network is a {kinds[0]}, the other a {kinds[1]}",
            remedy="give two graphs, or two torch modules: convsmith.apply(plan, module)",
        )
    raise UsageError(
        f"{' and '.join(kinds)} are not two networks",
        remedy="give two graphs or two torch modules",
    )
