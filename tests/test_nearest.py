from kerasrec.nearest import nearest


def test_nearest_without_a_likeness():
    assert nearest("zzz", ["dropout", "heads"]) == "Known: dropout, heads."
    assert nearest(3, ["dropout"]) == "Known: dropout."


def test_nearest_names_the_likeliest():
    assert (
        nearest("epoch", ["epochs", "patience"])
        == "Did you mean 'epochs'? Known: epochs, patience."
    )
