import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrec import fit_whitening, load_mooccube, make_histories
from kerasrec.models.codes import (
    CollapsedCodes,
    SemanticIds,
    default_codes,
    fit_product_codes,
    fit_semantic_ids,
    level_offsets,
    make_trie,
)
from kerasrec.text.plainencoders import TfidfEncoder

SIGNS = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
#: item (group, offset, copy): 4 groups far apart, the same 4 offsets in each, 3 copies of each
GROUP, OFFSET, COPY = (axis.ravel() for axis in np.indices((4, 4, 3)))
TWO_LEVELS = np.concatenate([10 * SIGNS[GROUP], SIGNS[OFFSET]], axis=1).astype(np.float32)


def corners(repeats, width=4):
    """Unit vectors, each so many times: codes of one level are plain to see."""
    return np.repeat(np.eye(width, dtype=np.float32), repeats, axis=0)


def all_known(vectors):
    return np.ones(np.shape(vectors)[1], bool)


def names(found, expected):
    """Found code -> expected one; fails unless one goes with the other."""
    pairs = set(zip(np.asarray(found).tolist(), np.asarray(expected).tolist(), strict=True))
    assert len(pairs) == len({f for f, _ in pairs}) == len({e for _, e in pairs})
    return dict(pairs)


def check_valid(ids):
    """What is true of all semantic ids."""
    assert ids.codes.dtype == np.int32 and ids.centers.dtype == np.float32
    assert ids.codes.shape[1] == len(ids.sizes) == len(ids.centers) + 1
    assert (ids.codes >= 0).all() and (ids.codes < ids.sizes).all()
    assert len({tuple(row) for row in ids.codes.tolist()}) == len(ids.codes)


# --- Fitting ---


@pytest.mark.parametrize("seed", range(4))
def test_two_levels_by_hand(seed):
    ids = fit_semantic_ids(TWO_LEVELS, levels=2, num_codes=4, seed=seed)
    group, offset = names(ids.codes[:, 0], GROUP), names(ids.codes[:, 1], OFFSET)
    assert (ids.codes[:, 2] == COPY).all()
    # every row is 10, 10, 1, 1 long but for signs; the joined vectors have length 1
    length = math.sqrt(202)
    for code in range(4):
        expected = [*10 * SIGNS[group[code]] / length, 0, 0]
        np.testing.assert_allclose(ids.centers[0, code], expected, atol=1e-6)
        expected = [0, 0, *SIGNS[offset[code]] / length]
        np.testing.assert_allclose(ids.centers[1, code], expected, atol=1e-6)
    assert ids.sizes == (4, 4, 16)  # 3 of the last code, doubled, are less than 16


def test_joined_parts_by_hand():
    """Text vector, text columns and id columns: lengths 1/sqrt 2, 1/sqrt 2, and 1 on average."""
    item = np.array([[3, 4, 0.5], [0, 9, -0.1], [0, 0, 0.1]], np.float32)
    text = np.array([[0, 2], [7, 0], [0, 0]], np.float32)
    known = np.array([True, True, False])
    ids = fit_semantic_ids(item, text, known=known, levels=1, num_codes=3)
    half, length = math.sqrt(0.5), math.sqrt((0.5**2 + 0.1**2 + 0.1**2) / 3)
    expected = [
        [0, half, 0.6 * half, 0.8 * half, 0.5 / length],
        [half, 0, 0, half, -0.1 / length],
        [0, 0, 0, 0, 0.1 / length],
    ]
    np.testing.assert_allclose(ids.centers[0][ids.codes[:, 0]], expected, atol=1e-6)


def test_same_seed_same_codes():
    vectors = np.random.default_rng(0).normal(size=(700, 12)).astype(np.float32)
    first, again = fit_semantic_ids(vectors, seed=3), fit_semantic_ids(vectors, seed=3)
    np.testing.assert_array_equal(first.codes, again.codes)
    np.testing.assert_array_equal(first.centers, again.centers)
    assert (fit_semantic_ids(vectors, seed=4).codes != first.codes).any()
    check_valid(first)


def test_more_codes_than_items():
    ids = fit_semantic_ids(corners(1), levels=2, num_codes=99)
    assert ids.sizes == (4, 4, 16)
    assert sorted(ids.codes[:, 0]) == [0, 1, 2, 3]
    # each is alone: nothing is left to tell apart, and rounding is not taken for something
    assert ids.codes[:, 1:].tolist() == [[0, 0]] * 4
    assert [row["used"] for row in ids.usage()] == [4, 1]


