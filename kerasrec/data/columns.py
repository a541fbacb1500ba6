"""Finds which column of a table plays which role: by canonical name, usual alias or mapping."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

# For every role, groups of names from the most to the least telling. The canonical name comes
# first and beats all others; names of one group that occur together are a question for the user.
INTERACTION_ALIASES = {
    "user_id": [
        "user_id",
        "user uid userid 用户 用户id 用户编号 用户_id",
        "reviewer_id reviewerid customer_id customerid member_id visitor_id visitorid session_id "
        "sessionid buyer_id account_id 会员id 会员编号 买家id 客户id 客户编号 顾客id",
        "openid open_id distinct_id",
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
        "event_timestamp eventtimestamp event_date eventdate log_time logtime server_time "
        "servertime action_time actiontime behavior_time behaviour_time occurred_at 事件时间 "
        "事件时间戳 行为时间 发生时间 操作时间 日志时间 上报时间",
        "click_time clicktime clicked_at visit_time visittime visited_at viewed_at 点击时间 "
        "浏览时间 访问时间",
        "order_time ordertime order_date orderdate ordered_at purchase_time purchase_date "
        "purchased_at order_purchase_timestamp transaction_time transaction_date invoice_date "
        "invoicedate t_dat 下单时间 下单日期 订单时间 订单日期 订单创建时间 购买时间 购买日期 "
        "成交时间 交易时间",
        "created created_on createdat created_time createdtime creation_time create_date "
        "createdate gmt_create ctime comment_time rating_time rated_at submit_time added_at "
        "创建时间 创建日期 评论时间 评论日期 评价时间 提交时间 添加时间",
        "pay_time paytime paid_at payment_time 支付时间 付款时间 支付日期",
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
RELATION_ALIASES = {
    "item_id": [*INTERACTION_ALIASES["item_id"], "head subject 头实体"],
    "relation": ["relation", "relation_type predicate rel 关系 关系类型"],
    "entity": ["entity", "entity_id object tail value 实体 尾实体"],
}
ITEM_ALIASES = {
    "item_id": [*INTERACTION_ALIASES["item_id"], "id 编号"],
    "title": [
        "title",
        "name 标题 名称 题名 item_title item_name itemname product_title product_name movie_title",
        "商品名称 商品标题 商品名 物品名称 宝贝标题 课程名称 书名 片名 goods_name goodsname "
        "course_name coursename",
    ],
    "text": ["text"],
    "category": ["category"],
}

#: parts of names of times that are mostly not those of the event
_OTHER_TIMES = (
    "birth regist publish release updat modif expir valid end due join deliver ship finish "
    "complet refund return 生日 出生 注册 发布 发行 上架 下架 上市 更新 修改 过期 到期 失效 有效 "
    "结束 截止 入会 发货 送达 收货 完成 退款 退货"
).split()
#: ends of names of numbers that are no times
_NUMBERS = (
    "id no number num code sn sku phone mobile tel price amount 编号 号 号码 编码 电话 手机 价格 "
    "金额"
).split()
_TIME_WORDS = "time date stamp 时间 日期 时刻 ts dt ds pt at day".split()


def normalise(name: object) -> str:
    """Normalises a column name: lower case, `_` for spaces and hyphens, no RecBole `:type` suffix.

    >>> normalise(" User-ID "), normalise("item_id:token")
    ('user_id', 'item_id')
    """
    name = re.sub("[\u200b-\u200f\u2060\ufeff]", "", str(name)).strip().lower()  # no width
    name = re.sub(r":(token|token_seq|float|float_seq)$", "", name)
    return re.sub(r"[\s\-]+", "_", name)


#: what names columns: role -> column; or, of a table without a header line, all names in order
Naming: TypeAlias = Mapping[str, str | None] | Sequence[str]


def split_naming(columns: Naming | None) -> tuple[dict[str, str | None] | None, list[str] | None]:
    """Gives `(mapping, names)` of what a user gives as `columns`; one of them is None.

    Raises:
        TypeError: neither a mapping nor a list of texts.

    >>> split_naming({"user_id": "buyer"}), split_naming(["user", "item"])
    (({'user_id': 'buyer'}, None), (None, ['user', 'item']))
    """
    if columns is None or isinstance(columns, Mapping):
        return (None if columns is None else dict(columns)), None
    if isinstance(columns, list | tuple) and all(isinstance(name, str) for name in columns):
        return None, [name.strip() for name in columns]
    raise TypeError(
        "columns: expected a mapping such as {'user_id': 'buyer'}, or, for a file without a header "
        f"line, a list of the names of its columns. Received: {columns!r}. Pass one of these."
    )


def resolve_columns(
    found: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    mapping: Mapping[str, str | None] | None = None,
    *,
    required: Sequence[str],
    source: str,
) -> dict[str, str]:
    """Finds which column plays which role.

    Where no name fits a required role, the last names of values within others are tried:
    `payload.userId` of a message is a `userId`.

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
    check_mapping(mapping, found, aliases, source)
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
        if not candidates and role in required:
            candidates = _within(free, groups, role)
        if len(candidates) > 1:
            raise ValueError(
                f"{source}: expected one column for {role}. Received: {name_list(candidates)}. "
                f"Say which one with columns={{'{role}': '{candidates[0]}'}} "
                f"(--columns {role}={candidates[0]})."
            )
        if candidates:
            columns[role] = candidates[0]
    free = [name for name in found if name not in columns.values()]
    for role in required:
        if role not in columns:
            raise ValueError(_missing_message(role, found, free, aliases, source))
    return columns


