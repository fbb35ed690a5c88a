"""Small files of users, written for a test."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

GOOD = [{"id": f"d{i}", "text": f"text {i}"} for i in range(3)]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def write(path: Path, data: bytes) -> list[str]:
    path.write_bytes(data)
    return [str(path)]


def parquet(path: Path, columns: dict[str, Any]) -> list[str]:
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return [str(path)]