@pytest.mark.parametrize("num_items", [1, 2])
def test_few_items(num_items):
    vectors = np.ones((num_items, 3), np.float32)
    ids = fit_semantic_ids(vectors, vectors, known=np.array([True, True, False]))
    assert ids.codes.tolist() == [[0, 0, 0, number] for number in range(num_items)]
    check_valid(ids)


def test_the_same_texts_but_other_takers():
    item = np.concatenate([np.ones((12, 5), np.float32), corners(3)], axis=1)
    known = np.arange(9) < 5
    ids = fit_semantic_ids(item, np.ones((12, 7)), known=known, levels=1, num_codes=4)
    names(ids.codes[:, 0], np.repeat(range(4), 3))


def test_the_same_takers_but_other_texts():
    item = np.ones((12, 5), np.float32)
    ids = fit_semantic_ids(item, corners(3), levels=1, num_codes=4)
    names(ids.codes[:, 0], np.repeat(range(4), 3))


def test_text_columns_count_by_their_direction_alone():
    known = all_known(np.eye(4))
    scale = np.linspace(0.1, 9, 12, dtype=np.float32)[:, None]
    ids = fit_semantic_ids(corners(3) * scale, known=known, levels=1, num_codes=4)
    names(ids.codes[:, 0], np.repeat(range(4), 3))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**20), distinct=st.integers(1, 25), more=st.integers(0, 60))
def test_codes_are_unique_however_many_items_are_the_same(seed, distinct, more):
    rng = np.random.default_rng(seed)
    different = rng.integers(-1, 2, (distinct, 4)).astype(np.float32)
    which = np.concatenate([np.arange(distinct), rng.integers(0, distinct, more)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            ids = fit_semantic_ids(different[which], known=np.arange(4) < 2, seed=seed % 7)
        except CollapsedCodes:
            return
    check_valid(ids)
    paths = {i: {tuple(path) for path in ids.codes[which == i, :-1].tolist()} for i in which}
    assert all(len(found) == 1 for found in paths.values())  # the same vectors, the same path
    assert ids.room >= 2 * (ids.codes[:, -1].max() + 1)
    make_trie(ids.codes)


@pytest.mark.parametrize("seed", range(6))
def test_vectors_that_differ_by_rounding_have_the_same_codes(seed):
    """As a matrix product leaves them, which rounds a row by its place in the batch."""
    rng = np.random.default_rng(seed)
    different = rng.normal(size=(6 * seed + 5, 32)).astype(np.float32)
    noise = 1e-6 * rng.normal(size=(len(different), 4, 32))
    vectors = (different[:, None] + noise).reshape(-1, 32).astype(np.float32)
    ids = fit_semantic_ids(vectors, known=all_known(vectors))
    paths = ids.codes[::4, :-1]
    np.testing.assert_array_equal(ids.codes[:, :-1], np.repeat(paths, 4, axis=0))
    np.testing.assert_array_equal(grown(ids, different)[1][:, :-1], paths)


def test_centres_are_fitted_on_a_sample_of_many_items(monkeypatch):
    monkeypatch.setattr("kerasrec.models.codes.FITTED", 40)
    vectors = np.concatenate([TWO_LEVELS] * 5)
    ids = fit_semantic_ids(vectors, levels=2, num_codes=4)
    names(ids.codes[:, 0], np.tile(GROUP, 5))
    check_valid(ids)


# --- Figures ---


def test_usage_by_hand():
    codes = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1]], np.int32)
    ids = SemanticIds(codes, np.zeros((2, 4, 3), np.float32), np.zeros(3, bool), 16)
    # level 1: shares 1/2, 1/2. Level 2: shares 3/4, 1/4, so 4 / 3 ** (3/4) = 1.75; two of the
    # four items are alone with their first two codes
    assert ids.usage() == [
        {"level": 1, "codes": 4, "used": 2, "perplexity": 2.0, "unique": 0.0},
        {"level": 2, "codes": 4, "used": 2, "perplexity": 1.8, "unique": 0.5},
    ]
    assert ids.sizes == (4, 4, 16)


