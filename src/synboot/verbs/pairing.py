"""pair: which documents of a corpus are related."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from synboot.core.config import validate
from synboot.core.errors import BadInput
from synboot.experiment.recipe import PairsConfig
from synboot.experiment.stages.pairing import EmbedStage, NeighboursStage, PairsStage
from synboot.pairs.encoders.settings import FIT_DOCUMENTS, encoder_settings
from synboot.pairs.filters import PairFilterConfig
from synboot.verbs.inputs import Corpus, Reading, documents_stage, given_model, machine
from synboot.verbs.work import Outcome, complete, output_path, publish_parquet


def find_pairs(
    corpus: Corpus,
    output: str | Path,
    *,
    encoder: str = "lsa",
    model: str | Path | None = None,
    layer: int | None = None,
    prefix: str = "",
    dimensions: int = 256,
    fit_documents: int = FIT_DOCUMENTS,
    top_k: int = 20,
    index: str = "exact",
    min_recall: float = 0.95,
    min_similarity: float = 0.3,
    max_similarity: float = 1.0,
    max_window_overlap: float = 0.5,
    max_pairs_per_document: int = 10,
    exclude_same_group: bool = False,
    seed: int = 0,
    workers: int | None = 1,
    device: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **reading: Unpack[Reading],
) -> Outcome:
    """Find the pairs of related documents of `corpus` (paper, nearest-neighbour pairing).

    Writes the Parquet file `output`: d1, d2 (ids), similarity, verdict (keep or drop), reason,
    score; every candidate in both orders. The encoder `lm` takes `model`, a causal LM directory.
    `index="lists"` searches only near parts of the corpus, as many as find `min_recall` of the
    exact neighbours on a sample. Counts: candidates, kept, dropped by reason. Raises BadInput, and
    GateFellShort where lists miss too much.
    """
    path = output_path(output, ".parquet")
    settings = validate(
        PairsConfig,
        {
            "encoder": encoder,
            "layer": layer,
            "prefix": prefix,
            "dimensions": dimensions,
            "fit_documents": fit_documents,
            "top_k": top_k,
            "index": index,
            "min_recall": min_recall,
            "min_similarity": min_similarity,
            "max_similarity": max_similarity,
            "max_window_overlap": max_window_overlap,
            "max_pairs_per_document": max_pairs_per_document,
            "exclude_same_group": exclude_same_group,
        },
        "pair",
    )
    if (settings.encoder == "lm") != (model is not None):
        wanted = "a model directory" if model is None else "no model"
        raise BadInput(f"model: the encoder {encoder} takes {wanted}")
    with_model = given_model(model, None) if model is not None else None
    own = machine(workers=workers, device=device)
    documents = documents_stage({"train": corpus}, reading, path, seed=seed)
    embed = EmbedStage(
        encoder_settings(settings) | ({"model": with_model.content} if with_model else {}),
        {"corpus": documents},
        seed=seed,
        numerics=own.numerics.parts if encoder == "lsa" else own.numerics.embedding,
        settings=settings,
        model_directory=with_model.directory if with_model else None,
    )
    neighbours = NeighboursStage(
        settings.neighbour_settings(),
        {"embed": embed},
        seed=seed,
        numerics=own.numerics.parts,
        device=own.numerics.embedding["device"],
    )
    filters = settings.model_dump(mode="json", include=set(PairFilterConfig.model_fields))
    pairs = PairsStage(filters, {"corpus": documents, "neighbours": neighbours}, seed=seed)
    return complete(
        "pair",
        path,
        [documents, embed, neighbours, pairs],
        lambda made, stamp: publish_parquet(made[pairs.id].file("pairs.parquet"), path, stamp),
        workers=own.runtime.workers,
        overwrite=overwrite,
        quiet=quiet,
    )
