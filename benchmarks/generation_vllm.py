"""vLLM's side of `benchmarks/generation.py`, for the Python of an environment that has vLLM alone.

python generation_vllm.py MODEL CONTEXT BLOCK     # BLOCK: positions of a block, 0 for vLLM's own

A line of standard input is a turn, {"prompts": ..., "lengths": ...}; the line that answers it has
the seconds that it took and the tokens that were sampled. Standard output has nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator


def turns() -> Iterator[tuple[list[list[int]], list[int]]]:
    """Prompts and lengths, until standard input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        yield asked["prompts"], asked["lengths"]


def main(directory: str, context: int, block: int) -> None:
    """Sample what is asked, turn by turn."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # vLLM writes what it does to standard output
        from vllm import LLM, SamplingParams

        model = LLM(
            directory,
            dtype="float32",
            max_model_len=context,
            max_num_seqs=256,
            enable_prefix_caching=True,
            disable_log_stats=True,
            **({"block_size": block} if block else {}),
        )
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for number, (prompts, lengths) in enumerate(turns(), 1):
            # Another first token in every turn: prompts are new to the prefix cache.
            inputs = [{"prompt_token_ids": [number, *ids[1:]]} for ids in prompts]
            settings = [
                SamplingParams(
                    temperature=1.0, top_p=0.9, max_tokens=n, ignore_eos=True, detokenize=False
                )
                for n in lengths
            ]
            start = time.perf_counter()
            outputs = model.generate(inputs, settings, use_tqdm=False)
            seconds = time.perf_counter() - start
            tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
            print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
