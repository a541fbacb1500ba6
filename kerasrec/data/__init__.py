"""Tables in, checked; histories out.

Reads interactions and items from files or frames, cleans and splits them, describes them, and turns
them into `Histories`, the integer form that everything else works on. Loads without TensorFlow.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.data.cleaning import clean as clean
    from kerasrec.data.datasets import load_mooccube as load_mooccube
    from kerasrec.data.events import EVENT_WEIGHTS as EVENT_WEIGHTS
    from kerasrec.data.histories import Histories as Histories
    from kerasrec.data.histories import make_histories as make_histories
    from kerasrec.data.interactions import Interactions as Interactions
    from kerasrec.data.interactions import Items as Items
    from kerasrec.data.interactions import Split as Split
    from kerasrec.data.interactions import Users as Users
    from kerasrec.data.interactions import join_interactions as join_interactions
    from kerasrec.data.large.condensing import condense as condense
    from kerasrec.data.sources import read_interactions as read_interactions
    from kerasrec.data.sources import read_items as read_items
    from kerasrec.data.sources import read_user_ids as read_user_ids
    from kerasrec.data.sources import read_users as read_users
    from kerasrec.data.sources import with_relations as with_relations
    from kerasrec.data.sources import with_vectors as with_vectors
    from kerasrec.data.splits import check_leakage as check_leakage
    from kerasrec.data.splits import split_leave_one_out as split_leave_one_out
    from kerasrec.data.splits import split_temporal as split_temporal
    from kerasrec.data.splits import split_users as split_users
    from kerasrec.data.statistics import describe as describe
    from kerasrec.data.tables import write_table as write_table
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "interactions": ["Interactions", "Items", "Split", "Users", "join_interactions"],
            "sources": [
                "read_interactions",
                "read_items",
                "read_user_ids",
                "read_users",
                "with_relations",
                "with_vectors",
            ],
            "tables": ["write_table"],
            "cleaning": ["clean"],
            "large.condensing": ["condense"],
            "splits": ["check_leakage", "split_leave_one_out", "split_temporal", "split_users"],
            "statistics": ["describe"],
            "histories": ["Histories", "make_histories"],
            "datasets": ["load_mooccube"],
            "events": ["EVENT_WEIGHTS"],
        },
    )
