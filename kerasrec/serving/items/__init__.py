"""The items of served versions: conditions on columns, and values that change by the minute."""
