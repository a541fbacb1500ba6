"""`VersionTexts`: what a loaded version makes of texts and ready vectors it has never seen."""

import numpy as np

from kerasrec.backend import tf
from kerasrec.evaluation.toplists import top_k
from kerasrec.versions import folders, itemmatrix

_AT_ONCE = 64  # texts encoded in one call
_CELLS = 2**26  # cosines held at once


class VersionTexts:
    """Item vectors of new texts, and the items whose texts are nearest.

    Args:
        module: the loaded version.
        manifest: `Manifest`, what it says of itself.
        version: its folder.
    """

    def __init__(self, module, manifest, version):
        self._module, self._manifest, self._version = module, manifest, version
        self._encoder = None  # read when it is first needed

    @property
    def are_vectors(self):
        """Whether the version was trained on ready vectors instead of texts."""
        return self._manifest.encoder is not None and self._manifest.encoder.kind == "vectors"

    def encode(self, texts):
        """See `Recommender.encode`."""
        if not self._manifest.encodes_texts:
            raise ValueError(
                "This version cannot encode texts: its items were known by "
                f"{'ready vectors' if self.are_vectors else 'their id alone'}. Train with "
                "--encoder e5-small, tfidf or a checkpoint folder (and model.text_units above 0)."
            )
        from kerasrec.text.encoders import check_texts, load_text_encoder

        texts = check_texts(texts)
        if hasattr(self._module, "encode_items"):
            given = [text.encode("utf-8", "surrogatepass") for text in texts]
            return self._module.encode_items(tf.constant(given, tf.string))["vectors"].numpy()
        # tfidf; or a version from before there were tokenizers in the graph
        if self._encoder is None:
            self._encoder = load_text_encoder(self._version / folders.ENCODER)
        vectors = np.zeros((len(texts), self._module.item_vectors.shape[1]), np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            if self._encoder.kind == "bert":
                tokens, segments = self._encoder.tokenizer.encode_batch(part)
                found = self._module.encode_tokens(tf.constant(tokens), tf.constant(segments))
            else:
                found = self._module.place_text(tf.constant(self._encoder.encode(part)))
            vectors[start : start + _AT_ONCE] = found.numpy()
        vectors[[not text.strip() for text in texts]] = 0
        return vectors

    def place(self, vectors, num_items):
        """Item vectors of new ready vectors, float32 `(num_items, dim)`.

        Raises:
            ValueError: no vectors, another shape, or a version without a text part.
        """
        expected = (num_items, self._manifest.encoder.dim)
        shape = None if vectors is None else np.shape(vectors)
        if shape != expected or not np.isfinite(vectors).all():
            raise ValueError(
                f"This version was trained on ready vectors: add_items needs vectors of shape "
                f"{expected}, all finite, from the same model. Received: "
                f"{'none' if shape is None else f'shape {shape}'}."
            )
        if not hasattr(self._module, "place_text"):
            raise ValueError("This version has no text part (text_units=0) to place vectors in.")
        return self._module.place_text(tf.constant(vectors, tf.float32)).numpy()

    def near(self, texts, k):
        """The items whose text parts are nearest; what users did with them has no say here.

        Args:
            texts: list of str, none of them blank.
            k: list length.

        Returns:
            Item index int32 and cosine float32, `(num_texts, min(k, num_items))`; index 0 = none.
        """
        given = self.encode(texts)
        if not all(text.strip() for text in texts):
            raise ValueError("similar needs a text with words in it. Received: an empty one.")
        queries, items = (
            self._text_parts(v) for v in (given, itemmatrix.read_vectors(self._module))
        )
        at_once = max(_CELLS // len(items), 1)
        parts = np.split(queries, range(at_once, len(queries), at_once))
        found = [top_k(part @ items.T, k) for part in parts]
        index, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return np.where(queries.any(axis=1)[:, None], index, 0).astype(np.int32), scores

    def _text_parts(self, vectors):
        """Text parts of item vectors, `(n, width)`, of unit length or zero."""
        options = self._manifest.options
        members = options.get("members", 1)  # the text part comes first in the vector of each
        parts = vectors.reshape(len(vectors), members, vectors.shape[1] // members)
        parts = parts[:, :, : options["text_units"]]
        parts = parts / np.maximum(np.linalg.norm(parts, axis=2, keepdims=True), 1e-9)
        return np.concatenate(list(parts.transpose(1, 0, 2)), axis=1) / members**0.5
