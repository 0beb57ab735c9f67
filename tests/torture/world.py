"""What a schedule acts on: a directory with images, results and a model, and what was seen of the results so far.

Belongs here: making and changing images, and reading back past the library's caches. No expectation.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clusterpaths.datasets.drawn_faces.draw import write_faces
from tests.runs import DOCUMENTS, SAMPLE_MODEL
from tests.storage import BUCKET
from tests.torture.bucket import Buckets

POOL = 64  # drawn images, of which BEGIN are there at first
BEGIN = 40
LAYERS = "fc1,fc2"
# In set.json: when and where, not what.
OF_A_RUN = ("created", "stages", "config", "set", "data_root", "dataset_fingerprint")


@dataclass
class Seen:
    """What is known of the results.

    Attributes:
        sets: name -> fingerprint and digests of its documents.
        ids: id -> digest of the image's bytes, as the registry had it.
    """

    sets: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    ids: dict[int, int] = field(default_factory=dict)


class World:
    """Images, a cache root and the pool of images, in a directory of its own.

    Args:
        root: of this schedule; made.
        pool: of `draw_pool`.
        cache_format: of the results.
        buckets: where the results are, for object storage; then `results` is a copy, see `look`.
    """

    def __init__(self, root: Path, pool: Path, cache_format: str, buckets: Buckets | None = None) -> None:
        self.root, self.cache_format = root, "zarr" if buckets else cache_format
        self.images, self.results, self.pool = root / "images", root / "cache", pool
        self.buckets, self._prefix = buckets, f"{root.parent.name}/"
        self.seen = Seen()
        self.corrupted = False  # whether files of the cache are corrupted, and no run has repaired them
        self.refreshed = False
        self.images.mkdir(parents=True)
        self.results.mkdir()
        for file in self._drawn()[:BEGIN]:
            shutil.copy(file, self.images / file.name)

    @property
    def cache(self) -> Path:
        return self.results / "T"

    @property
    def address(self) -> str:
        """The cache root, as commands are given it."""
        return f"s3://{BUCKET}/{self._prefix.rstrip('/')}" if self.buckets else str(self.results)

    @property
    def environment(self) -> dict[str, str]:
        """Of commands: faults of the disk, which act below cache/, act on the mirror of a bucket."""
        mirror = {"CLUSTERPATHS_MIRROR": str(self.root / "mirror" / "cache")}
        return self.buckets.environment | mirror if self.buckets else {}

    def look(self) -> None:
        """Bring the copy of a bucket up to date."""
        if self.buckets:
            self.buckets.copy(self._prefix, self.results)

    def put_back(self, file: Path) -> None:
        """Bring a bucket up to date with a file of the copy that was changed or removed."""
        if self.buckets:
            content = file.read_bytes() if file.exists() else None
            self.buckets.write(self._prefix + str(file.relative_to(self.results)), content)

    def _drawn(self) -> list[Path]:
        return sorted(self.pool.iterdir())

    def run_words(self, options: dict[str, Any], results: Path | None = None) -> tuple[str, ...]:
        """The words of `clusterpaths run` with these options."""
        words = [
            "run", str(SAMPLE_MODEL), str(self.images), "--cache-root", str(results or self.address), "--name", "T",
            "--cache-format", self.cache_format, "--layers", LAYERS, "--shard-size", "8", "--batch-size", "4",
            "--preprocessing", "unit",
        ]  # fmt: skip
        given = {"evaluate": False, "check_preprocessing": False, "workers": 2} | options
        for name, value in given.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words += [f"--{flag}"] if value else ([] if name in ("refresh", "compare") else [f"--no-{flag}"])
            else:
                words += [f"--{flag}", str(value)]
        return tuple(words)

    def change_images(self, how: str, seed: int) -> None:
        """Add, delete, replace, rename or touch some images."""
        draw = random.Random(seed)
        there = sorted(self.images.iterdir())
        absent = [file for file in self._drawn() if not (self.images / file.name).exists()]
        some = draw.sample(there, min(draw.randint(1, 4), max(len(there) - 24, 0)))
        if how == "add":
            for file in draw.sample(absent, min(len(absent), draw.randint(1, 6))):
                shutil.copy(file, self.images / file.name)
        elif how == "delete":
            for file in some:
                file.unlink()
        elif how == "replace":
            for file in some:
                shutil.copy(draw.choice(self._drawn()), file)
                os.utime(file, (draw.randint(1, 10**9),) * 2)
        elif how == "rename":
            for file in some:
                file.rename(file.with_name(f"r{draw.randint(0, 10**6)}.jpg"))
        elif how == "touch":
            for file in some:
                os.utime(file, (draw.randint(1, 10**9),) * 2)

    def corrupt(self, where: str, how: str, seed: int) -> Path | None:
        """Change a file of the cache ("cache") or of a published set ("set"); the file, None where there is none."""
        draw = random.Random(seed)
        of_set = [p for p in self.cache.glob("set_*/*") if p.is_file()]
        every = [p for p in self.cache.rglob("*") if p.is_file() and p.stat().st_size and not p.name.startswith(".")]
        files = sorted(of_set if where == "set" else set(every) - set(of_set))
        if not files:
            return None
        kinds = sorted({_kind(file, self.cache) for file in files})  # or the many activations would take all
        kind = draw.choice(kinds)
        file = draw.choice([file for file in files if _kind(file, self.cache) == kind])
        corrupt_file(file, how, draw)
        self.put_back(file)
        if where == "cache":
            self.corrupted = True
        return file

    def sets(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Name -> fingerprint and digests of each set's documents, as they lie there."""
        folders = sorted(self.cache.glob("set_*"))
        if self.buckets:  # where a set is complete with its last document
            folders = [folder for folder in folders if (folder / "set.json").exists()]
        return {folder.name: read_set(folder) for folder in folders if folder.is_dir()}

    def registered(self) -> dict[int, int]:
        """Id -> digest of what the registry knows."""
        path = self.cache / "registry.parquet"
        if not path.exists():
            return {}
        table: pa.Table = pq.read_table(path, columns=["id", "digest"])
        rows = zip(table["id"].to_pylist(), table["digest"].to_pylist(), strict=True)
        return {i: digest for i, digest in rows if digest is not None}


def draw_pool(folder: Path) -> Path:
    """The directory of all images that schedules use."""
    if not folder.exists():
        drawn = write_faces(folder.with_name("drawing"), POOL, seed=7) / "img_align_celeba"
        shutil.copytree(drawn, folder)
    return folder


def read_set(folder: Path) -> tuple[str, dict[str, str]]:
    """Fingerprint, and digest of each document; of set.json the values, without what a run says of itself."""
    record = json.loads((folder / "set.json").read_text())
    documents = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in DOCUMENTS}
    documents |= {f"set.json {name}": json.dumps(value) for name, value in record.items() if name not in OF_A_RUN}
    return record["fingerprint"], documents


def corrupt_file(file: Path, how: str, draw: random.Random) -> None:
    """flip: one bit; truncate, empty; zeros: a block of them, as after a power cut; remove."""
    content = bytearray(file.read_bytes())
    if how == "flip" and content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif how == "truncate":
        content = content[: draw.randrange(len(content) or 1)]
    elif how == "empty":
        content = bytearray()
    elif how == "zeros":
        at = draw.randrange(len(content) or 1)
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    if how == "remove":
        file.unlink()
    else:
        file.write_bytes(content)


def _kind(file: Path, cache: Path) -> str:
    inside = file.relative_to(cache)
    return inside.parts[0] if len(inside.parts) > 1 and not inside.parts[0].startswith("set_") else inside.name
