"""Tables in, checked; histories out.

Reads interactions and items from files or frames, cleans and splits them, describes them, and turns
them into `Histories`, the integer form that everything else works on. Loads without TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "interactions": [
            "Interactions",
            "Items",
            "Split",
            "join_interactions",
            "read_interactions",
            "read_items",
            "read_user_ids",
            "write_table",
        ],
        "cleaning": ["clean"],
        "splits": ["check_leakage", "split_leave_one_out", "split_temporal", "split_users"],
        "statistics": ["describe"],
        "histories": ["Histories", "make_histories"],
        "datasets": ["load_mooccube"],
        "events": ["EVENT_WEIGHTS"],
    },
)
