import pytest

from kerasrec.data.columns import (
    INTERACTION_ALIASES,
    ITEM_ALIASES,
    choose_time,
    resolve_columns,
)


def resolve(names, mapping=None, aliases=INTERACTION_ALIASES, required=("user_id", "item_id")):
    return resolve_columns(names, aliases, mapping, required=required, source="x.csv")


@pytest.mark.parametrize(
    "names",
    [
        ["user_id", "item_id", "timestamp"],
        ["user", "item", "timestamp"],
        ["UID", "IID", "TS"],
        ["userId", "movieId", "time"],
        [" User ID ", "item-id", "Date"],
        ["用户", "商品", "时间"],
        ["user_id:token", "item_id:token", "timestamp:float"],
        ["visitorid", "itemid", "datetime"],
        ["用户ID", "商品ID", "下单时间"],
        ["user_id", "item_id", "点击时间"],
        ["user_id", "item_id", "创建时间"],
        ["user_id", "item_id", "支付时间"],
        ["user_id", "item_id", "event_time"],
        ["user_id", "item_id", "createdAt"],
        ["customer_id", "article_id", "t_dat"],
    ],
)
def test_aliases_are_recognised(names):
    assert resolve(names) == dict(zip(["user_id", "item_id", "timestamp"], names, strict=True))


def test_optional_columns_are_recognised():
    names = ["user", "item", "behavior_type", "rating", "weight", "city"]
    assert resolve(names) == {
        "user_id": "user",
        "item_id": "item",
        "event": "behavior_type",
        "value": "rating",
        "weight": "weight",
    }


def test_the_order_comes_before_the_payment():
    names = ["用户", "商品", "支付时间", "下单时间", "创建时间"]
    assert resolve(names)["timestamp"] == "下单时间"


def test_what_was_taken_before_is_still_taken():
    """The names that kerasrec knew first come before those it has learned since."""
    assert resolve(["user", "item", "click_time", "date"])["timestamp"] == "date"
    assert resolve(["user", "item", "click_time", "created_at"])["timestamp"] == "created_at"


@pytest.mark.parametrize(
    ("names", "chosen", "possible"),
    [
        ({"下单时刻": True}, "下单时刻", ["下单时刻"]),
        ({"dt": True}, "dt", ["dt"]),
        ({"ds": True, "price": False}, "ds", ["ds"]),
        ({"c3": True}, "c3", ["c3"]),
        ({"c3": False}, None, ["c3"]),
        ({"watchedAt": False}, "watchedAt", ["watchedAt"]),
        ({"生日": True}, None, ["生日"]),
        ({"生日": True, "看过": True}, "看过", ["生日", "看过"]),
        ({"出发": True, "到达": True}, None, ["出发", "到达"]),
        ({"订单编号": False, "phone": False, "orderId": False}, None, []),
        ({}, None, []),
    ],
)
def test_a_time_is_chosen_by_what_it_holds(names, chosen, possible):
    assert choose_time(names) == (chosen, possible)


def test_values_within_others_are_found_by_their_last_names():
    names = ["offset", "payload.userId", "payload.itemId", "payload.score"]
    assert resolve(names) == {"user_id": "payload.userId", "item_id": "payload.itemId"}
    # a whole name comes first; two of the same last name are a question
    assert resolve(["uid", "item", "a.user"])["user_id"] == "uid"
    with pytest.raises(ValueError, match=r"one column for user_id.*a\.uid, b\.uid"):
        resolve(["a.uid", "b.uid", "item"])


def test_names_with_characters_of_no_width_are_recognised():
    assert resolve(["user\u200b", "\ufeffitem"]) == {
        "user_id": "user\u200b",
        "item_id": "\ufeffitem",
    }


def test_two_candidates_ask_for_the_mapping():
    with pytest.raises(
        ValueError, match=r"expected one column for user_id\. Received: user, uid\."
    ):
        resolve(["user", "uid", "item"])


def test_canonical_name_beats_an_alias():
    assert resolve(["uid", "user_id", "item"])["user_id"] == "user_id"


def test_general_alias_beats_a_special_one():
    names = ["item", "title", "category", "asin"]
    assert resolve(names, aliases=ITEM_ALIASES, required=("item_id",))["item_id"] == "item"


def test_mapping_decides():
    columns = resolve(
        ["user", "uid", "item", "seen_at"], {"user_id": "uid", "timestamp": "seen_at"}
    )
    assert columns == {"user_id": "uid", "item_id": "item", "timestamp": "seen_at"}


def test_mapping_to_none_leaves_a_column_out():
    assert "event" not in resolve(["user", "item", "type"], {"event": None})


def test_mapping_wins_over_another_role_of_the_same_column():
    columns = resolve(["user", "item", "time"], {"value": "time"})
    assert columns == {"user_id": "user", "item_id": "item", "value": "time"}


@pytest.mark.parametrize(
    ("names", "mapping", "part"),
    [
        (["usr", "item"], None, "(the nearest is 'usr')"),
        (["1", "242", "881250949"], None, "the first line looks like data"),
        (["user", "item"], {"user": "user"}, "Received: 'user' (did you mean 'user_id'?)"),
        (["buyer", "item"], {"user_id": "buyr"}, "Did you mean 'buyer'?"),
        (["a", "b"], {"user_id": "a", "item_id": "a"}, "'a' more than once"),
    ],
)
def test_wrong_columns_are_explained(names, mapping, part):
    with pytest.raises(ValueError) as error:
        resolve(names, mapping)
    assert part in str(error.value)
