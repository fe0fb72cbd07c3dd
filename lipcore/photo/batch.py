"""Any number of photographs: which files, where each result goes, and the work, on several cores if wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lipcore.attacks.hiding import Hiding
from lipcore.detectors import Detector, load_detector
from lipcore.errors import ImageError, LipcoreError, NoFaceFound, OptionError, out_of_memory
from lipcore.images import LOSSLESS, check_output, photo_endings
from lipcore.photo.hide import Outcome, hide
from lipcore.studies.base.workers import in_processes


@dataclass(frozen=True)
class Loading:
    """Which detectors a process loads.

    Attributes:
        names: as :func:`load_detector` takes them.
        weights: of the one detector, if not those registered.
        device: as torch names devices.
    """

    names: tuple[str, ...]
    weights: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.names) > 1:
            raise OptionError("--weights is of one detector; name one with --detector")

    def load(self) -> dict[str, Detector]:
        """The detectors by name."""
        return {name: load_detector(name, self.weights, self.device) for name in self.names}


@dataclass(frozen=True)
class Task:
    """One photograph and where its result goes."""

    photo: Path
    output: Path


def plan(photos: Sequence[Path], output: Path) -> list[Task]:
    """Every photograph, folders walked, with the file its result goes to.

    One photograph and an output with an ending: that file. Else the output is a folder; a photograph keeps its name and
    its place below the folder it was found in, but is written as .png where its own format would lose pixels.

    Raises:
        ImageError: no photograph at all, several for one file, or a result that would replace a photograph.
    """
    single = len(photos) == 1 and not photos[0].is_dir() and bool(output.suffix) and not output.is_dir()
    if single:
        if photos[0].resolve() == output.resolve():
            raise ImageError(f"{output} is the photograph itself; give another name for the result")
        check_output(output)
        return [Task(photos[0], output)]
    if output.is_file() or (output.suffix.lower() in LOSSLESS and not output.is_dir()):
        raise ImageError(f"{output} is a file, and several photographs need a folder: -o FOLDER/")
    found = [pair for photo in photos for pair in _walked(photo, output)]
    if not found:
        raise ImageError(f"no photograph in {', '.join(map(str, photos))}; names end in .jpg, .png and the like")
    names = [_named(place, whole=False) for _, place in found]
    double = {name for name, n in Counter(names).items() if n > 1}
    tasks = [
        Task(photo, output / (_named(place, whole=True) if name in double else name))
        for (photo, place), name in zip(found, names, strict=True)
    ]
    sources = {task.photo.resolve() for task in tasks}
    for task in tasks:
        if task.output.resolve() in sources:
            raise ImageError(f"{task.output} would replace a photograph; give another folder for the results")
    for name, n in Counter(task.output for task in tasks).items():
        if n > 1:
            raise ImageError(f"{n} photographs would be written to {name}; give the folder above them instead")
    return tasks


def _walked(photo: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    """A file with its name; of a folder all photographs below it, but for results of an earlier run."""
    if not photo.is_dir():
        yield photo, Path(photo.name)
        return
    endings = photo_endings()
    for path in sorted(photo.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(photo).parts)
        inside = path.resolve().is_relative_to(output.resolve()) and output.resolve() != photo.resolve()
        if path.is_file() and path.suffix.lower() in endings and not hidden and not inside:
            yield path, path.relative_to(photo)


def _named(place: Path, whole: bool) -> Path:
    """The result's name: that of the photograph, in a format that keeps every pixel."""
    if whole:
        return place.with_name(place.name + ".png")
    return place if place.suffix.lower() in LOSSLESS else place.with_suffix(".png")


def run(
    tasks: Sequence[Task],
    hiding: Hiding,
    loading: Loading,
    *,
    overwrite: bool = False,
    jobs: int = 1,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Outcome]:
    """What became of each photograph, as it is done; a failure is an outcome too, and the rest goes on.

    Args:
        tasks: from :func:`plan`.
        hiding: the attack.
        loading: the detectors, loaded once in each process.
        overwrite: do again what is there; else such a photograph is kept as it is.
        jobs: processes; 1 does everything in this one.
        on_step: called after each step, where there is one process.
    """
    todo = []
    for task in tasks:
        if task.output.exists() and not overwrite:
            yield Outcome(str(task.photo), str(task.output), "kept")
        else:
            todo.append(task)
    if not todo:
        return
    if jobs == 1 or len(todo) == 1:
        detectors = loading.load()
        for task in todo:
            yield attempt(task, hiding, detectors, on_step)
        return
    yield from in_processes(_work, todo, min(jobs, len(todo)), start=_start, arguments=(hiding, loading))


def attempt(
    task: Task, hiding: Hiding, detectors: dict[str, Detector], on_step: Callable[[int], None] | None = None
) -> Outcome:
    """:func:`hide`, with what a photograph can be refused for as its outcome."""
    try:
        task.output.parent.mkdir(parents=True, exist_ok=True)
        return hide(task.photo, task.output, hiding, detectors, on_step)
    except NoFaceFound as error:
        return Outcome(str(task.photo), status="no face", message=str(error))
    except (LipcoreError, OSError, FloatingPointError) as error:
        return Outcome(str(task.photo), message=str(error))
    except (MemoryError, RuntimeError) as error:
        if (said := out_of_memory(error)) is None:
            raise
        return Outcome(str(task.photo), message=said)


_WORKER: list[tuple[Hiding, dict[str, Detector]]] = []


def _start(hiding: Hiding, loading: Loading) -> None:
    _WORKER[:] = [(hiding, loading.load())]


def _work(task: Task) -> Outcome:
    return attempt(task, *_WORKER[0])
