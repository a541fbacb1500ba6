import numpy as np
import pytest
from slowplans import DIM, SIZES, SlowPlans, search_of, tiny_decoder
from toys import histories_of

from kerasrec.backend import keras, tf
from kerasrec.data.histories import make_windows, training_batches
from kerasrec.generation.decoder import align_left, build_decoder, line_of_tokens, spread

#: codes of events, as they stand in the batches
IMPRESSION, VIEW, RATING, DISLIKE = 1, 2, 7, 8


@pytest.fixture(scope="module")
def small():
    return tiny_decoder()


def line_layer(decoder):
    return decoder.training.get_layer("line")


def lines(decoder, history, target, event=None):
    """Tokens, vectors and wanted items; events are views unless given."""
    event = np.full(np.shape(history), VIEW) if event is None else event
    given = [tf.constant(part, tf.int32) for part in (history, target, event)]
    return [part.numpy() for part in line_layer(decoder)(given)]


# --- tokens ---


def test_align_left_by_hand():
    history = tf.constant([[0, 0, 3, 4], [1, 2, 3, 4], [0, 0, 0, 0], [0, 5, 0, 6]])
    other = tf.constant([[9, 9, 1, 2], [1, 2, 3, 4], [7, 7, 7, 7], [9, 1, 2, 3]])
    first, second = align_left(history, other)
    assert first.numpy().tolist() == [[3, 4, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0], [5, 0, 6, 0]]
    assert second.numpy().tolist() == [[1, 2, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0], [1, 2, 3, 0]]
    assert align_left(history).numpy().tolist() == first.numpy().tolist()
    assert align_left(tf.zeros((2, 0), tf.int32)).shape == (2, 0)


def test_spread_by_hand():
    vectors = np.array([[[1, 2], [3, 4]]], np.float32)
    found = spread(vectors, 3).numpy()
    none = [0, 0]
    assert found.tolist() == [[none, none, none, [1, 2], none, none, [3, 4]]]
    assert spread(np.zeros((2, 0, 2), np.float32), 3).numpy().tolist() == [[none], [none]]


def test_line_of_tokens_begins_the_line():
    tokens = tf.constant([[[5, 6], [7, 8]], [[9, 10], [0, 0]]])
    assert line_of_tokens(tokens).numpy().tolist() == [[1, 5, 6, 7, 8], [1, 9, 10, 0, 0]]


def test_every_level_has_tokens_of_its_own(small):
    decoder, codes, vectors = small
    tokens = decoder.items(tf.range(10)).numpy()
    assert not tokens[0].any()
    assert (tokens[1:] == codes + [2, 2 + 3, 2 + 3 + 4]).all()
    np.testing.assert_array_equal(decoder.items.vectors_of(tf.range(1, 10)), vectors)
    assert not decoder.items.vectors_of([0]).numpy().any()
    again = type(decoder.items).from_config(decoder.items.get_config())
    assert again.sizes == SIZES and again.num_items == 9 and again.dim == DIM


def test_lines_by_hand(small):
    decoder, codes, vectors = small
    items = np.concatenate([np.zeros((1, 3), int), codes + [2, 5, 9]])
    known = np.concatenate([np.zeros((1, DIM)), vectors])
    history = [[0, 0, 4], [7, 2, 5], [0, 3, 1]]
    target = [[0, 0, 6], [2, 5, 9], [0, 1, 0]]
    tokens, given, wanted = lines(decoder, history, target)
    expected = [[4, 6, 0, 0], [7, 2, 5, 9], [3, 1, 0, 0]]
    for row, line in enumerate(expected):
        whole = [1, *items[line].reshape(-1)]
        assert tokens[row].tolist() == whole[:-1]  # the last code is predicted only
        for place, item in enumerate(line[:-1]):
            # the vector of an item is read with its last code
            np.testing.assert_allclose(given[row, 3 * place + 3], known[item], atol=1e-6)
        assert not np.delete(given[row], [3, 6, 9], axis=0).any()
    assert wanted.tolist() == [[4, 6, 0, 0], [7, 2, 5, 9], [3, 1, 0, 0]]