def test_default_codes():
    assert [default_codes(n) for n in (0, 1, 90, 91, 10**9)] == [8, 8, 8, 8, 256]
    found = [default_codes(n) for n in range(1, 100_000, 7)]
    assert found == sorted(found) and set(found) == {8, 16, 32, 64, 128, 256}
    for num_items in range(64, 60_000, 77):  # the root is in between: at most half a power away
        ratio = default_codes(num_items) / math.sqrt(num_items)
        assert 0.7071 <= ratio <= 1.4143


# --- Product codes ---


def test_product_codes_shape_range_and_seed():
    rng = np.random.default_rng(0)
    item, text = (rng.normal(size=(200, dim)).astype(np.float32) for dim in (5, 7))
    codes = fit_product_codes(item, text, parts=4)
    assert codes.shape == (200, 4) and codes.dtype == np.int32
    # an eighth of the items; each of 200 random points is not far from one of 25 means
    assert codes.min() == 0 and codes.max(axis=0).tolist() == [24] * 4
    np.testing.assert_array_equal(fit_product_codes(item, text, parts=4), codes)
    assert (fit_product_codes(item, text, parts=4, seed=1) != codes).any()
    assert (fit_product_codes(item, parts=4) != codes).any()
    assert fit_product_codes(item, parts=2, num_codes=3).max(axis=0).tolist() == [2, 2]
    few = fit_product_codes(item[:5], text[:5], parts=3, num_codes=99)
    assert [sorted(column) for column in few.T.tolist()] == [[0, 1, 2, 3, 4]] * 3


def test_product_codes_are_alike_for_items_that_are_alike():
    corner = np.repeat(range(8), 3)
    codes = fit_product_codes(corners(3, width=8), parts=4, num_codes=8)
    np.testing.assert_array_equal(codes[::3], codes[1::3])
    np.testing.assert_array_equal(codes[::3], codes[2::3])
    # each part sees its share of the turned corners only, and all of them together tell apart
    assert len(np.unique(codes, axis=0)) == 8
    text = corners(3, width=8)
    found = fit_product_codes(np.ones((24, 3)), text, parts=2, num_codes=8)
    assert len(np.unique(found, axis=0)) == 8 == len(np.unique(corner))


@pytest.mark.parametrize("parts", [0, 6, 32])
def test_more_parts_than_numbers_are_refused(parts):
    vectors = np.random.default_rng(0).normal(size=(30, 5))
    with pytest.raises(ValueError) as raised:
        fit_product_codes(vectors, parts=parts)
    assert str(raised.value) == (
        "parts must be from 1 to the width of the joined vectors (5): each part needs a number of "
        f"its own. Received: {parts}."
    )
    assert fit_product_codes(vectors, parts=5).shape == (30, 5)


def test_level_offsets():
    offsets = level_offsets([3, 1, 4])
    assert offsets.tolist() == [0, 3, 4] and offsets.dtype == np.int32
    assert level_offsets((7,)).tolist() == [0]


# --- Collapse ---


def message_of(call):
    with pytest.raises(CollapsedCodes) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


@pytest.mark.parametrize("noise", [0, 1e-8, 1e-7, 1e-6, 1e-5])
def test_vectors_that_differ_by_rounding_have_collapsed(noise):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=16) + noise * rng.normal(size=(300, 16))).astype(np.float32)
    expected = (
        "The semantic ids have collapsed: the first level uses its 16 codes as if there were 1.0, "
        "expected at least 25% of them. Are most texts the same? Bring texts that tell items "
        "apart, or train the model longer."
    )
    assert message_of(lambda: fit_semantic_ids(vectors)) == expected
    assert message_of(lambda: fit_semantic_ids(vectors, known=all_known(vectors))) == expected
    assert message_of(lambda: fit_semantic_ids(np.zeros((300, 2)), vectors)) == expected


def test_nearly_all_items_the_same_have_collapsed():
    vectors = np.ones((300, 6), np.float32)
    vectors[:12] = np.random.default_rng(0).normal(size=(12, 6))
    found = message_of(lambda: fit_semantic_ids(vectors))
    assert re.search(r"uses its 16 codes as if there were 1\.\d, expected at least 25%", found)