def choose_time(names: Mapping[str, bool]) -> tuple[str | None, list[str]]:
    """Chooses the time of the event among columns that hold times, though no alias names them.

    A column is chosen where it is the only one whose name does not speak of something else, such as
    a birthday, and whose numbers are not just as likely an id.

    Args:
        names: column name -> whether it holds dates; False = numbers that may be unix times.

    Returns:
        `(column or None, columns that may be meant)`.

    >>> choose_time({"下单时刻": True, "生日": True})
    ('下单时刻', ['下单时刻', '生日'])
    >>> choose_time({"发货时间": True}), choose_time({"phone": False})
    ((None, ['发货时间']), (None, []))
    """
    clear, possible = [], []
    for name, is_dates in names.items():
        text = normalise(name)
        words = re.split(r"[_\W]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", str(name)).lower())
        if not is_dates and text.endswith(tuple(_NUMBERS)):
            continue
        possible.append(name)
        says_time = any(word in (words if len(word) == 2 else text) for word in _TIME_WORDS)
        says_other = any(word in text for word in _OTHER_TIMES)
        if (is_dates or says_time) and not says_other:
            clear.append(name)
    return (clear[0] if len(clear) == 1 else None), possible


def _candidates(found, groups, role):
    """The columns of the first group that has any; the canonical name stands for itself alone."""
    for group in groups:
        names = group.split()
        hits = list(dict.fromkeys(name for name in found if normalise(name) in names))
        if hits:
            return [role] if role in hits else hits
    return []


def _within(found, groups, role):
    """The same for values within others, by the last name: `payload.userId` is a `userId`."""
    last = {name: str(name).rpartition(".")[2] for name in found if "." in str(name)}
    names = _candidates(list(last.values()), groups, role)
    return [name for name, short in last.items() if short in names]


