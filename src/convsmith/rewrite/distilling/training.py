"""The training itself: two phases, steps, looks at the held-out images, checkpoints."""

from __future__ import annotations

import hashlib
import itertools
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn

from convsmith.errors import ConvsmithError, DataError, UsageError
from convsmith.results import Progress
from convsmith.rewrite.distilling import checkpoints
from convsmith.rewrite.distilling.checkpoints import Checkpoint
from convsmith.rewrite.distilling.feeding import Feed
from convsmith.rewrite.distilling.inputs import Batch
from convsmith.rewrite.distilling.losses import Loss, Objective, relative_error, variance
from convsmith.rewrite.distilling.networks import Taps, WorkingNetwork
from convsmith.rewrite.distilling.result import Phase, Point
from convsmith.rewrite.distilling.running import Running
from convsmith.rewrite.distilling.settings import Settings
from convsmith.rewrite.distilling.streams import Stream, mixed

__all__ = ["Trainer"]

LOOKS = 20
"""How often a phase looks at the held-out images, unless the caller says."""

WARM_UP = 20
"""One step in so many brings the learning rate up, so that what was fitted is not lost."""

MOMENTUM = 0.9


@final
class Trainer:
    """One run.

    Args:
        student: The network that is trained.
        teacher: The one that it learns from.
        feed: The batches.
        settings: How.
        places: Where both are compared.
        loss: A function in place of the usual losses.
        checkpoint: Where to keep the state; ``None``: nowhere.
        every: After how many steps.
        progress: Called after each step.

    Attributes:
        phases: What was done, after :meth:`train`.
        best_state: The best state that was found.
        resumed: At which step a checkpoint was taken up.

    Raises:
        DataError: If a network cannot be run, or the original gives NaN.
        UsageError: If the two networks have other outputs, or nothing can be trained.
    """

    def __init__(
        self,
        student: WorkingNetwork,
        teacher: WorkingNetwork,
        feed: Feed,
        settings: Settings,
        *,
        places: Sequence[str],
        loss: str | Loss,
        checkpoint: Path | None,
        every: int,
        progress: Progress | None,
    ) -> None:
        self._student, self._teacher, self._feed = student, teacher, feed
        self._settings, self._checkpoint, self._every = settings, checkpoint, every
        self._progress = progress
        self._stream = Stream(mixed(settings.seed, "steps"))
        self._wanted_by_caller = {
            id(parameter): (name, parameter)
            for name, parameter in student.module.named_parameters()
            if parameter.requires_grad and parameter.is_floating_point()
        }
        if not self._wanted_by_caller:
            raise UsageError(
                "the rewritten network has no parameter that may be trained",
                remedy="set requires_grad on those that may",
            )
        for network in (student, teacher):
            network.freeze()
            network.mode()
        self._run = {
            **settings.to_dict(),
            "original": _digest(teacher.tensors()),
            "rewritten": _digest(student.tensors()),
            "data": [
                feed.count,
                feed.images,
                [key.hex() for key in feed.held_out[0].fingerprints()][:9],
            ],
        }
        with self._stream.active(), torch.no_grad():
            self._prepare(places, loss)
        self._at = Running()
        self.resumed = 0
        self.phases: tuple[Phase, ...] = ()
        self.best_state = student.state()
        self._least_state: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}

    def _prepare(self, places: Sequence[str], loss: str | Loss) -> None:
        """Runs both networks once: what corresponds, and the scales of the errors."""
        first = self._feed.held_out[0]
        taps = [Taps(places), Taps(places)]
        wanted, made = (
            network.run(first.inputs, tap)
            for network, tap in zip((self._teacher, self._student), taps, strict=True)
        )
        one, other = ([tuple(value.shape) for value in values] for values in (wanted, made))
        if one != other:
            raise UsageError(
                f"the outputs have shapes {one} before and {other} after",
                remedy="distill a rewritten network from the one that it was made from",
            )
        rows = {len(value) for value in (*first.inputs.tensors, *wanted) if value.ndim}
        if len(rows) != 1 and first.images > 1 and len({len(v) for v in first.inputs.tensors}) == 1:
            raise DataError(
                f"{first.images} images give outputs of shapes {one}",
                remedy="load the network with this number of images, or give batches of its own",
            )
        self._scales = {
            place: [variance(value) for value in taps[0].values[place]]
            for place in self._comparable(places, *taps)
        }
        self.places = tuple(self._scales)
        self.objective = Objective(
            loss,
            wanted,
            temperature=self._settings.temperature,
            labels=self._settings.labels,
        )
        self._answers = [self._teacher.run(batch.inputs) for batch in self._feed.held_out]
        if not all(bool(value.isfinite().all()) for values in self._answers for value in values):
            raise DataError(
                "the original gives NaN or infinity for held-out images",
                remedy="check its weights, and how the images are normalized",
            )

    def _comparable(self, places: Sequence[str], wanted: Taps, made: Taps) -> list[str]:
        """The places that both networks reach with values of the same shape and meaning.

        A layer without parameters cannot learn. Where such a layer stands for one that had some, a
        batch norm was merged into the layer before it, whose values then mean something else: they
        differ by more than they vary.
        """
        found = []
        empty = [place for place in places if not self._student.parameters_at([place])]
        for place, behind in itertools.zip_longest(places, places[1:]):
            pairs = list(zip(made.values[place], wanted.values[place], strict=False))
            if (
                place in empty
                or not pairs
                or len(made.values[place]) != len(wanted.values[place])
                or any(one.shape != other.shape for one, other in pairs)
                or (behind in empty and any(relative_error(*p, variance(p[1])) > 1 for p in pairs))
            ):
                continue
            found.append(place)
        return found

    @property
    def trained(self) -> int:
        """How many scalars may be trained."""
        return sum(parameter.numel() for _, parameter in self._wanted_by_caller.values())

    @property
    def before(self) -> float:
        """The held-out loss of the network as it was given."""
        return self._at.before

    @property
    def after(self) -> float:
        """That of the best state."""
        return self._at.best

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self._at.seconds

    @property
    def stopped(self) -> str:
        """Why it ended early."""
        return self._at.stopped

    def planned(self) -> list[tuple[Literal["blocks", "whole"], int]]:
        """The phases and their steps."""
        settings = self._settings
        total = settings.steps or max(1, round((settings.epochs or 0) * max(self._feed.count, 1)))
        blocks = round(total * settings.blocks) if self._parameters("blocks") else 0
        if blocks and settings.whole:
            blocks = min(blocks, total - 1)
        made: list[tuple[Literal["blocks", "whole"], int]] = [("blocks", blocks)]
        if settings.whole:
            made.append(("whole", total - blocks))
        return [(name, steps) for name, steps in made if steps]

    def _parameters(self, phase: str) -> list[nn.Parameter]:
        if phase == "whole":
            return [parameter for _, parameter in self._wanted_by_caller.values()]
        there = self._student.parameters_at(self.places)
        return [parameter for parameter in there if id(parameter) in self._wanted_by_caller]

    def train(self) -> None:
        """Runs all phases, or what a checkpoint leaves of them."""
        begin = time.perf_counter()
        planned = self.planned()
        if not planned:
            raise UsageError(
                "no layer was found that was rewritten, and whole=False",
                remedy="name layers with blocks=[...], or train the whole network",
            )
        outputs, layers = self._judge(layers=not self._settings.whole)
        self._at.before = self._at.best = outputs if self._settings.whole else layers
        found = None
        if self._checkpoint is not None:
            found = checkpoints.read(self._checkpoint, self._run)
        if found is not None:
            self._resume(found, planned)
        earlier = self._at.seconds
        for index in range(self._at.phase, len(planned)):
            if self._at.done:
                break
            optimizer = self._start(index, planned, found if index == self._at.phase else None)
            found = None
            for _ in self._steps(optimizer, planned):
                self._at.seconds = earlier + time.perf_counter() - begin
                if self._checkpoint is not None and sum(self._at.steps) % self._every == 0:
                    self._write(optimizer)
            self._student.load(self._least_state)  # where the next phase starts
            if self._at.stopped:
                break
        self._at.seconds = earlier + time.perf_counter() - begin
        if not self._at.done:
            self._at.done = True
            if self._checkpoint is not None:
                self._write(None)
        self.phases = tuple(
            Phase(name=name, steps=steps, planned=count, points=tuple(points))
            for (name, count), steps, points in zip(
                planned, self._at.steps, self._at.points, strict=False
            )
        )

    def _start(
        self, index: int, planned: Sequence[tuple[str, int]], found: Checkpoint | None
    ) -> torch.optim.Optimizer:
        """Makes a phase ready, new or as a checkpoint has it."""
        settings = self._settings
        name = planned[index][0]
        parameters = self._parameters(name)
        self._student.freeze(parameters)
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "adam":
            optimizer = torch.optim.AdamW(
                parameters, lr=settings.lr, weight_decay=settings.weight_decay
            )
        else:
            optimizer = torch.optim.SGD(
                parameters,
                lr=settings.lr,
                momentum=MOMENTUM,
                nesterov=True,
                weight_decay=settings.weight_decay,
            )
        names = {id(parameter): name for name, parameter in self._wanted_by_caller.values()}
        self._average = (
            {names[id(parameter)]: parameter.detach().clone() for parameter in parameters}
            if settings.average
            else {}
        )
        if found is None:
            self._at.phase, self._at.step = index, 0
            self._least_state = self._student.state() if name == "blocks" else {}
            self._at.least = self._judge(layers=True)[1] if name == "blocks" else math.inf
            self._at.sum, self._at.count = 0.0, 0
            del self._at.points[index:], self._at.steps[index:]
            self._at.points.append([])
            self._at.steps.append(0)
        elif not self._at.done:
            place = str(self._checkpoint)
            self._average = _like(found.group("average", self._average, place), self._average)
            like = self._student.tensors() if name == "blocks" else {}
            self._least_state = _like(found.group("least", like, place), like)
            _restore(optimizer, found.tensors.get("optimizer", {}), place)
        return optimizer

    def _steps(
        self, optimizer: torch.optim.Optimizer, planned: Sequence[tuple[str, int]]
    ) -> Iterator[None]:
        """Does the steps that a phase still has; pauses after each."""
        at, settings = self._at, self._settings
        name, count = planned[at.phase]
        done = sum(steps for _, steps in planned[: at.phase])
        total = sum(steps for _, steps in planned)
        look = settings.evaluate_every or max(1, -(-count // LOOKS))
        if at.step >= count:
            return
        for batch, epoch, place in self._feed.walk(at.epoch, at.batch):
            rate = _rate(settings.lr, at.step, count)
            for group in optimizer.param_groups:
                group["lr"] = rate
            try:
                with self._stream.active(), _exact():
                    loss = self._step(name, batch, optimizer)
            except ConvsmithError as error:
                raise error.at(f"batch {place} of epoch {epoch + 1}") from None
            if loss is None:
                self._stop(f"the loss became NaN or infinite at step {at.step + 1} of {name!r}")
                return
            at.step, at.epoch, at.batch = at.step + 1, epoch, place
            at.steps[-1] = at.step
            at.sum, at.count = at.sum + loss, at.count + 1
            if at.step % look == 0 or at.step == count:
                self._look(name, rate)
            if self._progress is not None:
                self._progress("distilling", done + at.step, total)
            yield
            if at.step >= count:
                return

    def _step(self, phase: str, batch: Batch, optimizer: torch.optim.Optimizer) -> float | None:
        """One step; ``None`` if there is no going on."""
        settings, student = self._settings, self._student
        watched = phase == "blocks" or settings.hints > 0
        taps = [Taps(self.places if watched else (), cut=c) for c in (False, phase == "blocks")]
        with torch.no_grad():
            wanted = self._teacher.run(batch.inputs, taps[0])
        student.mode(batch_norm=settings.batch_norm == "update")
        optimizer.zero_grad(set_to_none=True)
        made = student.run(batch.inputs, taps[1])
        student.mode()
        loss = self._hints(*taps) if watched else made[0].new_zeros(())
        if phase == "whole":
            weight = settings.hints / max(len(self.places), 1)
            loss = self.objective(made, wanted, batch.wanted) + weight * loss
        if not bool(loss.isfinite()):
            return None
        if not loss.requires_grad:
            raise UsageError(
                "the loss does not depend on any parameter that is trained",
                remedy="check the loss, and which parameters require gradients",
            )
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip or math.inf)
        if not bool(norm.isfinite()):
            return None
        optimizer.step()
        if self._average:
            now = self._student.tensors()
            for name, average in self._average.items():
                average.lerp_(now[name], 1 - settings.average)
        return float(loss.detach())

    def _hints(self, wanted: Taps, made: Taps) -> Tensor:
        """The relative errors at all places, added up."""
        errors = [
            relative_error(one, other, scale)
            for place, scales in self._scales.items()
            for one, other, scale in zip(
                made.values[place], wanted.values[place], scales, strict=False
            )
        ]
        total = errors[0] if errors else torch.zeros(())
        for error in errors[1:]:
            total = total + error.to(total.device)
        return total

    def _look(self, phase: str, rate: float) -> None:
        """Judges the state by the held-out images, and keeps it if it is the best."""
        at, own = self._at, None
        if self._average:
            own = self._student.state()
            self._student.load(self._average)
        outputs, layers = self._judge(layers=phase == "blocks")
        found = layers if phase == "blocks" else outputs
        if phase == "blocks" and layers < at.least:
            at.least, self._least_state = layers, self._student.state()
        if (outputs if self._settings.whole else layers) < at.best:
            at.best = outputs if self._settings.whole else layers
            self.best_state = self._student.state()
        if own is not None:
            self._student.load(own)
        at.points[-1].append(
            Point(step=at.step, loss=at.sum / at.count, held_out=found, outputs=outputs, lr=rate)
        )
        at.sum, at.count = 0.0, 0

    def _judge(self, *, layers: bool) -> tuple[float, float]:
        """The loss of the outputs on the held-out images, and the error at the layers if asked."""
        total = apart = 0.0
        images = 0
        with self._stream.active(), torch.no_grad(), _exact():
            for batch, wanted in zip(self._feed.held_out, self._answers, strict=True):
                taps = [Taps(self.places if layers else ()) for _ in range(2)]
                made = self._student.run(batch.inputs, taps[1])
                total += float(self.objective(made, wanted, batch.wanted)) * batch.images
                if layers:
                    self._teacher.run(batch.inputs, taps[0])
                    apart += float(self._hints(*taps)) * batch.images
                images += batch.images
        found = total / images, apart / images
        outputs, error = (value if math.isfinite(value) else math.inf for value in found)
        return outputs, error

    def _stop(self, why: str) -> None:
        self._at.stopped = why
        warnings.warn(
            f"{why}; the best state before it is returned. A smaller lr= may help",
            stacklevel=5,
        )

    # Checkpoints ---------------------------------------------------------------------------

    def _write(self, optimizer: torch.optim.Optimizer | None) -> None:
        assert self._checkpoint is not None
        state = {} if optimizer is None else optimizer.state_dict()["state"]
        tensors: dict[str, Mapping[str, Tensor]] = {
            "student": self._student.tensors(),
            "best": self.best_state,
            "least": self._least_state,
            "average": self._average,
            "random": self._stream.tensors(),
            "optimizer": {
                f"{index}.{name}": value
                for index, values in state.items()
                for name, value in values.items()
                if isinstance(value, Tensor)
            },
        }
        checkpoints.write(
            self._checkpoint,
            Checkpoint(run=self._run, progress=self._at.to_dict(), tensors=tensors),
        )

    def _resume(self, found: Checkpoint, planned: Sequence[tuple[str, int]]) -> None:
        place = str(self._checkpoint)
        try:
            self._at = Running.of(found.progress)
            known = len(self._at.steps) == self._at.phase + 1 <= len(planned)
            if not known or self._at.step > planned[self._at.phase][1]:
                raise ValueError
            self._stream.restore(found.tensors["random"])
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):
            raise checkpoints.damaged(place, "its numbers make no sense") from None
        like = self._student.tensors()
        self._student.load(found.group("student", like, place))
        self.best_state = _like(found.group("best", like, place), like)
        self.resumed = sum(self._at.steps)


def _rate(highest: float, step: int, count: int) -> float:
    """Up along a line, down along a cosine (Loshchilov & Hutter 2017, equation 5)."""
    warm = min(1.0, (step + 1) / max(1, count // WARM_UP))
    return highest * warm * 0.5 * (1 + math.cos(math.pi * step / count))


def _restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], place: str) -> None:
    """Puts back the state of an optimizer.

    Raises:
        DataError: If it does not fit its parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        fits = index.isdigit() and int(index) < len(parameters)
        if not fits or tensor.shape not in (parameters[int(index)].shape, ()):
            raise checkpoints.damaged(place, "its optimizer does not fit this network")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _like(found: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(like[name].device) for name, tensor in found.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        held = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(held.view(torch.uint8).numpy().tobytes() if held.numel() else b"")
    return digest.hexdigest()


@contextmanager
def _exact() -> Iterator[None]:
    """Keeps cuDNN to algorithms that give the same bits every time."""
    backend = torch.backends.cudnn
    before = backend.deterministic, backend.benchmark
    backend.deterministic, backend.benchmark = True, False
    try:
        yield
    finally:
        backend.deterministic, backend.benchmark = before
