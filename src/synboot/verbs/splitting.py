"""split: a corpus in train, valid and test files that share nothing they should not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Unpack

from synboot.core.config import validate
from synboot.core.storage import write_json
from synboot.data.documents import Documents
from synboot.data.files import SPLITS, corpus_bytes_digest
from synboot.data.write import write_documents
from synboot.experiment.recipe import CorpusConfig
from synboot.experiment.stages.corpus import CorpusStage
from synboot.pipeline.stage import Artifact
from synboot.verbs.inputs import Corpus, Reading, local_paths
from synboot.verbs.work import Outcome, complete, output_path, publish_directory


def split_corpus(
    corpus: Corpus,
    output: str | Path,
    *,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
    max_heldout_overlap: float = 0.2,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
    **reading: Unpack[Reading],
) -> Outcome:
    """Split `corpus` by a hash of group or id, whole groups together, as a run does.

    Exact duplicates stay once, and training documents with a larger share of their 13-word
    windows in held-out text than `max_heldout_overlap` go. Writes the directory `output`:
    train.parquet, valid.parquet, test.parquet, and decontaminated.json with a sample of what went.
    Counts: documents, bytes, exact_duplicates, near_heldout, bad. Raises BadInput.
    """
    path = output_path(output)
    paths = local_paths(corpus, path)
    settings = validate(
        CorpusConfig,
        {
            "path": paths,
            "valid_fraction": valid_fraction,
            "test_fraction": test_fraction,
            "max_heldout_overlap": max_heldout_overlap,
            **reading,
        },
        "split",
    )
    config = {"content": corpus_bytes_digest(paths), **settings.reading()}
    stage = CorpusStage(config, seed=seed, paths=paths)

    def publish(made: Artifact, directory: Path) -> None:
        for split in SPLITS:
            documents = Documents(made.file(f"{split}.arrow"))
            each = (documents[i] for i in range(len(documents)))
            write_documents(directory / f"{split}.parquet", each)
        removed = made.file("decontaminated.jsonl").read_text(encoding="utf-8").splitlines()
        write_json(directory / "decontaminated.json", [json.loads(line) for line in removed])

    return complete(
        "split",
        path,
        [stage],
        lambda made, stamp: publish_directory(
            path, stamp, lambda directory: publish(made[stage.id], directory)
        ),
        workers=1,
        overwrite=overwrite,
        quiet=quiet,
    )
