"""kerasrec: LLM-enhanced sequential recommendation over Chinese item text for TensorFlow/Keras.

`import kerasrec` is light: the names below are loaded when they are first used.
"""

import os

import lazy_loader

# Before TensorFlow is imported: bert4keras runs on Keras 2 (tf_keras) only. `backend` checks it.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_KERAS", "1")

__version__ = "0.1.0"

#: package that has it: public names
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data": [
            "Interactions",
            "Items",
            "Split",
            "check_leakage",
            "clean",
            "describe",
            "join_interactions",
            "load_mooccube",
            "make_histories",
            "read_interactions",
            "read_items",
            "split_leave_one_out",
            "split_temporal",
            "split_users",
            "write_table",
        ],
        "text": ["add_lora", "build_encoder", "fit_whitening", "set_trainable"],
        "evaluation": [
            "BASELINES",
            "evaluate",
            "run_baselines",
            "score_recommendations",
            "write_report",
        ],
        "feedback": ["FeedbackStore"],
        "models": [
            "LOSSES",
            "SEQUENCE_MODELS",
            "TextEncoder",
            "build_model",
            "fit_product_codes",
            "fit_semantic_ids",
            "hold_out_last",
            "make_validation",
        ],
        "versions": ["deploy", "export", "rollback"],
        "recommender": ["Recommender"],
        "client": ["Client", "LanguageModel", "Plan", "describe_plans"],
        "training": ["Trainer", "fit_generator", "train"],
        "serving": ["serve"],
        "loop": ["drift", "simulate", "update", "update_from_store"],
        "checks": ["ArtifactError"],
        "backend": ["SetupError"],
    },
)
