"""Where things lie, whatever folder a test is in."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
FILES = TESTS / "files"
HELPERS = TESTS / "helpers"
#: real data beside the repository, on some machines
SHARED = ROOT.parent / "shared" / "data"
