"""`ItemIndex`: the items nearest to an interest, found without looking at all of them (faiss).

For large catalogues. How many cells a search looks into is chosen when the index is built, so that
its recall against an exact search reaches a goal; the report says what was measured.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kerasrec import backend

log = logging.getLogger(__name__)
#: items that a search must find, of those an exact search finds
RECALL = 0.99
#: how deep the lists are that recall is measured on
DEPTH = 100
_QUERIES = 512  # that recall is measured on
_KEPT = 8  # indexes in a folder; those used last stay
_FORMAT = "2"  # of the files; part of their names


class ItemIndex:
    """Nearest items by cosine; item r of the vectors has item index r + 1.

    The vectors are grouped into cells around centres (k-means); a search looks into the `nprobe`
    cells whose centres are nearest. Vectors are kept as float16.

    Attributes:
        report: dict of plain data: items, dim, cells, nprobe, recall@100, queries, seconds.

    >>> index = ItemIndex.build(vectors, queries)                         # doctest: +SKIP
    >>> index.report["recall@100"]                                        # doctest: +SKIP
    0.994
    """

    def __init__(self, index: Any, report: dict[str, Any]):
        self._index, self.report = index, report

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        queries: np.ndarray | None = None,
        *,
        folder: str | Path | Literal[False] | None = None,
    ) -> "ItemIndex":
        """An index of item vectors, read from the folder where it was built before.

        Args:
            vectors: float32 `(num_items, dim)`; only their directions count.
            queries: float32 `(num_queries, dim)`, interests of users, to measure recall on; None =
                the vectors of some items.
            folder: of the files; None = the user's cache folder, False = no files.

        Raises:
            ImportError: faiss is not installed.
        """
        faiss = import_faiss()
        vectors = _unit(vectors)
        if folder is None:
            try:
                folder = backend.cache_dir() / "ann"
            except RuntimeError as error:  # no home directory
                log.warning("the index is not kept: %s", error)
                folder = False
        path = folder and Path(folder) / f"{_fingerprint(vectors)}.faiss"
        if path and (found := cls._load(path)):
            if queries is not None and found.report["queries_given"] is False:
                found.tune(vectors, queries)
            return found
        started = time.perf_counter()
        num_items, dim = vectors.shape
        cells = int(np.clip(4 * num_items**0.5, 1, max(num_items // 39, 1)))
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, cells, faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT, False,
        )  # fmt: skip
        index.cp.seed, index.cp.niter = 1, 10
        rng = np.random.default_rng(0)
        chosen = rng.permutation(num_items)[: 64 * cells]
        index.train(vectors[chosen])
        index.add(vectors)
        report = {
            "items": num_items,
            "dim": dim,
            "cells": cells,
            "build_s": round(time.perf_counter() - started, 1),
        }
        found = cls(index, report)
        found.tune(vectors, queries)
        if path:
            try:
                found._save(path)
            except (OSError, RuntimeError) as error:  # it cannot be written, also in faiss' words
                log.warning("the index is not kept: %s", error)
        return found

    def tune(
        self,
        vectors: np.ndarray,
        queries: np.ndarray | None = None,
        *,
        recall: float = RECALL,
    ) -> float:
        """Chooses the smallest `nprobe` (a power of 2) with which recall@100 reaches a goal.

        Args:
            vectors: the item vectors of the index, `(num_items, dim)`.
            queries: interests of users; None = the vectors of some items.
            recall: share of the 100 nearest that must be found, on average over the queries.

        Returns:
            The recall, which `report` says too.
        """
        vectors = _unit(vectors)
        rng = np.random.default_rng(0)
        given = queries is not None
        pool = _unit(queries) if given else vectors
        queries = pool[rng.permutation(len(pool))[:_QUERIES]]
        exact = np.concatenate(
            [_nearest(part @ vectors.T, DEPTH) for part in np.array_split(queries, 8) if len(part)]
        )
        cells, found = self._index.nlist, 0.0
        for nprobe in [*(2 ** np.arange(2, 20)), cells]:
            self._index.nprobe = int(min(nprobe, cells))
            index, _ = self.search(queries, DEPTH)
            hits = [np.isin(a, b).mean() for a, b in zip(exact + 1, index, strict=True)]
            found = float(np.mean(hits)) if hits else 1.0
            if found >= recall or nprobe >= cells:
                break
        self.report.update(
            {
                "nprobe": self._index.nprobe,
                f"recall@{DEPTH}": round(found, 4),
                "queries": len(queries),
                "queries_given": given,
            }
        )
        return found

    def __len__(self):
        return self._index.ntotal

    def search(
        self, interests: np.ndarray, k: int, *, among: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest items.

        Args:
            interests: float32 `(batch, dim)`.
            k: how many.
            among: what `selector` gives; None = all items.

        Returns:
            int32 item index and float32 cosine, `(batch, k)`, nearest first; index 0 and -inf where
            the cells looked into hold fewer.
        """
        queries = _unit(interests)
        params = None
        if among is not None:
            faiss = import_faiss()
            params = faiss.SearchParametersIVF(sel=among, nprobe=self._index.nprobe)
        cosine, row = self._index.search(queries, int(k), params=params)
        return (row + 1).astype(np.int32), np.where(row < 0, -np.inf, cosine).astype(np.float32)

    def selector(self, chosen: np.ndarray) -> Any:
        """For `search`: the items that are True in `chosen`, bool `(num_items,)`."""
        bits = np.packbits(np.asarray(chosen, bool), bitorder="little")
        return import_faiss().IDSelectorBitmap(bits)

    def add(self, vectors: np.ndarray) -> None:
        """Takes in the vectors of new items, behind the others; the cells stay as they are."""
        self._index.add(_unit(vectors))
        self.report["items"] = self._index.ntotal

    def _save(self, path):
        """Write index and report; another process never sees half of them.

        Indexes that were not used for longest go, so that the folder does not grow for ever.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with backend.whole_file(path) as beside:
            import_faiss().write_index(self._index, str(beside))
            # the report is in its place first: an index without one counts as none
            with backend.whole_file(path.with_suffix(".json")) as report:
                report.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
        with contextlib.suppress(OSError):  # another process does the same
            used = sorted(path.parent.glob("*.faiss"), key=lambda file: file.stat().st_mtime)
            for old in used[:-_KEPT]:
                old.unlink(missing_ok=True)
                old.with_suffix(".json").unlink(missing_ok=True)

    @classmethod
    def _load(cls, path):
        """What `_save` wrote, or None where nothing usable is."""
        if not path.is_file():
            return None
        try:
            report = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            index = import_faiss().read_index(str(path))
            if index.ntotal != report["items"]:
                return None
            index.nprobe = report["nprobe"]
            with contextlib.suppress(OSError):  # a folder that is only read
                os.utime(path)  # see `_KEPT`
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            log.warning("%s is damaged and built again (%s)", path, str(error).split("\n")[0])
            return None
        return cls(index, report)


def import_faiss() -> Any:
    """The module faiss.

    Raises:
        ImportError: it is not installed.
    """
    if not backend.is_installed("faiss"):
        raise ImportError(
            "An index of the nearest items needs faiss, which is missing. Run: "
            "pip install 'kerasrec[ann]', or load with index=\"exact\"."
        )
    import faiss

    return faiss


def _unit(vectors):
    vectors = np.ascontiguousarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _nearest(scores, k):
    k = min(k, scores.shape[1])
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]


def _fingerprint(vectors):
    """Name of the files of an index: its vectors and how they are indexed."""
    digest = hashlib.blake2b(_FORMAT.encode(), digest_size=16)
    digest.update(str(vectors.shape).encode())
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()
