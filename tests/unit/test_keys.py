"""Names into keys (DESIGN, "Keys")."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.config.keys import snake_key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Order Completed Last 30days", "order_completed_last_30days"),
        ("Last 30days", "last_30days"),
        ("OrderCompleted", "order_completed"),
        ("orderCompleted2Times", "order_completed2_times"),
        ("VIP", "vip"),
        ("VIPs", "vips"),
        ("iOS users", "i_os_users"),
        ("  Big -- spenders!! ", "big_spenders"),
        ("big_spenders", "big_spenders"),
        ("__x__", "x"),
        ("Größe über 50 €", "grosse_uber_50"),
        ("Été à Paris", "ete_a_paris"),
        ("E\u0301te\u0301", "ete"),
        ("Łódź", "lodz"),
        ("ÆØÅ", "aeoa"),
        ("ПокупкиВчера", "pokupki_vchera"),
        ("Щи", "shchi"),
        ("Ελλάδα", "ellada"),
        ("100%", "100"),
        ("a.b/c", "a_b_c"),
        ("tab\tnew\nline", "tab_new_line"),
        ("３０日", "30ri"),
        ("❤️", ""),
        ("!!!", ""),
        ("", ""),
    ],
)
def test_examples(name: str, key: str) -> None:
    assert snake_key(name) == key


@given(st.text())
def test_a_key_is_ascii_words_with_one_underline_between(name: str) -> None:
    assert re.fullmatch(r"([a-z0-9]+(_[a-z0-9]+)*)?", snake_key(name))


@given(st.text())
def test_the_key_of_a_key_is_itself(name: str) -> None:
    assert snake_key(snake_key(name)) == snake_key(name)


@given(st.text(alphabet="abcXYZ0189 -", max_size=20))
def test_letters_and_digits_are_never_lost(name: str) -> None:
    assert snake_key(name).replace("_", "") == re.sub(r"[^a-z0-9]", "", name.lower())


@given(st.text(alphabet="abc019", min_size=1))
def test_lower_case_letters_and_digits_are_never_split(name: str) -> None:
    assert snake_key(name) == name