def test_events_that_nobody_chose_are_read_and_not_wanted(small):
    # of 7, 2, 5, 9 the events 2 and 9 were not chosen
    _, _, wanted = lines(small[0], [[7, 2, 5]], [[0, 5, 0]])
    assert wanted.tolist() == [[7, 0, 5, 0]]
    tokens, _, _ = lines(small[0], [[7, 2, 5]], [[0, 5, 0]])
    assert tokens[0, 4:7].tolist() == small[0].items(2).numpy().tolist()


def test_a_first_item_that_nobody_chose_is_not_wanted(small):
    history, target = [[0, 4, 6]] * 5, [[0, 6, 9]] * 5
    first = [IMPRESSION, DISLIKE, VIEW, RATING, 0]  # 0: of no known kind
    _, _, wanted = lines(small[0], history, target, [[0, code, VIEW] for code in first])
    assert wanted[:, 0].tolist() == [0, 0, 4, 4, 4]
    assert wanted[:, 1:].tolist() == [[6, 9, 0]] * 5
    # that a later one was not chosen says its target alone
    _, _, wanted = lines(small[0], [[7, 2, 5]], [[0, 5, 9]], [[VIEW, DISLIKE, IMPRESSION]])
    assert wanted.tolist() == [[7, 0, 5, 9]]


def test_a_window_as_long_as_it_may_be_begins_with_what_is_not_wanted(small):
    assert small[0].config["max_length"] == 5
    history = [[0, 7, 2, 5, 9], [7, 2, 5, 9, 1], [0, 0, 0, 0, 4], [0, 0, 0, 0, 0]]
    target = [[0, 2, 5, 9, 1], [2, 5, 9, 1, 3], [0, 0, 0, 0, 6], [0, 0, 0, 0, 0]]
    _, _, wanted = lines(small[0], history, target)
    assert wanted.tolist() == [
        [7, 2, 5, 9, 1, 0],
        [0, 2, 5, 9, 1, 3],  # what came before the 7 is cut off
        [4, 6, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_window_of_histories_wants_every_item_once(small):
    histories = histories_of([[7, 2, 5, 9], [4, 6], [1], [8, 7, 6, 5, 4, 3, 2, 1]])
    batch = next(training_batches(make_windows(histories, 5), batch_size=8, seed=0))
    _, _, wanted = lines(small[0], *(batch[name] for name in ("history", "target", "event")))
    assert sorted([item for item in row if item] for row in wanted.tolist()) == [
        [4, 6],
        [5, 4, 3, 2, 1],  # the newest window is full, and the one before it ends with its first
        [7, 2, 5, 9],
        [8, 7, 6],
    ]


# --- the loss ---


def loss_of(decoder, inputs):
    decoder.training(inputs, training=False)
    (loss,) = decoder.training.losses
    return float(loss)


def test_loss_by_hand(small):
    decoder, codes, _ = small
    slow = SlowPlans(*small)
    history = np.array([[0, 0, 4], [7, 2, 5], [0, 3, 1]], np.int32)
    target = np.array([[0, 0, 6], [0, 5, 9], [0, 1, 0]], np.int32)
    # (line, whether its items are wanted)
    rows = [([4, 6], [1, 1]), ([7, 2, 5, 9], [1, 0, 1, 1]), ([3, 1], [0, 1])]
    event = np.array([[0, 0, VIEW], [VIEW, VIEW, VIEW], [0, DISLIKE, VIEW]], np.int32)
    losses = []
    for line, is_wanted in rows:
        states = slow.states(line)
        for place, item in enumerate(line):
            logs = [
                slow.decoder_logs(states[3 * place + level], level)[codes[item - 1, level]]
                for level in range(3)
            ]
            if is_wanted[place]:
                losses.append(-sum(logs))
    found = loss_of(decoder, [history, np.ones_like(history), event, target])
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-4)


def test_nothing_wanted_costs_nothing(small):
    nothing = np.zeros((2, 3), np.int32)
    assert loss_of(small[0], [nothing] * 4) == 0


def test_padding_changes_no_loss(small):
    history, target = np.array([[7, 2]], np.int32), np.array([[2, 5]], np.int32)
    given = [history, history, np.full_like(history, VIEW), target]
    wide = [np.pad(part, [[0, 0], [3, 0]]) for part in given]
    losses = [loss_of(small[0], inputs) for inputs in (given, wide)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


# --- the transformer ---


def test_a_later_item_changes_nothing_before(small):
    decoder, slow = small[0], SlowPlans(*small)
    line = [4, 7, 1, 3]
    states = slow.states(line)
    assert states.shape == (13, 16)
    for changed in range(4):
        other = slow.states([*line[:changed], 9, *line[changed + 1 :]])
        moved = np.abs(other - states).max(axis=1)
        same = 1 + 3 * changed
        assert (moved[:same] < 1e-5).all() and moved[same + 2 :].min() > 1e-4
    # nor does a vector: it is read with the last code of its item
    tokens, given = slow.line(line)
    given[6] += 1
    moved = np.abs(decoder.transformer([tokens[None], given[None]]).numpy()[0] - states).max(axis=1)
    assert (moved[:6] < 1e-5).all() and (moved[6:] > 1e-4).all()


def test_centers_start_near_each_other():
    rng = np.random.default_rng(0)
    centers = [rng.normal(size=(size, DIM)) for size in SIZES[:2]]
    centers[0][1] = centers[0][0] + 1e-3
    codes = np.array([[0, 0, 0], [1, 1, 0]], np.int32)
    decoder = build_decoder(
        codes, SIZES, np.zeros((2, DIM), np.float32), units=16, heads=2, centers=[*centers, None]
    )
    table = decoder.transformer.get_layer("Embedding-Token").embeddings.numpy()
    far = np.linalg.norm(table[2:5, None] - table[None, 2:5], axis=-1)
    assert far[0, 1] < 0.01 * far[0, 2]
    for start, end in ((2, 5), (5, 9)):
        np.testing.assert_allclose(np.sqrt((table[start:end] ** 2).mean()), 0.02, rtol=1e-4)


def test_config_rebuilds_the_decoder(small):
    config = small[0].config
    assert config == {
        "num_items": 9,
        "max_length": 5,
        "sizes": [3, 4, 5],
        "max_items": 6,
        "units": 16,
        "num_blocks": 2,
        "heads": 2,
        "dropout": 0.2,
        "dim": DIM,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 15, "heads": 4}, r"units must be a multiple of heads \(4\)\. Received: 15\."),
        ({"max_items": 1}, r"max_items must be at least 2.*Received: 1\."),
    ],
)
def test_bad_options(options, message):
    codes, vectors = np.zeros((1, 3), np.int32), np.zeros((1, DIM), np.float32)
    with pytest.raises(ValueError, match=message):
        build_decoder(codes, SIZES, vectors, **options)


