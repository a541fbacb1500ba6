"""One question over real sockets: what is sent, what comes back, and no key in any error."""

import base64
import json
import socket
import threading
import time

import pytest

from kerasrec.client.chat import ChatEndpoint

QUESTION = {"model": "m", "messages": [{"role": "user", "content": '{"plan": ["机器学习"]}'}]}
KEY = "sk-very-secret-0123456789"


def answer_of(chat, **options):
    return ChatEndpoint(chat.url, **{"timeout": 5, **options}).complete(QUESTION)


def content(value, **more):
    return 200, {}, json.dumps({"choices": [{"message": {"content": value}, **more}]})


def test_question_and_answer(chat):
    assert answer_of(chat, api_key=KEY) == ("推荐机器学习。", True)
    [(path, headers, body)] = chat.came
    assert path == "/v1/chat/completions" and body == QUESTION
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"


def test_no_header_without_a_key(chat):
    answer_of(chat)
    assert "authorization" not in chat.came[0][1]


def test_texts_that_were_cut_off_or_never_began(chat):
    chat.answers += [content("一半", finish_reason="length"), content(None), content("")]
    assert answer_of(chat) == ("一半", False)
    assert answer_of(chat) == answer_of(chat) == ("", True)


@pytest.mark.parametrize("end", ["", "/", "/chat/completions", "?version=1"])
def test_forms_of_an_address(chat, end):
    endpoint = ChatEndpoint(chat.url + end)
    endpoint.complete(QUESTION)
    assert endpoint.address == f"{chat.url}/chat/completions"
    assert chat.came[0][0] == "/v1/chat/completions" + ("?version=1" if "?" in end else "")


def test_user_and_password_of_an_address(chat):
    url = chat.url.replace("//", "//me:pass%40word@")
    chat.answers += [(401, {}, "pass@word is wrong")]
    endpoint = ChatEndpoint(url)
    with pytest.raises(PermissionError, match=r"\*\*\* is wrong"):
        endpoint.complete(QUESTION)
    wanted = base64.b64encode(b"me:pass@word").decode()
    assert chat.came[0][1]["authorization"] == f"Basic {wanted}"
    assert endpoint.address == f"{chat.url}/chat/completions"
    with pytest.raises(ValueError, match="Give api_key or a user in url, not both"):
        ChatEndpoint(url, api_key="k")


@pytest.mark.parametrize(
    ("status", "kind", "tries", "words"),
    [
        (400, ValueError, 1, "INVALID_ARGUMENT: why (HTTP 400)"),
        (401, PermissionError, 1, "UNAUTHENTICATED: why (HTTP 401; check api_key)"),
        (404, LookupError, 1, "NOT_FOUND: why (HTTP 404; check url and model)"),
        (429, ConnectionError, 2, "RESOURCE_EXHAUSTED: why (HTTP 429) (2 tries)"),
        (500, ConnectionError, 2, "UNAVAILABLE: why (HTTP 500) (2 tries)"),
        (504, TimeoutError, 1, "DEADLINE_EXCEEDED: why (HTTP 504)"),
    ],
)
def test_refusals(chat, status, kind, tries, words):
    chat.answers += [(status, {}, '{"error": {"message": "why"}}')] * 2
    with pytest.raises(kind) as error:
        answer_of(chat)
    assert str(error.value) == f"{chat.url}/chat/completions said {words}"
    assert len(chat.came) == tries


@pytest.mark.parametrize(
    ("body", "words"),
    [('{"error": "why"}', "why"), ("plain\nwords", "plain words"), ("", "Bad Request")],
)
def test_words_of_a_refusal(chat, body, words):
    chat.answers += [(400, {}, body)]
    with pytest.raises(ValueError, match=rf"INVALID_ARGUMENT: {words} \(HTTP 400\)$"):
        answer_of(chat)


def test_a_busy_server_is_asked_again_when_it_says(chat):
    chat.answers += [(429, {"retry-after": "1"}, "busy")]
    started = time.monotonic()
    assert answer_of(chat) == ("推荐机器学习。", True)
    assert len(chat.came) == 2 and time.monotonic() - started >= 1


