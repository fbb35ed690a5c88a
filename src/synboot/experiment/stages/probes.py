"""probes: questions about the facts that a run's training text states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from synboot.core.storage import atomic_file
from synboot.experiment.stages.corpus import oracle_documents, training_documents, unique_documents
from synboot.experiment.stages.process import ranges
from synboot.pipeline.stage import Context, Counts, Stage
from synboot.worlds.facts.probes import StatedFacts

PROBES = ("stated", "rephrased", "unstated")
"""Files of choices, NAME.jsonl: facts of the unique budget in words that state them there and in
words that do not, and facts that only the oracle's text states."""

MAX_PROBES = 1000
"""Items of a file: their share of right answers is known to 3 percentage points."""

_BATCH_DOCUMENTS = 1024


class ProbesStage(Stage):
    """Attribute probes for a run on the facts world, from its training text alone.

    Config: `oracle_multiple` (as in a recipe's budget) and `max_items` of a file.
    """

    name = "probes"
    version = 1

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write stated.jsonl, rephrased.jsonl and unstated.jsonl."""
        unique = len(unique_documents(context.inputs))
        oracle = oracle_documents(context.inputs["tokens"], self.config["oracle_multiple"])
        known = StatedFacts(_texts(context, unique))
        all_facts = StatedFacts(_texts(context, max(unique, oracle)))
        options = {"seed": self.seed, "max_items": self.config["max_items"]}
        items = known.probes(**options)
        items["unstated"] = all_facts.probes_beyond(known, **options)
        for name in PROBES:
            with atomic_file(context.directory / f"{name}.jsonl") as file:
                for item in items[name]:
                    file.write(json.dumps(item, ensure_ascii=False).encode() + b"\n")
        return {"items": {name: len(items[name]) for name in PROBES}, "flops": 0}


def _texts(context: Context, count: int) -> Iterator[str]:
    """The first training documents, the unique budget first."""
    documents = training_documents(context.inputs)
    for start, stop in ranges(count, _BATCH_DOCUMENTS):
        context.advance(start, count, "reading")
        yield from documents.texts(start, stop)
