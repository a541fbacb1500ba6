import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kerasrec.models.codes import CodeTrie, make_trie


@st.composite
def tables(draw):
    """Distinct rows of codes, in any order."""
    levels = draw(st.integers(1, 4))
    code = st.integers(0, draw(st.sampled_from([1, 3, 300, 2**31 - 1])))
    return draw(st.lists(st.tuples(*[code] * levels), min_size=1, max_size=40, unique=True))


def slow(rows):
    """The same trie, by a dict from path to leaves and a list of the paths of each level."""
    ordered = sorted(rows)
    levels = len(ordered[0])
    paths = [sorted({row[:level] for row in rows}) for level in range(levels + 1)]
    nodes = [path for level in paths for path in level]
    below = {path: [] for path in nodes}
    for place, row in enumerate(ordered):
        for level in range(levels + 1):
            below[row[:level]].append(place)
    children = {path: [n for n in nodes if n and n[:-1] == path] for path in nodes}
    return CodeTrie(
        first_child=[nodes.index(c[0]) if (c := children[path]) else 0 for path in nodes],
        num_children=[len(children[path]) for path in nodes],
        code=[path[-1] if path else 0 for path in nodes],
        start=[min(below[path]) for path in nodes],
        end=[max(below[path]) + 1 for path in nodes],
        leaves=[rows.index(row) + 1 for row in ordered],
        widest=[max(len(children[path]) for path in level) for level in paths[:-1]],
    )


def walk(trie, node=0, path=()):
    """Every path from the root to a leaf, with the leaf's place."""
    if not trie.num_children[node]:
        return [(path, int(trie.start[node]))]
    first = trie.first_child[node]
    children = range(first, first + trie.num_children[node])
    return [leaf for c in children for leaf in walk(trie, c, (*path, int(trie.code[c])))]


def test_trie_by_hand():
    trie = make_trie([[2, 0, 0], [0, 5, 0], [2, 0, 1], [0, 3, 0], [2, 7, 0]])
    #       root |  0  2 | 03 05 20 27 | 030 050 200 201 270
    assert trie.code.tolist() == [0, 0, 2, 3, 5, 0, 7, 0, 0, 0, 1, 0]
    assert trie.num_children.tolist() == [2, 2, 2, 1, 1, 2, 1, 0, 0, 0, 0, 0]
    assert trie.first_child.tolist() == [1, 3, 5, 7, 8, 9, 11, 0, 0, 0, 0, 0]
    assert trie.start.tolist() == [0, 0, 2, 0, 1, 2, 4, 0, 1, 2, 3, 4]
    assert trie.end.tolist() == [5, 2, 5, 1, 2, 4, 5, 1, 2, 3, 4, 5]
    assert trie.leaves.tolist() == [4, 2, 1, 3, 5]
    assert trie.widest.tolist() == [2, 2, 2]


@settings(deadline=None, max_examples=150)
@given(tables())
@example([(7,)])
@example([(0, 0, 0, 0)])
@example([(2**31 - 1, 0), (0, 2**31 - 1), (2**31 - 1, 2**31 - 1)])
def test_trie_equals_dicts(rows):
    trie, expected = make_trie(np.array(rows)), slow(rows)
    for name in CodeTrie._fields:
        found = getattr(trie, name)
        assert found.dtype == np.int32, name
        assert found.tolist() == getattr(expected, name), name


@settings(deadline=None, max_examples=150)
@given(tables())
def test_paths_are_the_rows_of_the_table(rows):
    trie = make_trie(rows)
    leaves = walk(trie)
    assert [path for path, _ in leaves] == sorted(rows)
    assert [place for _, place in leaves] == list(range(len(rows)))
    assert [rows[trie.leaves[place] - 1] for _, place in leaves] == sorted(rows)
    assert sorted(trie.leaves) == list(range(1, len(rows) + 1))


def test_children_are_neighbours_ordered_by_code_and_share_the_leaves():
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 8, (400, 4)), axis=0)
    trie = make_trie(rng.permutation(codes))
    inner = np.flatnonzero(trie.num_children)
    reached = [0]
    for node in inner:
        children = np.arange(
            trie.first_child[node], trie.first_child[node] + trie.num_children[node]
        )
        reached.extend(children)
        assert (np.diff(trie.code[children]) > 0).all()
        bounds = [*trie.start[children], trie.end[children[-1]]]
        assert bounds == [trie.start[node], *trie.end[children]]
        assert bounds[-1] == trie.end[node]
    assert reached == list(range(len(trie.code)))  # each node is the child of one


def test_order_of_items_does_not_matter():
    rng = np.random.default_rng(1)
    codes = np.unique(rng.integers(0, 5, (60, 3)), axis=0)
    order = rng.permutation(len(codes))
    trie, shuffled = make_trie(codes), make_trie(codes[order])
    assert trie.leaves.tolist() == list(range(1, len(codes) + 1))
    assert (order[shuffled.leaves - 1] + 1).tolist() == trie.leaves.tolist()
    for name in set(CodeTrie._fields) - {"leaves"}:
        np.testing.assert_array_equal(getattr(trie, name), getattr(shuffled, name))


@pytest.mark.parametrize(
    "codes, first, second",
    [
        ([[1, 0], [0, 1], [1, 0]], 1, 3),
        ([[3], [3]], 1, 2),
        ([[5, 5], [0, 1], [2, 2], [0, 0], [2, 2], [2, 2]], 3, 5),
    ],
)
def test_codes_that_are_there_twice(codes, first, second):
    with pytest.raises(ValueError, match=f"^Items {first} and {second} have the same codes.$"):
        make_trie(codes)


@pytest.mark.parametrize("codes", [[], np.zeros((0, 3), np.int32)])
def test_no_item(codes):
    with pytest.raises(ValueError, match="^A trie needs at least one item. Received: none.$"):
        make_trie(codes)