def check_mapping(
    mapping: Mapping[str, str | None],
    found: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    source: str,
) -> None:
    """Refuses a mapping of an unknown role, to a column that is not there, or of one to two.

    Args:
        mapping, found, aliases, source: as for `resolve_columns`.
    """
    given = [name for name in mapping.values() if name is not None]
    for role, name in mapping.items():
        if name is not None and given.count(name) > 1:
            raise ValueError(
                f"{source}: expected another column for every role. Received: '{name}' more than "
                "once in the mapping. Correct the mapping."
            )
        if role not in aliases:
            near = difflib.get_close_matches(str(role), list(aliases), 1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise ValueError(
                f"columns: expected a mapping from {name_list(aliases)} to column names. "
                f"Received: '{role}'{hint}. Write it as columns={{'user_id': 'my_column'}}."
            )
        if name is not None and name not in found:
            near = difflib.get_close_matches(str(name), [str(other) for other in found], 1, 0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"{source}: expected the column '{name}' that the mapping gives for {role}. "
                f"Received: columns {name_list(found)}.{hint} Correct the mapping."
            )


def _missing_message(role, found, free, aliases, source):
    known = " ".join(aliases[role]).split()
    start = (
        f"{source}: expected a column {role} (or {', '.join(known[1:5])}, ...). "
        f"Received: columns {name_list(found)}"
    )
    guessed = _guess_names([str(name) for name in found], aliases)
    flag = "--item-columns" if "title" in aliases else "--columns"
    how = (
        f"name its columns in their order with columns={guessed} ({flag} {','.join(guessed)}), or "
        "put a header line above it"
    )
    if "relation" in aliases:  # it has no user, and its header may be as short as its rows
        return (
            f"{start}. Rename them or pass columns={{'{role}': 'my_column'}} "
            f"(--columns relations.{role}=my_column); where the first line is data, put a header "
            "line above it."
        )
    if any(re.fullmatch(r"[-+\d.:eT ]+", str(name)) or _is_time(name) for name in found):
        return f"{start}; the first line looks like data: {how}."
    near = {normalise(name): name for name in free}
    matches = [m for name in known for m in difflib.get_close_matches(name, list(near), 1, 0.7)]
    if not matches and len(free) == len(found) > 1:
        return (
            f"{start}, none of them known. Rename them or pass columns={{'{role}': 'my_column'}} "
            f"({flag} {role}=my_column); where the first line is data, {how}."
        )
    hint = f" (the nearest is '{near[matches[0]]}')" if matches else ""
    example = near[matches[0]] if matches else "my_column"
    return (
        f"{start}{hint}. Rename it or pass columns={{'{role}': '{example}'}} "
        f"({flag} {role}={example})."
    )


def _is_time(name):
    return re.match(r"1\d{9}(\d{3})?$|20\d\d[-/]?\d\d?[-/]?\d\d?", str(name)) is not None


def _guess_names(found, aliases):
    """Names for columns without any, by what stands in the first row: an offer to correct."""
    if "title" in aliases:
        names = ["item_id", "title"]
    else:
        names = ["user_id", "item_id"][: max(len(aliases), 1)]
    guessed: list[str] = []
    for value in found:
        if "timestamp" in aliases and "timestamp" not in guessed and _is_time(value):
            guessed.append("timestamp")
        elif names:
            guessed.append(names.pop(0))
        elif re.fullmatch(r"\d(\.\d)?", value) and "value" in aliases and "value" not in guessed:
            guessed.append("value")
        else:
            guessed.append("_")
    return guessed


def name_list(names: Iterable[object], limit: int = 12) -> str:
    """Joins names by commas; says how many there are where they are too many."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:limit]) + (f", ... ({len(texts)} in all)" if len(texts) > limit else "")


# --- columns that say whether an item is to be had ---

YES = set("1 true t yes y 是 有 在售 上架 已上架 on".split())
_NO = set("0 false f no n 否 无 下架 已下架 off".split())
#: names of columns -> the values with which an item is not to be had
_STATES = {
    "available is_available in_stock on_sale is_on_sale for_sale 可售 是否可售 在售 是否在售 上架 "
    "是否上架 有货": _NO,
    "下架 是否下架 已下架 withdrawn is_withdrawn discontinued is_discontinued deleted is_deleted "
    "is_delete is_del del_flag 已删除 是否删除": YES | {"下架", "已下架"},
    "status 状态 商品状态 上架状态 上下架状态 销售状态": set(
        "下架 已下架 停售 失效 已失效 off offline off_shelf withdrawn discontinued "
        "unavailable".split()
    ),
}
_STOCK = set("stock inventory 库存 库存量 库存数量".split())
_ENDS = set(
    "end_date end_time valid_until valid_to expires expires_at expiry_date 下架时间 下架日期 "
    "结束时间 结束日期 截止日期 失效日期 有效期至".split()
)


def withdrawn_rows(
    frame: pd.DataFrame, *, now: pd.Timestamp | None = None
) -> tuple[np.ndarray, dict[str, int]]:
    """Finds the items that are not to be had, by columns that say so.

    Args:
        frame: of the items, all texts.
        now: the moment that end dates are compared with; None = by this machine's clock.

    Returns:
        `bool (num_items,), {column: items that it takes out}`. A column by which no item is to be
        had says something else, and counts for nothing.

    >>> frame = pd.DataFrame({"item_id": list("abc"), "库存": ["3", "0", ""]})
    >>> withdrawn_rows(frame)[0].tolist()
    [False, True, False]
    """
    gone, reasons = np.zeros(len(frame), bool), {}
    for name in frame.columns:
        if not says_withdrawn(name):
            continue
        mask = withdrawn_by(name, frame[name], now=now)
        if mask.any() and not mask.all():
            gone |= mask
            reasons[str(name)] = int(mask.sum())
    return gone, reasons


def says_withdrawn(name: object) -> bool:
    """Whether a column of this name says of items that they are not to be had.

    >>> says_withdrawn("stock"), says_withdrawn("price")
    (True, False)
    """
    word = normalise(name)
    return word in _STOCK or word in _ENDS or any(word in names.split() for names in _STATES)


def withdrawn_by(name: object, values: pd.Series, *, now: pd.Timestamp | None = None) -> np.ndarray:
    """Finds the rows that are not to be had by one column, bool `(num_rows,)`.

    Args:
        name: of the column, for which `says_withdrawn` is True.
        values: texts.
        now: as for `withdrawn_rows`.
    """
    word, values = normalise(name), values.str.strip().str.lower()
    if word in _STOCK:
        return (pd.to_numeric(values, errors="coerce") <= 0).to_numpy()
    if word in _ENDS:
        moment = pd.Timestamp.now() if now is None else now
        ends = pd.to_datetime(values, errors="coerce", format="mixed", utc=True)
        ends = ends.dt.tz_localize(None)
        is_day = ends.dt.normalize() == ends  # a date ends with its day
        return (ends + pd.to_timedelta(is_day.astype(int), unit="D") <= moment).to_numpy()
    states = next(states for names, states in _STATES.items() if word in names.split())
    return values.isin(states).to_numpy()