def test_too_many_items_with_the_same_codes():
    others = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    same = np.full((257, 8), 0.3, np.float32)
    assert message_of(lambda: fit_semantic_ids(np.concatenate([others, same]))) == (
        "The semantic ids have collapsed: 257 items share all their codes, expected at most 256. "
        "Are their texts the same? Bring texts that tell items apart, or more codes or levels."
    )
    ids = fit_semantic_ids(np.concatenate([others, same[1:]]))
    assert ids.codes[600:, -1].tolist() == list(range(256)) and ids.room == 512
    check_valid(ids)


# --- New items ---


def grown(ids, new):
    """`with_items`, with what is true of it always."""
    result = ids.with_items(new)
    np.testing.assert_array_equal(result.codes[: len(ids.codes)], ids.codes)
    np.testing.assert_array_equal(result.centers, ids.centers)
    assert len(result.codes) == len(ids.codes) + len(new) and result.sizes == ids.sizes
    check_valid(result)
    return result, result.codes[len(ids.codes) :]


def test_new_items_by_hand():
    ids = fit_semantic_ids(TWO_LEVELS, known=all_known(TWO_LEVELS), levels=2, num_codes=4)
    new = TWO_LEVELS[[5, 5, 40]] * 3 + [0, 0, 0.3, 0.3]  # longer, and not quite the same
    _, codes = grown(ids, new)
    assert codes[:, :-1].tolist() == ids.codes[[5, 5, 40], :-1].tolist()
    assert codes[:, -1].tolist() == [3, 4, 3]  # behind the 3 copies


def test_an_item_with_another_text_moves_by_hand():
    """Item 5 gets the text of item 40, and goes behind the three that have it."""
    ids = fit_semantic_ids(TWO_LEVELS, known=all_known(TWO_LEVELS), levels=2, num_codes=4)
    rows = np.array([5, 7])
    longer = TWO_LEVELS[[40, 7]] * 3  # that of 7 is the same
    moved = ids.with_changed(rows, TWO_LEVELS[rows], longer)
    check_valid(moved)
    assert moved.codes[5].tolist() == [*ids.codes[40, :-1], 3]
    others = np.arange(len(ids.codes)) != 5
    np.testing.assert_array_equal(moved.codes[others], ids.codes[others])
    back = moved.with_changed(rows[:1], TWO_LEVELS[[40]], TWO_LEVELS[[5]])
    assert back.codes[5, :-1].tolist() == ids.codes[5, :-1].tolist()
    check_valid(back)
    assert ids.with_changed(rows[1:], TWO_LEVELS[[7]], longer[1:]) is ids


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**20), distinct=st.integers(2, 30), dim=st.integers(2, 5))
def test_new_items_with_the_text_of_old_ones(seed, distinct, dim):
    rng = np.random.default_rng(seed)
    text = rng.integers(-1, 2, (distinct, dim))
    item = np.concatenate([text, np.zeros((distinct, 2))], axis=1).astype(np.float32)
    try:
        ids = fit_semantic_ids(item, known=np.arange(dim + 2) < dim, seed=seed % 7)
    except CollapsedCodes:
        return
    whole, codes = grown(ids, item)
    assert codes[:, :-1].tolist() == ids.codes[:, :-1].tolist()
    half = distinct // 2
    np.testing.assert_array_equal(
        ids.with_items(item[:half]).with_items(item[half:]).codes, whole.codes
    )


def test_what_a_new_item_has_not_does_not_count():
    rng = np.random.default_rng(0)
    text = rng.normal(size=(200, 6))
    known = np.array([True, False] * 6)
    item = np.empty((200, 12), np.float32)
    item[:, known], item[:, ~known] = text, 0.1 * rng.normal(size=(200, 6))
    ids = fit_semantic_ids(item, text, known=known)
    empty, other = item.copy(), item.copy()
    empty[:, ~known], other[:, ~known] = 0, 9
    _, codes = grown(ids, empty)
    assert codes.tolist() == grown(ids, other)[1].tolist()
    agreement = (codes[:, 0] == ids.codes[:, 0]).mean()
    share = np.bincount(ids.codes[:, 0]) / 200
    assert agreement > 3 * (share**2).sum()


