"""Finds which column of a table plays which role: by canonical name, usual alias or mapping."""

import difflib
import re
from collections.abc import Mapping, Sequence

# For every role, groups of names from the most to the least telling. The canonical name comes
# first and beats all others; names of one group that occur together are a question for the user.
INTERACTION_ALIASES = {
    "user_id": [
        "user_id",
        "user uid userid 用户 用户id 用户编号 用户_id",
        "reviewer_id reviewerid customer_id customerid member_id visitor_id visitorid session_id "
        "sessionid buyer_id account_id",
    ],
    "item_id": [
        "item_id",
        "item iid itemid 物品 物品id 物品编号 商品 商品id 商品编号",
        "movie_id movieid product_id productid news_id newsid book_id bookid course_id courseid "
        "video_id videoid article_id articleid goods_id goodsid song_id songid asin parent_asin "
        "sku "
        "sku_id isbn",
    ],
    "timestamp": [
        "timestamp",
        "ts time datetime date unix_time unixtime event_time eventtime 时间 时间戳 日期",
        "created_at createtime create_time unixreviewtime review_time",
    ],
    "event": [
        "event",
        "event_type eventtype behavior behaviour behavior_type behaviour_type action action_type "
        "行为 行为类型 事件",
        "type",
    ],
    "value": ["value", "rating score stars overall 评分 打分"],
    "weight": ["weight", "权重"],
}
ITEM_ALIASES = {
    "item_id": [*INTERACTION_ALIASES["item_id"], "id 编号"],
    "title": [
        "title",
        "name 标题 名称 题名 item_title item_name itemname product_title product_name movie_title",
    ],
    "text": ["text"],
    "category": ["category"],
}


def normalise(name: object) -> str:
    """Normalises a column name: lower case, `_` for spaces and hyphens, no RecBole `:type` suffix.

    >>> normalise(" User-ID "), normalise("item_id:token")
    ('user_id', 'item_id')
    """
    name = str(name).strip().lstrip("\ufeff").lower()
    name = re.sub(r":(token|token_seq|float|float_seq)$", "", name)
    return re.sub(r"[\s\-]+", "_", name)


def resolve_columns(
    found: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    mapping: Mapping[str, str | None] | None = None,
    *,
    required: Sequence[str],
    source: str,
) -> dict[str, str]:
    """Finds which column plays which role.

    Args:
        found: column names of the table, in order.
        aliases: role -> groups of normalised names (`INTERACTION_ALIASES`, `ITEM_ALIASES`).
        mapping: role -> column name, from the user; None leaves the role out.
        required: the roles that must be there.
        source: name of the table for error messages.

    Returns:
        dict, role -> column name as it stands in `found`, in the order of `aliases`.

    >>> names = ["uid", "movieId", "ts"]
    >>> resolve_columns(names, INTERACTION_ALIASES, required=["item_id"], source="x.csv")
    {'user_id': 'uid', 'item_id': 'movieId', 'timestamp': 'ts'}
    """
    mapping = dict(mapping or {})
    _check_mapping(mapping, found, aliases, source)
    taken = set(mapping.values())
    columns: dict[str, str] = {}
    for role, groups in aliases.items():
        if role in mapping:
            name = mapping[role]
            if name is not None:
                columns[role] = name
            continue
        free = [name for name in found if name not in taken]
        candidates = _candidates(free, groups, role)
        if len(candidates) > 1:
            raise ValueError(
                f"{source}: expected one column for {role}. Received: {_list(candidates)}. "
                f"Say which one with columns={{'{role}': '{candidates[0]}'}} "
                f"(--columns {role}={candidates[0]})."
            )
        if candidates:
            columns[role] = candidates[0]
    free = [name for name in found if name not in columns.values()]
    for role in required:
        if role not in columns:
            raise ValueError(_missing_message(role, found, free, aliases[role], source))
    return columns


def _candidates(found, groups, role):
    """The columns of the first group that has any; the canonical name stands for itself alone."""
    for group in groups:
        names = group.split()
        hits = list(dict.fromkeys(name for name in found if normalise(name) in names))
        if hits:
            return [role] if role in hits else hits
    return []


def _check_mapping(mapping, found, aliases, source):
    given = [name for name in mapping.values() if name is not None]
    for role, name in mapping.items():
        if given.count(name) > 1:
            raise ValueError(
                f"{source}: expected another column for every role. Received: '{name}' more than "
                "once in the mapping. Correct the mapping."
            )
        if role not in aliases:
            near = difflib.get_close_matches(str(role), list(aliases), 1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise ValueError(
                f"columns: expected a mapping from {_list(aliases)} to column names. "
                f"Received: '{role}'{hint}. Write it as columns={{'user_id': 'my_column'}}."
            )
        if name is not None and name not in found:
            near = difflib.get_close_matches(str(name), [str(other) for other in found], 1, 0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"{source}: expected the column '{name}' that the mapping gives for {role}. "
                f"Received: columns {_list(found)}.{hint} Correct the mapping."
            )


def _missing_message(role, found, free, groups, source):
    known = " ".join(groups).split()
    start = (
        f"{source}: expected a column {role} (or {', '.join(known[1:5])}, ...). "
        f"Received: columns {_list(found)}"
    )
    is_number = [bool(re.fullmatch(r"[-+\d.:eT ]+", str(name))) for name in found]
    if all(is_number) or any(re.fullmatch(r"1\d{9}(\d{3})?", str(name)) for name in found):
        return (
            f"{start}; the first line looks like data. Put a header line with the names above it."
        )
    near = {normalise(name): name for name in free}
    matches = [m for name in known for m in difflib.get_close_matches(name, list(near), 1, 0.7)]
    hint = f" (the nearest is '{near[matches[0]]}')" if matches else ""
    example = near[matches[0]] if matches else "my_column"
    return (
        f"{start}{hint}. Rename it or pass columns={{'{role}': '{example}'}} "
        f"(--columns {role}={example})."
    )


def _list(names, limit=12):
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
