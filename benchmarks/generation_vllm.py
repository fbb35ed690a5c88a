"""vLLM's side of `benchmarks/generation.py`, for the Python of an environment that has vLLM alone.

python generation_vllm.py DIRECTORY      # with model/ and asked.json; prints median seconds
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path


def main(directory: Path) -> None:
    """Sample what is asked, once more than `rounds` times."""
    from vllm import LLM, SamplingParams

    asked = json.loads((directory / "asked.json").read_text(encoding="utf-8"))
    model = LLM(
        str(directory / "model"),
        dtype="float32",
        max_model_len=asked["context"],
        max_num_seqs=256,
        enable_prefix_caching=True,
        disable_log_stats=True,
    )
    times = []
    for number in range(asked["rounds"] + 1):
        # Another first token in every round: prompts are new to the prefix cache.
        prompts = [{"prompt_token_ids": [number + 1, *ids[1:]]} for ids in asked["prompts"]]
        settings = [
            SamplingParams(temperature=1.0, top_p=0.9, max_tokens=n, ignore_eos=True, seed=None)
            for n in asked["lengths"]
        ]
        start = time.perf_counter()
        model.generate(prompts, settings, use_tqdm=False)
        times.append(time.perf_counter() - start)
    print(statistics.median(times[1:]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
