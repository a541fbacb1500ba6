from kerasrec.checks import did_you_mean


def test_did_you_mean_without_a_likeness():
    assert did_you_mean("zzz", ["dropout", "heads"]) == "Known: dropout, heads."
    assert did_you_mean(3, ["dropout"]) == "Known: dropout."


def test_did_you_mean_names_the_likeliest():
    assert (
        did_you_mean("epoch", ["epochs", "patience"])
        == "Did you mean 'epochs'? Known: epochs, patience."
    )
