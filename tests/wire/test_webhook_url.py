"""Where a webhook may go: told before anything is sent, for every way to write an address."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.webhook_url import check_header_name, check_header_value, check_url, is_refused


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/services/T0/B0?token=x%20y",
        "http://localhost:8000",
        "http://127.0.0.1/x",
        "http://10.1.2.3:9/",
        "http://192.168.0.7",
        "http://[::1]:8080/x",
        "https://[fd00::1]/",
        "https://xn--bcher-kva.example/",
        "http://my_host/hook#fragment",
        "HTTPS://EXAMPLE.COM",
    ],
)
def test_an_ordinary_url_passes(url: str):
    check_url(url)


@pytest.mark.parametrize(
    "url,why",
    [
        ("", "percent-encoded ASCII"),
        ("ftp://example.com", "must begin with http"),
        ("example.com/hook", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        ("https://", "must name a host"),
        ("https:///path", "must name a host"),
        ("https://a..b/", "must name a host"),
        ("https://-a.example/", "must name a host"),
        (f"https://{'a' * 64}.example/", "must name a host"),
        ("https://example.com:0/", "must name a host"),
        ("https://exa%6dple.com/", "must name a host"),
        ("https://[fe80::1%25eth0]/", "must name a host"),
        ("https://example.com:99999/", "not a valid URL"),
        ("https://example.com:x/", "not a valid URL"),
        ("https://[::1/", "not a valid URL"),
        ("https://user:secret@example.com/", "user name or password"),
        ("https://example.com@169.254.169.254/", "user name or password"),
        ("https://example.com/a b", "percent-encoded ASCII"),
        ("https://example.com/\r\nX: y", "percent-encoded ASCII"),
        ("https://bücher.example/", "percent-encoded ASCII"),
        ("https://example.com\\@x/", "percent-encoded ASCII"),
        ("https://example.com/" + "a" * 2048, "at most 2048 characters"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("http://[::ffff:169.254.169.254]/", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("http://100.100.100.200/", "link-local"),
        ("http://0.0.0.0:6379/", "link-local"),
    ],
)
def test_another_url_is_refused_with_its_reason(url: str, why: str):
    with pytest.raises(ValueError, match=why) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("webhook_url ")


@given(url=st.text(max_size=60) | st.text(max_size=40).map("https://{}".format))
def test_any_text_passes_or_is_refused(url: str):
    try:
        check_url(url)
    except ValueError as error:
        assert str(error).startswith("webhook_url ")
    else:
        assert url.isascii()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "2001:0:102:304:0:0:5601:5601",
    ],
)
def test_addresses_that_only_this_machine_can_reach(address: str):
    assert is_refused(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"),
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12:3456::1", "::ffff:10.0.0.1"),
        *("93.184.216.34", "1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1"),
        *("169.253.255.255", "169.255.0.0", "100.100.100.201", "223.255.255.255", "fec0::1", "fe7f::1"),
    ],
)
def test_private_and_public_addresses_may_be_reached(address: str):
    assert not is_refused(ip_address(address))


@given(address=st.ip_addresses(v=4))
def test_an_address_is_judged_alike_in_all_its_forms(address):
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        wrapped = ip_address(int(ip_address(prefix)) + int(address))
        assert is_refused(wrapped) == is_refused(address)


@pytest.mark.parametrize("name", ["Authorization", "X-Hook-Secret", "x_y.z~1"])
def test_a_header_name_passes(name: str):
    check_header_name(name)


@pytest.mark.parametrize(
    "name", ["", "X Y", "X:Y", "X\r\nHost", "Ü", "Host", "content-length", "Transfer-Encoding", "a" * 129]
)
def test_another_header_name_is_refused(name: str):
    with pytest.raises(ValueError, match="webhook_auth_header_name"):
        check_header_name(name)


@pytest.mark.parametrize("value", ["x", "Bearer abc.def=", "a, b; c"])
def test_a_header_value_passes(value: str):
    check_header_value(value)


@pytest.mark.parametrize(
    "value", ["", " ", " x", "x ", "a\r\nHost: b", "a\nb", "a\tb", "a\x00", "ü", "x" * 4097]
)
def test_another_header_value_is_refused_and_not_repeated(value: str):
    with pytest.raises(ValueError, match="webhook_auth_header_value must be") as caught:
        check_header_value(value)
    assert not value.strip() or len(value) < 2 or value not in str(caught.value)
