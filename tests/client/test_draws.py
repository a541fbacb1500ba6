"""Checks and seeds of drawn plans."""

import numpy as np
import pytest

from kerasrec.checks import check_number, is_whole
from kerasrec.client.draws import Draws


@pytest.mark.parametrize(
    "draws",
    [
        Draws(temperature=-0.1),
        Draws(temperature=float("nan")),
        Draws(temperature="warm"),
        Draws(top_p=1.1),
        Draws(top_p=-1),
        Draws(seed=0.5),
        Draws(seed=True),
        Draws(seed=[1]),
    ],
)
def test_what_is_out_of_range_is_named(draws):
    name, value = next(
        (n, v) for n, v in draws._asdict().items() if v is not Draws._field_defaults[n]
    )
    with pytest.raises(ValueError, match=f"^{name} must be a .*Received: .*{str(value)[:3]}"):
        draws.checked()


def test_what_is_in_range_comes_back():
    draws = Draws(np.float32(0.5), 0, np.int64(2**40))
    assert draws.checked() is draws
    assert is_whole(np.int16(3)) and not is_whole(3.0)
    check_number("diversity", 100, 100.0)


def test_a_users_seed_is_its_own():
    seeds = Draws(seed=3).seeds(["a", "b", "a", 7, "7", "\udc80"])
    assert seeds.dtype == np.int32 and (seeds >= 0).all()
    assert seeds[0] == seeds[2] != seeds[1] and seeds[3] == seeds[4]
    assert Draws(seed=4).seeds(["a"])[0] != seeds[0]
    assert Draws(seed=2**80).seeds(["a"]).shape == (1,)
    assert Draws().seeds([]).shape == (0,)
