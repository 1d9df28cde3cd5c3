"""What is shown of an address holds no secret (DESIGN, rule 9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.redact import database_address, web_address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://tray.example/hooks/s3cret?x=s3cret", "https://tray.example/…"),
        ("https://user:s3cret@tray.example:8443/", "https://tray.example:8443"),
        ("http://[::1]:80/s3cret", "http://[::1]:80/…"),
        ("https://tray.example", "https://tray.example"),
        ("https://tray.example?s3cret", "https://tray.example/…"),
        ("https://tray.example#s3cret", "https://tray.example"),
        ("https://tray.example:s3cret/", "an address that cannot be read"),
    ],
)
def test_web_addresses(url: str, shown: str) -> None:
    assert web_address(url) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql+psycopg://u:s3cret@h:5432/db?password=s3cret&sslkey=s3cret",
            "postgresql+psycopg://u:***@h:5432/db",
        ),
        ("sqlite:////data/shop.db", "sqlite:////data/shop.db"),
        ("s3cret", "a database URL that cannot be read"),
    ],
)
def test_database_addresses(url: str, shown: str) -> None:
    assert database_address(url) == shown


@given(st.text(alphabet=st.characters(categories=("L", "N", "P")), max_size=30))
def test_no_path_query_or_password_comes_through(noise: str) -> None:
    secret = "s3cret" + noise.replace("/", "").replace("\\", "") + "s3cret"
    for url in (f"https://h/{secret}", f"https://h/?t={secret}", f"https://u:{secret}@h/"):
        assert "s3cret" not in web_address(url) or "@" in secret or "#" in secret or "?" in secret
