"""The rules of a shop in served lists, and their file, which changes as the server runs."""

import os
import time

import httpx
import pytest

from kerasrec.serving.server import FeedbackOptions, ServerOptions, running_server
from kerasrec.versions.folders import read_catalogue


def write(path, text):
    """Writes a file whose time is another one, however coarse the clock of the disk is."""
    path.write_text(text, encoding="utf-8")
    later = time.time_ns() + time.monotonic_ns() % 10**9
    os.utime(path, ns=(later, later))


@pytest.fixture(scope="module")
def catalogue(served_folder):
    return read_catalogue(served_folder / "1").set_index("item_id")


def test_served_lists_follow_the_rules_and_the_file(served_folder, tmp_path, catalogue):
    path = tmp_path / "rules.yaml"
    write(path, "{}")
    feedback = FeedbackOptions(tmp_path / "f.db", shop_rules=path)
    with running_server(served_folder, ServerOptions(feedback=feedback)) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:

            def listed(**more):
                params = {"user": "nobody", "k": 10, "log": 0, **more}
                answer = client.get("/v1/recommend", params=params)
                assert answer.status_code == 200, answer.text
                return [row["item_id"] for row in answer.json()["items"]]

            def until(is_so):
                end = time.monotonic() + 10
                while not is_so(listed()) and time.monotonic() < end:
                    time.sleep(0.1)
                return is_so(listed())

            def are_different(items):
                schools = [catalogue["category"][item] for item in items]
                return len(set(schools)) == len(schools)

            natural = listed(k=50)
            assert not are_different(natural[:10])
            write(path, "most:\n  - {column: category, number: 1}\n")
            assert until(are_different)
            plain = natural[30]
            write(path, f"pin:\n  - {{where: {{item_id: {plain!r}}}, place: 3}}\n")
            assert until(lambda items: items[2:3] == [plain])
            # with a condition the pin must meet it too
            other = catalogue["category"][listed()[0]]
            found = listed(where=f"category={other}")
            assert {catalogue["category"][item] for item in found} == {other}
            write(path, "pin: [")  # the rules stay as they were
            time.sleep(1.5)
            assert listed()[2] == plain
            write(path, "{}")
            assert until(lambda items: items == natural[:10])


@pytest.mark.slow
def test_wrong_rules_are_told_before_the_server_answers(served_folder, tmp_path):
    path = tmp_path / "rules.yaml"
    options = ServerOptions(feedback=FeedbackOptions(tmp_path / "f.db", shop_rules=path))
    for text, expected in (
        ("mst: []", "Did you mean 'most'"),
        ("most: [{column: catgory, number: 1}]", "Did you mean 'category'"),
    ):
        write(path, text)
        with pytest.raises(ValueError, match=expected):
            with running_server(served_folder, options):
                pass


def test_served_lists_know_what_a_user_had(served_folder, tmp_path, catalogue):
    path = tmp_path / "rules.yaml"
    write(path, "{}")
    feedback = FeedbackOptions(tmp_path / "f.db", shop_rules=path)
    with running_server(served_folder, ServerOptions(feedback=feedback)) as server:
        with httpx.Client(base_url=server.rest_address, timeout=30) as client:

            def listed(**more):
                answer = client.get("/v1/recommend", params={"user": "u", "k": 50, **more})
                assert answer.status_code == 200, answer.text
                return [row["item_id"] for row in answer.json()["items"]]

            def until(is_so, **more):
                end = time.monotonic() + 10
                while not is_so(listed(log=0, **more)) and time.monotonic() < end:
                    time.sleep(0.1)
                return is_so(listed(log=0, **more))

            schools, now = catalogue["category"], int(time.time())
            natural = listed(log=0)
            bought, other = natural[0], natural[1]
            events = [
                {"user_id": "u", "item_id": bought, "event": "purchase", "timestamp": now - 9000},
                {"user_id": "u", "item_id": other, "event": "purchase", "timestamp": now - 8000},
            ]
            client.post("/v1/feedback", json=events)
            both = {"where": [f"item_id={bought}", f"item_id={other}"]}
            assert listed(log=0, **both) == []
            write(path, f"keep_purchased: {{item_id: {bought!r}}}\n")
            assert until(lambda items: items == [bought], **both)
            pause = "pause:\n  - {days: 1, column: category, events: [purchase]}\n"
            write(path, pause)
            out = {schools[bought], schools[other]}
            assert until(lambda items: not out & {schools[item] for item in items})
            assert listed(log=0, **both) == []
            # what was listed counts as an impression
            write(path, "pause:\n  - {days: 1, events: [impression]}\n")
            assert until(lambda items: out & {schools[item] for item in items})
            shown = set(listed(k=5))
            assert len(shown) == 5 and until(lambda items: not shown & set(items))
