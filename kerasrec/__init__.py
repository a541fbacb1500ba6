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
    "Interactions": "data.interactions",
    "Items": "data.interactions",
    "Split": "data.interactions",
    "read_interactions": "data.interactions",
    "read_items": "data.interactions",
    "join_interactions": "data.interactions",
    "write_table": "data.interactions",
    "clean": "data.cleaning",
    "describe": "data.statistics",
    "split_leave_one_out": "data.splits",
    "split_temporal": "data.splits",
    "split_users": "data.splits",
    "check_leakage": "data.splits",
    "load_mooccube": "data.datasets",
    "build_encoder": "text.encoders",
    "fit_whitening": "text.vectors",
    "set_trainable": "text.textmodel",
    "add_lora": "text.textmodel",
    "make_histories": "data.histories",
    "fit_semantic_ids": "models.codes",
    "fit_product_codes": "models.codes",
    "fit_generator": "training.generating",
    "LOSSES": "models.losses",
    "SEQUENCE_MODELS": "models.sequencemodels",
    "TextEncoder": "models.build",
    "build_model": "models.build",
    "Trainer": "training.trainer",
    "hold_out_last": "models.validation",
    "make_validation": "models.validation",
    "train": "training.pipeline",
    "export": "versions.exporter",
    "Recommender": "recommender.recommender",
    "Client": "client.client",
    "FeedbackStore": "feedback.store",
    "update": "loop.updating",
    "update_from_store": "loop.updating",
    "rollback": "versions.folders",
    "drift": "loop.drifting",
    "simulate": "loop.simulation",
    "deploy": "versions.deployment",
    "serve": "serving.server",
    "score_recommendations": "evaluation.metrics",
    "BASELINES": "evaluation.baselines",
    "run_baselines": "evaluation.evaluation",
    "evaluate": "evaluation.evaluation",
    "write_report": "evaluation.report",
    "Plan": "client.planwords",
    "LanguageModel": "client.planwords",
    "describe_plans": "client.planwords",
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
