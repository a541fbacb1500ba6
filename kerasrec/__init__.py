"""kerasrec: LLM-enhanced sequential recommendation over Chinese item text for TensorFlow/Keras."""

import os

# Before TensorFlow is imported: bert4keras runs on Keras 2 (tf_keras) only. `backend` checks the result.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_KERAS", "1")

__version__ = "0.1.0"