# --- learning ---


def test_steps_lower_the_loss_and_the_decoder_plans_the_cycle():
    """Items 1..9 in a circle: what follows is the next one, whatever the codes."""
    decoder, codes, _ = tiny_decoder(scale=0.0, num_blocks=1, dropout=0.0, max_items=8)
    rows = [[(start + n) % 9 + 1 for n in range(5)] for start in range(9)]
    batch = next(training_batches(make_windows(histories_of(rows), 7), batch_size=9, seed=0))
    inputs = [batch[name] for name in ("history", "time_gap", "event", "target")]
    decoder.training.compile(optimizer=keras.optimizers.Adam(0.02))
    losses = [decoder.training.train_on_batch(inputs) for _ in range(120)]
    # the first item of a line is anybody's guess: log 9 of the 5 items
    assert losses[0] > 1.5 * losses[-1] and losses[-1] < np.log(9) / 5 + 0.2
    _, run = search_of(decoder, codes)
    weights = np.ones((2, 10))
    weights[0, [0, 1, 2]] = weights[1, [0, 8, 9]] = 0
    index, logs = run([[1, 2], [8, 9]], weights, 3, 4)
    assert index[:, 0].tolist() == [[3, 4, 5], [1, 2, 3]]
    assert logs[:, 0].min() > -0.5
