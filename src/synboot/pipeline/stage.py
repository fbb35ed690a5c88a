"""What a stage is, what it leaves behind, and what its id depends on (laws 1-3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from synboot.core.errors import Incomplete, SynbootError
from synboot.core.events import ReportProgress
from synboot.core.storage import digest, read_json

MANIFEST = "manifest.json"
SCRATCH = "scratch"
"""Sub-directory of an unfinished artifact (parts, checkpoints); it goes when the rest stands."""

PART_FACTS = "part.json"
"""In every committed part: checksums of its files, and what it counted."""

Counts = dict[str, Any]


def part_counts(part: Path) -> Counts:
    """What a committed part counted."""
    return dict(read_json(part / PART_FACTS)["counts"])


@dataclass(frozen=True)
class Artifact:
    """A finished directory: written once, its `manifest.json` last."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Artifact | None:
        """The artifact at `path`, or None if it has no manifest.

        Raises SynbootError if the manifest is damaged, or a file that it lists is missing or has
        another size.
        """
        if not (path / MANIFEST).is_file():
            return None
        remedy = f"remove {path} to have it made again"
        try:
            manifest = read_json(path / MANIFEST)
            bytes_of = {path / name: facts["bytes"] for name, facts in manifest["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SynbootError(f"{path / MANIFEST} is damaged ({error!r}); {remedy}") from None
        for file, size in bytes_of.items():
            if not file.is_file() or file.stat().st_size != size:
                raise SynbootError(f"{file} is missing or cut short; {remedy}")
        return cls(path, manifest)

    @property
    def id(self) -> str:
        """The stage id that this artifact answers to."""
        return str(self.manifest["id"])

    @property
    def counts(self) -> Counts:
        """What the stage counted."""
        return dict(self.manifest["counts"])

    def file(self, name: str) -> Path:
        """The path of one of the artifact's files or sub-directories."""
        return self.path / name


@dataclass(frozen=True)
class Context:
    """What a stage may see while it works, besides its own config."""

    directory: Path
    """Where `finish` writes the artifact's files."""
    inputs: Mapping[str, Artifact]
    progress: ReportProgress
    should_stop: Callable[[], bool]
    """True once a signal asked for a clean end; long loops save and raise `Incomplete`."""
    emit: Callable[..., None]

    def advance(self, done: float, total: float, note: str) -> None:
        """Report progress from work without checkpoints; raises Incomplete if asked to stop."""
        if self.should_stop():
            raise Incomplete("stopped; this stage begins again")
        self.progress(done, total, note)

    @property
    def scratch(self) -> Path:
        """Where unfinished work is kept (checkpoints, parts)."""
        return self.directory / SCRATCH

    @property
    def prepared(self) -> Path:
        """What `prepare` wrote."""
        return self.scratch / "prepared"


class Stage(ABC):
    """One step of the pipeline; a subclass says what it does, an instance with what.

    The id is a hash of name, version, config, input ids and seed. It cannot see paths, worker
    counts or numerics. `numerics` (device, dtype, threads per process, slots, part sizes) are
    recorded and must not change while the stage is unfinished.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    max_workers: int | None = None
    """At most so many processes for the parts, however many the runner has."""

    def __init__(
        self,
        config: Mapping[str, Any],
        inputs: Mapping[str, Stage],
        *,
        seed: int,
        numerics: Mapping[str, Any] | None = None,
        label: str | None = None,
    ) -> None:
        self.config = dict(config)
        self.inputs = dict(inputs)
        self.seed = seed
        self.numerics = dict(numerics or {})
        self.label = label or self.name
        self.id: str = digest(
            {
                "stage": self.name,
                "version": self.version,
                "config": self.config,
                "inputs": {name: stage.id for name, stage in self.inputs.items()},
                "seed": seed,
            }
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"inputs": {}}  # workers get the inputs' artifacts, not the graph

    def directory(self, store: Path) -> Path:
        """Where the artifact lies in an artifact store."""
        return store / self.name / self.id

    def enter(self) -> None:
        """Set up this process for the stage's numerics; called before each piece of its work."""

    def prepare(self, context: Context, directory: Path) -> None:
        """Write what all parts need (a fitted encoder, say) into `directory`; runs once."""

    def num_parts(self, context: Context) -> int:
        """How many parts the stage has, or at most has where `need` ends it earlier."""
        return 0

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """Write part `index` into `directory`; what it holds depends on `index` alone."""
        raise AssertionError(f"{self.name} has no parts")

    def need(self, context: Context, parts: Sequence[Path]) -> tuple[float, float] | None:
        """(have, need) after the prefix `parts`; the stage ends its parts once have >= need."""
        return None

    @abstractmethod
    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write the artifact's files into `context.directory`; returns the counts."""
