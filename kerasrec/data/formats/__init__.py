"""The forms in which tables come: each module opens one of them as a `Table` of `data.tables`."""
