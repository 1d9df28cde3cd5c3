from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from audience_sync.delivery.body import Signer


@given(secret=st.text(max_size=100), body=st.binary(max_size=300))
def test_a_signature_is_the_hex_hmac_sha1(secret: str, body: bytes) -> None:
    signer = Signer(secret)
    expected = hmac.new(secret.encode(), body, "sha1").hexdigest()
    assert [signer.sign(body), signer.sign(body)] == [expected, expected]
