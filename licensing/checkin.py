"""One check-in: does the licence still stand? Asked over HTTPS, with a nonce; only a signed answer to it counts.

The answer is bounded in time and size and checked in `licensing/license.py`, so that a proxy in between, an old answer
or a server that took the issuer's name can take trust away, which an unplugged cable can as well, but never give it.
"""

import secrets
from http import HTTPStatus

from licensing.license import KeySet, License, Verdict, read_verdict
from wire import outbound
from wire.errors import SettingsError, Unreachable

PATH = "/v1/checkin"


async def check_in(license: License, keys: KeySet, timeout_s: float, allow_http: bool = False) -> Verdict:
    """Ask once. Raises Unreachable for whatever is not the issuer's signed answer to this question."""
    nonce = secrets.token_urlsafe(16)
    try:
        url = outbound.check_url(license.checkin_url or "", allow_http)
    except SettingsError as error:
        raise Unreachable(f"the license's check-in address cannot be used: {error}") from None
    body = {"license": license.id, "nonce": nonce}
    answer = await outbound.post(url, PATH, body, timeout_s=timeout_s)
    if answer.status != HTTPStatus.OK:
        raise Unreachable(f"{url}{PATH} answered {answer.status}")
    try:
        text = answer.body.decode("ascii")
    except UnicodeDecodeError:
        raise Unreachable("the answer is not the issuer's: it is not text") from None
    return read_verdict(text, keys, license, nonce)
