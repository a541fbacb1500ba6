"""Lists against what came: top-k tables, metrics, baselines, the report page.

Loads without TensorFlow.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.evaluation.baselines import BASELINES as BASELINES
    from kerasrec.evaluation.evaluation import evaluate as evaluate
    from kerasrec.evaluation.evaluation import run_baselines as run_baselines
    from kerasrec.evaluation.metrics import score_recommendations as score_recommendations
    from kerasrec.evaluation.report import write_report as write_report
    from kerasrec.evaluation.toplists import recommend_top_k as recommend_top_k
    from kerasrec.evaluation.toplists import top_k as top_k
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "evaluation": ["evaluate", "run_baselines"],
            "metrics": ["score_recommendations"],
            "baselines": ["BASELINES"],
            "report": ["write_report"],
            "toplists": ["recommend_top_k", "top_k"],
        },
    )
