"""kerasrec: LLM-enhanced sequential recommendation over Chinese item text for TensorFlow/Keras.

`import kerasrec` is light: the names below are loaded when they are first used.
"""

import os
from typing import TYPE_CHECKING

import lazy_loader

# Before TensorFlow is imported: bert4keras runs on Keras 2 (tf_keras) only. `backend` checks it.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_KERAS", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kerasrec.backend import SetupError as SetupError
    from kerasrec.checks import ArtifactError as ArtifactError
    from kerasrec.client import Client as Client
    from kerasrec.client import LanguageModel as LanguageModel
    from kerasrec.client import Plan as Plan
    from kerasrec.client import describe_plans as describe_plans
    from kerasrec.data import Interactions as Interactions
    from kerasrec.data import Items as Items
    from kerasrec.data import Split as Split
    from kerasrec.data import Users as Users
    from kerasrec.data import check_leakage as check_leakage
    from kerasrec.data import clean as clean
    from kerasrec.data import condense as condense
    from kerasrec.data import describe as describe
    from kerasrec.data import join_interactions as join_interactions
    from kerasrec.data import load_mooccube as load_mooccube
    from kerasrec.data import make_histories as make_histories
    from kerasrec.data import read_interactions as read_interactions
    from kerasrec.data import read_items as read_items
    from kerasrec.data import read_users as read_users
    from kerasrec.data import split_leave_one_out as split_leave_one_out
    from kerasrec.data import split_temporal as split_temporal
    from kerasrec.data import split_users as split_users
    from kerasrec.data import with_relations as with_relations
    from kerasrec.data import with_vectors as with_vectors
    from kerasrec.data import write_table as write_table
    from kerasrec.evaluation import BASELINES as BASELINES
    from kerasrec.evaluation import evaluate as evaluate
    from kerasrec.evaluation import run_baselines as run_baselines
    from kerasrec.evaluation import score_recommendations as score_recommendations
    from kerasrec.evaluation import write_report as write_report
    from kerasrec.feedback import FeedbackStore as FeedbackStore
    from kerasrec.loop import drift as drift
    from kerasrec.loop import replay as replay
    from kerasrec.loop import simulate as simulate
    from kerasrec.loop import update as update
    from kerasrec.loop import update_from_store as update_from_store
    from kerasrec.models import LOSSES as LOSSES
    from kerasrec.models import SEQUENCE_MODELS as SEQUENCE_MODELS
    from kerasrec.models import Model as Model
    from kerasrec.models import TextEncoder as TextEncoder
    from kerasrec.models import build_model as build_model
    from kerasrec.models import fit_product_codes as fit_product_codes
    from kerasrec.models import fit_semantic_ids as fit_semantic_ids
    from kerasrec.models import hold_out_last as hold_out_last
    from kerasrec.models import make_validation as make_validation
    from kerasrec.models import plot_model as plot_model
    from kerasrec.recommender import Recommender as Recommender
    from kerasrec.serving import serve as serve
    from kerasrec.text import add_lora as add_lora
    from kerasrec.text import build_encoder as build_encoder
    from kerasrec.text import fit_whitening as fit_whitening
    from kerasrec.text import set_trainable as set_trainable
    from kerasrec.training import Trainer as Trainer
    from kerasrec.training import fit_generator as fit_generator
    from kerasrec.training import train as train
    from kerasrec.versions import deploy as deploy
    from kerasrec.versions import export as export
    from kerasrec.versions import rollback as rollback
else:
    #: package that has it: public names
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "data": [
                "Interactions",
                "Items",
                "Split",
                "Users",
                "check_leakage",
                "clean",
                "condense",
                "describe",
                "join_interactions",
                "load_mooccube",
                "make_histories",
                "read_interactions",
                "read_items",
                "read_users",
                "split_leave_one_out",
                "split_temporal",
                "split_users",
                "with_relations",
                "with_vectors",
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
                "Model",
                "TextEncoder",
                "build_model",
                "fit_product_codes",
                "fit_semantic_ids",
                "hold_out_last",
                "make_validation",
                "plot_model",
            ],
            "versions": ["deploy", "export", "rollback"],
            "recommender": ["Recommender"],
            "client": ["Client", "LanguageModel", "Plan", "describe_plans"],
            "training": ["Trainer", "fit_generator", "train"],
            "serving": ["serve"],
            "loop": ["drift", "replay", "simulate", "update", "update_from_store"],
            "checks": ["ArtifactError"],
            "backend": ["SetupError"],
        },
    )
