import pytest

from kerasrec.data.formats.encodings import find_encoding, is_chinese

CHINESE = "用户,商品,标题\n1,2,红楼梦\n3,4,大学物理实验\n5,6,中国历史地理\n"
#: what shops elsewhere write; read as GBK, most of it gives characters too
KOREAN = (
    "사용자,상품,제목\n1,2,무선 블루투스 이어폰 고음질\n3,4,어린이 동화책 전집\n5,6,한국어 문법\n"
)
JAPANESE = "利用者,商品,題名\n1,2,無線イヤホン高音質\n3,4,子供用絵本全集\n5,6,東京旅行案内\n"
RUSSIAN = "пользователь,товар\n1,война и мир\n2,чайник электрический\n3,наушники\n"
TRADITIONAL = "使用者,商品,標題\n1,2,紅樓夢與西遊記\n3,4,兒童圖書全集繁體\n5,6,時代經濟學原理\n"
FRENCH = "utilisateur,été\n1,élève très français où être né\n2,théâtre complet\n"


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize(
    "encoding", ["gb2312", "gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be"]
)
def test_chinese_is_found_by_its_bytes(encoding, times):
    found = find_encoding((CHINESE * times).encode(encoding))
    assert found == ("gb18030" if encoding.startswith("gb") else encoding)


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (KOREAN, "euc_kr"),
        (KOREAN, "cp949"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "shift_jis"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (TRADITIONAL, "big5"),
        (FRENCH, "cp1252"),
        (CHINESE, "utf-8"),
        (CHINESE, "utf-8-sig"),
    ],
)
def test_other_text_is_not_taken_for_chinese(text, encoding, times):
    raw = (text * times).encode(encoding)
    assert find_encoding(raw) == "" and not is_chinese(raw)


def test_damage_changes_nothing():
    assert find_encoding((CHINESE * 9).encode("gbk") + b"7,8,\xff\n") == "gb18030"
    assert find_encoding((CHINESE * 9).encode() + b"7,8,\xff\n") == ""


def test_a_few_characters_are_not_certain():
    assert find_encoding("user,title\n1,红楼梦\n2,西游记\n".encode("gbk")) == ""


def test_the_sample_may_end_within_a_character():
    raw = (CHINESE * 3).encode("gb18030")
    assert {find_encoding(raw[:size]) for size in range(60, 120)} == {"gb18030"}


def test_zero_bytes_alone_are_no_utf_16():
    assert find_encoding(b"\0" * 100) == "" and find_encoding(b"") == ""
    assert find_encoding(b"a,b\n1,\0\n" * 10) == ""


def test_words_that_come_again_say_as_much_as_once():
    """A plain log: ids, times and one of five words in each row."""
    words = ["浏览", "加购", "收藏", "购买", "浏览"]
    rows = [f"u{n},{n:06},2026-09-30 02:34:14,{words[n % 5]}\n" for n in range(500)]
    raw = ("会员ID,商品ID,下单时间,行为\n" + "".join(rows)).encode("gbk")
    assert find_encoding(raw) == "gb18030" and find_encoding(raw[:200]) == "gb18030"
    english = ("user_id,item_id,time,event\n" + "".join(rows)).encode("gbk")
    assert find_encoding(english) == "gb18030"
    korean = "user,event\n" + "1,조회\n2,구매\n3,클릭\n" * 500
    assert find_encoding(korean.encode("euc_kr")) == ""
