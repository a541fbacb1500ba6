import numpy as np
import pandas as pd

from kerasrec.data.datasets import load_mooccube
from kerasrec.data.sources import read_interactions, read_items
from kerasrec.data.statistics import describe, find_problems

START = 1_400_000_000


def values(table):
    return {(row.part, row.what): row.value for row in table.itertuples()}


def test_figures_worked_by_hand():
    rows = [
        ("a", "x", 0, "view"),
        ("a", "y", 0, "view"),
        ("a", "x", 86400, "purchase"),
        ("a", "x", 86400, "view"),
        ("b", "x", 5, "view"),
        ("b", "z", 86400 * 2, "view"),
        ("c", "z", 86400 * 2, "view"),
        ("b", "y", 7, "view"),
        ("b", "q", 8, "view"),
        ("b", "y", 9, "view"),
    ]
    log = pd.DataFrame(rows, columns=["user", "item", "ts", "event"])
    interactions = read_interactions(log.assign(ts=log["ts"] + START))
    items = read_items(
        pd.DataFrame(
            {
                "item": ["x", "y", "z", "w", "v"],
                "title": ["红楼梦", "红楼梦", "ab 中", "", "西游 记"],
                "text": "t",
            }
        )
    )
    found = values(describe(interactions, items, share=0.2))
    assert found["size", "users"] == 3
    assert found["size", "items with events"] == 4
    assert found["size", "events"] == 10
    # pairs: ax ay bx bz cz by bq = 7 of 3 x 4
    assert found["size", "density"] == 7 / 12
    assert found["events per user", "min"] == 1
    assert found["events per user", "median"] == 4
    assert found["events per user", "max"] == 5
    assert found["events per user", "mean"] == 3.33
    assert found["events per item", "max"] == 4
    assert found["event types", "view"] == 9 and found["event types", "purchase"] == 1
    assert found["order", "repeated pairs of user and item"] == 3  # ax twice again, by once
    assert found["order", "share of repeated pairs"] == 0.3
    assert found["order", "events logged twice (same user, item, time)"] == 1
    assert found["order", "same-second events"] == 4  # a at 0 and at 86400
    assert found["order", "share of same-second events"] == 0.4
    assert found["time", "first event (UTC)"] == "2014-05-13 16:53:20"
    assert found["time", "days"] == 2
    # the last 20 % are the two events of z: a new item for both, c is a new user
    assert found["last 20% by time", "cold items"] == 1
    assert found["last 20% by time", "share of events of cold items"] == 1
    assert found["last 20% by time", "cold users"] == 1
    assert found["last 20% by time", "share of events of cold users"] == 0.5
    assert found["crawlers", "users above it"] == 0
    assert found["catalogue", "items"] == 5
    assert found["catalogue", "items without events"] == 2
    assert found["catalogue", "unknown items in the events"] == 1
    assert found["catalogue", "columns"] == "item_id, title, text"
    assert found["titles", "empty"] == 1
    # 3 + 3 + 1 + 0 + 3 Chinese of 3 + 3 + 3 + 0 + 3 characters without spaces
    assert np.isclose(found["titles", "share of Chinese characters"], 10 / 12)
    assert found["titles", "titles with Chinese characters"] == 4
    assert found["titles", "titles under more than one id"] == 1
    assert found["titles", "items that share their title"] == 2
    assert found["title length (characters)", "max"] == 4


def test_crawlers_are_named():
    rows = [(f"u{user}", item) for user in range(300) for item in range(3)]
    rows += [("robot", item) for item in range(500)]
    found = values(describe(read_interactions(pd.DataFrame(rows, columns=["user", "item"]))))
    assert found["crawlers", "users above it"] == 1
    assert found["crawlers", "events of user robot"] == 500
    assert np.isclose(found["crawlers", "share of their events"], 500 / 1400)
    assert found["time", "kind"] == "positions in a history, not times"


def test_values_of_ratings():
    log = pd.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [4, 5]})
    found = values(describe(read_interactions(log)))
    assert found["event types", "mean value"] == 4.5


