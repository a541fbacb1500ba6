"""Lists against what came: top-k tables, metrics, baselines, the report page.

Loads without TensorFlow.
"""

import lazy_loader

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
