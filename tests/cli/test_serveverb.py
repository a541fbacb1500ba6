"""What `kerasrec serve` prints; the server itself is tested in tests/serving."""

import json
import shlex

import httpx

from kerasrec.cli.serveverb import examples
from kerasrec.versions.folders import read_catalogue


def test_examples_run_as_they_are_printed(server):
    (line,) = examples(server)
    words = shlex.split(line)
    assert words[0] == "curl" and words[2] == "-d"
    answer = httpx.post(words[1], content=words[3].encode())
    assert answer.status_code == 200 and answer.json()["predictions"][0]["item_ids"]
    (item,) = json.loads(words[3])["instances"][0]["history"]
    with server.models["toy"].use() as version:
        assert item in set(read_catalogue(version.path)["item_id"])
