import pandas as pd

from kerasrec.feedback.stats import _rates


def test_rates_by_some_of_the_keys():
    shown = pd.DataFrame(
        {
            "model": ["a", "a", None],
            "version": [1, 1, None],
            "position": [1, 2, None],
            "impressions": [4, 4, 2],
            "clicked": [3, 1, 0],
        }
    )
    found = _rates(shown, ["model", "version"])
    assert found["impressions"].tolist() == [8, 2] and found["rate"].tolist() == [0.5, 0.0]
    assert found["version"].tolist() == [1, pd.NA]
    assert _rates(shown, ["position"])["rate"].tolist() == [0.75, 0.25, 0.0]