def test_more_new_items_with_one_text_than_there_is_room_for():
    vectors = corners(2)
    # nearest to the 1st corner, then the 2nd, 4th, 3rd
    new = np.array([[5, 3, 1, 2]], np.float32)
    ids = fit_semantic_ids(vectors, known=all_known(vectors), levels=1, num_codes=4)
    corner = {code: number for number, code in enumerate(ids.codes[::2, 0].tolist())}
    whole, codes = grown(ids, np.repeat(new, 4 * 14, axis=0))  # 16 places each, 2 are taken
    found = np.array([corner[code] for code in codes[:, 0].tolist()])
    assert found.tolist() == np.repeat([0, 1, 3, 2], 14).tolist()
    assert codes[:, 1].tolist() == [*range(2, 16)] * 4
    for start in (whole, ids):
        count = 57 - (len(start.codes) - len(ids.codes))
        with pytest.raises(CollapsedCodes) as caught:
            start.with_items(np.repeat(new, count, axis=0))
        assert str(caught.value) == (
            "More new items have the same text than the codes can tell apart (16 under each of "
            "4). Give them texts of their own, or train anew."
        )


def test_new_items_keep_their_first_codes_where_they_spill():
    ids = fit_semantic_ids(TWO_LEVELS, known=all_known(TWO_LEVELS), levels=2, num_codes=4)
    _, codes = grown(ids, np.repeat(TWO_LEVELS[:1], 4 * 13, axis=0))
    assert set(codes[:, 0]) == {ids.codes[0, 0]}
    assert (codes[:13, 1] == ids.codes[0, 1]).all()
    assert np.bincount(codes[:, 1]).tolist() == [13] * 4


def test_codes_that_are_left_over_are_taken_last():
    """8 codes for 4 distinct items: new ones take the other 4 only when the 4 are full."""
    vectors = corners(2)
    ids = fit_semantic_ids(vectors, known=all_known(vectors), levels=2, num_codes=8)
    assert np.isinf(ids.centers[0]).all(axis=1).tolist() == [False] * 4 + [True] * 4
    assert np.isinf(ids.centers[1]).all(axis=1).tolist() == [False] + [True] * 7
    new = np.concatenate([np.zeros((1, 4), np.float32), corners(15)])
    _, codes = grown(ids, new)
    assert (codes[:, 0] < 4).all()
    names(codes[1:, 0], np.repeat(range(4), 15))
    assert sorted(set(codes[:, 1].tolist())) == [0, 1]  # 14 under the first, then the next


def test_nothing_is_known_of_new_items():
    ids = fit_semantic_ids(corners(3), levels=1, num_codes=4)
    assert ids.known.tolist() == [False] * 4
    _, codes = grown(ids, np.random.default_rng(0).normal(size=(20, 4)))
    assert codes.tolist() == [[0, n] for n in range(3, 16)] + [[1, n] for n in range(3, 10)]


def test_no_new_items():
    ids = fit_semantic_ids(corners(3), known=all_known(corners(1)), levels=1, num_codes=4)
    _, codes = grown(ids, np.zeros((0, 4), np.float32))
    assert codes.shape == (0, 2)


# --- The packaged courses ---


def test_new_courses_come_to_old_ones_that_say_the_same():
    interactions, items = load_mooccube()
    texts = items.texts("{title}")
    text = TfidfEncoder().fit(texts).encode(texts)
    text = fit_whitening(text, 128).apply(text)
    histories = make_histories(interactions, items)
    taken = np.zeros((histories.num_users, len(items)), np.float32)
    taken[np.repeat(np.arange(histories.num_users), histories.lengths), histories.items - 1] = 1
    size, takers = (values[..., -32:] for values in np.linalg.eigh(taken.T @ taken))
    item = np.concatenate([text * 0.5 / math.sqrt(128), takers * size**0.5], axis=1)
    order = np.random.default_rng(0).permutation(len(items))
    new, old = order[:120], order[120:]
    known = np.arange(160) < 128
    ids = fit_semantic_ids(item[old], text[old], known=known)
    check_valid(ids)
    assert ids.sizes[:3] == (32, 32, 32)  # the root of 513 is 22.6

    _, codes = grown(ids, np.where(known, item[new], 0))
    nearest = (text[new] @ text[old].T).argmax(axis=1)
    agreement = (codes[:, 0] == ids.codes[nearest, 0]).mean()
    share, share_new = (np.bincount(c[:, 0], minlength=32) / len(c) for c in (ids.codes, codes))
    assert agreement > 3 * (share @ share_new)  # that of courses that have nothing in common
    # an old course that nobody has taken yet would nearly always come to where it is
    _, codes = grown(ids, np.where(known, item[old], 0))
    assert (codes[:, 0] == ids.codes[:, 0]).mean() > 0.7
