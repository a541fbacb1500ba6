"""What the catalogue and the users know: columns as features and as values for conditions.

Says how a column of a table is read (category, list of categories, number, time), and makes numbers
and categories of its texts. Loads without TensorFlow.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasrec.features.columntypes import Column as Column
    from kerasrec.features.columntypes import choose_columns as choose_columns
    from kerasrec.features.columntypes import propose as propose
    from kerasrec.features.columntypes import read_column as read_column
    from kerasrec.features.conditions import read_where as read_where
    from kerasrec.features.itemcolumns import ItemColumns as ItemColumns
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "columntypes": ["Column", "choose_columns", "propose", "read_column"],
            "conditions": ["read_where"],
            "itemcolumns": ["ItemColumns"],
        },
    )