def test_no_wait_beyond_the_timeout(chat):
    chat.answers += [(429, {"retry-after": "60"}, "busy")]
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="busy"):
        answer_of(chat)
    assert len(chat.came) == 1 and time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{garbage", "no JSON"),
        (b"[" * 200_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "JSON of another form"),
        (b"3", "JSON of another form"),
        (b'{"choices": []}', "JSON of another form"),
        (b'{"choices": [{"text": "old"}]}', "JSON of another form"),
        (b'{"choices": [{"message": {"content": 7}}]}', "a content that is int"),
    ],
)
def test_answers_of_another_form(chat, body, words):
    chat.answers += [(200, {}, body)]
    expected = rf"must answer with a text in choices\[0\].message.content. Received: {words}\.$"
    with pytest.raises(ValueError, match=expected):
        answer_of(chat)
    assert len(chat.came) == 1


def test_an_endless_answer(chat):
    chat.answers += [(200, {}, b" " * 1_100_000)]
    with pytest.raises(ValueError, match="more than 1,048,576 bytes"):
        answer_of(chat)


def test_a_slow_server(chat):
    chat.answers += [1.0]
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="DEADLINE_EXCEEDED: no answer in 0.3 s"):
        answer_of(chat, timeout=0.3)
    assert time.monotonic() - started < 0.9


def test_a_server_that_answers_byte_by_byte(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            try:
                with listening.accept()[0] as connection:
                    for _ in range(100):
                        connection.sendall(b"H")
                        time.sleep(0.05)
            except OSError:
                pass

        threading.Thread(target=drip, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            ChatEndpoint(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.4).complete({})
        assert time.monotonic() - started < 1.5


def test_nobody_there(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionError, match=r"UNAVAILABLE: .*refused.* \(2 tries\)"):
        ChatEndpoint(f"http://127.0.0.1:{port}/v1").complete(QUESTION)


def test_a_redirection_is_not_followed(chat):
    chat.answers += [(307, {"location": chat.url + "/other"}, "elsewhere")]
    with pytest.raises(ValueError, match=r"elsewhere \(HTTP 307\)"):
        answer_of(chat, api_key=KEY)
    assert len(chat.came) == 1


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_is_sent_back_is_not_shown(chat, status):
    chat.answers += [(status, {}, json.dumps({"error": {"message": f"bad {KEY}"}}))] * 2
    with pytest.raises(Exception) as error:
        answer_of(chat, api_key=KEY)
    assert KEY not in str(error.value) and str(error.value).startswith(chat.url)


def test_a_key_in_an_answer_makes_it_none(chat):
    chat.answers += [content(f"推荐机器学习。{KEY}"), content("EMPTY 机器学习")]
    with pytest.raises(ValueError, match="Received: one with the key."):
        answer_of(chat, api_key=KEY)
    assert answer_of(chat, api_key="EMPTY")[0] == "EMPTY 机器学习"  # a key in name only


@pytest.mark.parametrize(
    "url",
    [
        "",
        None,
        "localhost:8000",
        "file:///etc/hosts",
        "http://",
        "http://a:b",
        "http://a b",
        "ftp://a",
    ],
)
def test_no_address(url):
    with pytest.raises(ValueError, match="url must be the address where the protocol begins"):
        ChatEndpoint(url)


def test_an_error_about_an_address_hides_its_password():
    for url in ("me:word@host/v1", "ftp://me:word@host/v1", "http://me:word@host:x/v1?key=word"):
        with pytest.raises(ValueError) as error:
            ChatEndpoint(url)
        assert "word" not in str(error.value) and "host" in str(error.value)


@pytest.mark.parametrize("key", ["a b", "a\nb", "钥匙"])
def test_no_key(key):
    with pytest.raises(ValueError, match="printable ASCII") as error:
        ChatEndpoint("http://localhost", api_key=key)
    assert key not in str(error.value)


@pytest.mark.parametrize("option", [{"timeout": 0}, {"retries": -1}])
def test_limits_of_numbers(option):
    with pytest.raises(ValueError, match="timeout must be above 0, retries at least 0"):
        ChatEndpoint("http://localhost", **option)