def test_packaged_data_has_the_published_figures():
    found = values(describe(*load_mooccube()))
    assert found["size", "users"] == 2000
    assert found["size", "items with events"] == 633
    assert found["size", "events"] == 26890
    assert found["events per user", "min"] == 11
    assert found["events per user", "median"] == 13
    assert found["events per user", "p90"] == 17
    assert found["events per user", "max"] == 19
    assert round(found["events per user", "mean"], 1) == 13.4
    assert found["order", "repeated pairs of user and item"] == 0
    assert found["order", "same-second events"] == 0
    assert found["titles", "titles with Chinese characters"] == 632
    assert 0.2 <= found["size", "share of the 10 most frequent items"] < 0.21


# --- problems ---


def test_problems_are_listed_worst_first():
    log = pd.DataFrame(
        {
            "user": ["a"] * 4 + ["b"] * 4 + ["c", "d", None, None],
            "item": ["x1", "x2", "x2", "gone", "x1", "x2", "x3", "gone", "x1", "x1", "x1", "x2"],
            "ts": [START, START + 1, START + 1, *range(START + 2, START + 11)],
        }
    )
    items = pd.DataFrame({"item": ["x1", "x2", "x3", "x3"], "title": ["甲", "", "丙", "丙"]})
    found = find_problems(read_interactions(log, on_bad="skip"), read_items(items, on_bad="skip"))
    assert found == [
        "1 of 3 items (33 %) have no title",
        "catalogue: 1 of 4 rows (25 %) left out: repeated item_id (data row 4, 'x3')",
        "2 of 10 events (20 %) name 1 items that the catalogue lacks, such as 'gone'. "
        "--unknown-items skip leaves them out.",
        "2 of 12 rows (17 %) left out: empty user_id (data row 11)",
        "1 of 10 events (10 %) logged twice (same user, item, time): --repeats exact",
    ]


def test_ids_that_hardly_meet_come_first():
    log = pd.DataFrame({"user": ["a", "a", "b"], "item": ["1.0", "2.0", "1.0"]})
    items = pd.DataFrame({"item": ["1", "2"], "title": ["", ""]})
    found = find_problems(read_interactions(log), read_items(items, titles=False))
    starts = (
        "the ids of log and catalogue hardly meet: 0 of 3 events (0 %)",
        "no time column",
        "2 of 2 items (100 %) have no title",
    )
    assert [text.startswith(start) for text, start in zip(found, starts, strict=True)] == [True] * 3


def test_users_who_are_several_and_broken_titles_are_problems():
    users = ["0", "0", "138****1234", "a", "a", "b", "b", "c", "c", "c"]
    log = pd.DataFrame({"user": users, "item": list("xyxyxyxyxy"), "ts": range(START, START + 10)})
    mojibake = "活着".encode().decode("latin-1")
    items = pd.DataFrame({"item": list("xyz"), "title": ["围城", mojibake, "Crème brûlée »à la"]})
    assert find_problems(read_interactions(log), read_items(items)) == [
        f"1 of 3 items (33 %) have a title that a wrong encoding has broken, such as '{mojibake}'",
        "2 of 10 events (20 %) are of the user '0': all that nobody is known of?",
        "1 of 10 events (10 %) are of masked users such as '138****1234', who may be several "
        "people",
    ]


def test_a_log_that_teaches_nothing_is_a_problem_and_a_good_one_has_none():
    alone = pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "ts": [START, START]})
    found = find_problems(read_interactions(alone))
    assert found[0].startswith("nothing can be learned: expected at least two users")
    assert found[1] == "all events have the same time: their order is that of the file"
    assert found[2] == "2 of 2 users (100 %) have one event: nothing follows on it"
    log = pd.DataFrame({"user": list("aabb"), "item": list("xyxy"), "ts": range(START, START + 4)})
    items = pd.DataFrame({"item": ["x", "y"], "title": ["甲", "乙"]})
    assert find_problems(read_interactions(log), read_items(items)) == []
