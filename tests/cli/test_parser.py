import pytest

from kerasrec.cli import modelverbs
from kerasrec.cli.entry import VERBS
from kerasrec.cli.parser import Parser
from kerasrec.cli.userinput import UserError


@pytest.fixture
def parser():
    parser = Parser("kerasrec train")
    modelverbs.add_train(parser)
    return parser


NEEDED = ["--interactions", "a.csv", "--items", "i.csv", "--name", "x"]


def test_options_of_many_files_add_up(parser):
    words = [*NEEDED, "--interactions", "b.csv", "c.csv", "--set", "a=1", "--set", "b=2", "c=3"]
    options = parser.parse_args(words)
    assert options.interactions == ["a.csv", "b.csv", "c.csv"]
    assert options.set == ["a=1", "b=2", "c=3"]


def test_defaults_take_events_as_they_are(parser):
    options = parser.parse_args(NEEDED)
    assert (options.repeats, options.unknown_items, options.on_bad) == ("keep", "error", "error")
    assert options.min_user_events == options.min_item_events == 0
    assert options.max_user_events is options.valid is options.encoder is options.seed is None
    assert (options.preset, options.out, options.encoding) == ("balanced", "saved_models", "utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "the following arguments are required: --interactions, --name. See kerasrec",
        ),
        ([*NEEDED, "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        ([*NEEDED, "--repeats", "all"], "argument --repeats: invalid choice: 'all'"),
        ([*NEEDED, "--items"], "argument --items: expected one argument"),
        ([*NEEDED, "--inter", "b.csv"], "unrecognized arguments: --inter b.csv"),
    ],
)
def test_mistakes_are_one_sentence(parser, words, message, capsys):
    with pytest.raises(UserError) as caught:
        parser.parse_args(words)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_check_names(parser):
    parser.check_names(["--items", "x", "--set=a=1", "--", "-v", "--help"])
    with pytest.raises(UserError, match="unknown option --itemz. Did you mean '--items'"):
        parser.check_names(["--itemz=x"])


@pytest.mark.parametrize("verb", ["recommend", "evaluate", "similar", "export"])
def test_verbs_on_a_model_need_one(verb):
    parser = Parser(f"kerasrec {verb}")
    getattr(modelverbs, f"add_{verb}")(parser)
    with pytest.raises(UserError, match="--model"):
        parser.parse_args([])


def test_options_and_work_of_a_verb_stand_in_one_file():
    assert {
        verb for verb, pair in VERBS.items() if pair[0].__module__ != pair[1].__module__
    } == set()
