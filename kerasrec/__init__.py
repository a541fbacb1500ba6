"""kerasrec: LLM-enhanced sequential recommendation over Chinese item text for TensorFlow/Keras.

`import kerasrec` is light: the names below are loaded when they are first used.
"""

import importlib
import os

# Before TensorFlow is imported: bert4keras runs on Keras 2 (tf_keras) only. `backend` checks it.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_KERAS", "1")

__version__ = "0.1.0"

#: public name -> module that defines it
_PUBLIC = {
    "Interactions": "data",
    "Items": "data",
    "Split": "data",
    "read_interactions": "data",
    "read_items": "data",
    "join_interactions": "data",
    "write_table": "data",
    "clean": "cleaning",
    "describe": "datastats",
    "split_leave_one_out": "splits",
    "split_temporal": "splits",
    "split_users": "splits",
    "check_leakage": "splits",
    "load_mooccube": "datasets",
    "build_encoder": "encoder",
    "fit_whitening": "textvectors",
    "set_trainable": "textmodel",
    "add_lora": "textmodel",
    "make_histories": "sequences",
    "fit_semantic_ids": "codes",
    "fit_product_codes": "codes",
    "fit_generator": "generating",
    "LOSSES": "losses",
    "SEQUENCE_MODELS": "sequencemodels",
    "TextEncoder": "models",
    "build_model": "models",
    "Trainer": "trainer",
    "hold_out_last": "validation",
    "make_validation": "validation",
    "train": "pipeline",
    "export": "exporter",
    "Recommender": "recommender",
    "Client": "servingclient",
    "FeedbackStore": "feedback",
    "update": "updating",
    "update_from_store": "updating",
    "rollback": "artifacts",
    "drift": "drifting",
    "simulate": "simulation",
    "deploy": "deployment",
    "serve": "serving",
    "score_recommendations": "metrics",
    "BASELINES": "baselines",
    "run_baselines": "evaluation",
    "evaluate": "evaluation",
    "write_report": "report",
    "Plan": "describing",
    "LanguageModel": "describing",
    "describe_plans": "describing",
    "ArtifactError": "checks",
    "SetupError": "backend",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kerasrec' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kerasrec.{_PUBLIC[name]}"), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])
