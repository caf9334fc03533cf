"""What a source string says, and how it may be shown."""

import pytest

from edgecrack.errors import SpecError
from edgecrack.runtime.address import check_url, redacted, redacted_path, scheme_of, trimmed


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://camera/1", "rtsp://camera/1"),
        ("rtsp://user:secret@camera:554/1?x=2", "rtsp://***@camera:554/1?x=2"),
        ("rtsp://user:se@cr/et@camera/1", "rtsp://***@camera/1"),
        ("http://camera/video?user=admin&pwd=secret&fps=5", "http://camera/video?user=***&pwd=***&fps=5"),
        ("rtsp://camera/user=admin_password=secret_channel=1.sdp", "rtsp://camera/user=***"),
        ("srt://camera:9?passphrase=secret&latency=20", "srt://camera:9?passphrase=***&latency=20"),
        (
            'gst:rtspsrc location=rtsp://u:secret@h/1 user-id=admin user-pw="my secret" latency=0 ! decodebin',
            "gst:rtspsrc location=rtsp://***@h/1 user-id=*** user-pw=*** latency=0 ! decodebin",
        ),
        ("rtsp://h:554/user=admin&password=P@ssw0rd&channel=1", "rtsp://h:554/user=***&password=***&channel=1"),
        ("http://h/v?user=admin&pwd=abc!123;x", "http://h/v?user=***&pwd=***"),
        ("http://h/v?loginuse=admin&loginpas=secret", "http://h/v?loginuse=***&loginpas=***"),
        ("rtsp://admin:my secret@10.0.0.1/live", "rtsp://***@10.0.0.1/live"),
        ("rtsp://u:secret@h/v?password=P@ss", "rtsp://***@h/v?password=***"),
        ("rtsp://u:a&password=secret@h/v", "rtsp://***@h/v"),
        ("rtsp://[::1]:554/v?token=se@cret", "rtsp://[::1]:554/v?token=***"),
        ("gst:rtspsrc user-pw=pass!word ! fakesink", "gst:rtspsrc user-pw=*** ! fakesink"),
        ("gst:rtspsrc user-pw='my secret' ! fakesink", "gst:rtspsrc user-pw=*** ! fakesink"),
        ("rtsp://h/0/admin:secret/main", "rtsp://h/0/***/main"),
        ("http://h:80/v?admin:secret", "http://h:80/v?***"),
        ("http://h/v?u=admin&p=secret&fps=5", "http://h/v?u=***&p=***&fps=5"),
        ("gst:x264enc key-int-max=30 ! fakesink", "gst:x264enc key-int-max=30 ! fakesink"),
        ("srt://h:8890?streamid=read:road:admin:secret&latency=9", "srt://h:8890?streamid=***&latency=9"),
        ("rtsp://h/1?jwt=eyJhbGci.secret.sig", "rtsp://h/1?jwt=***"),
        ("http://h/v?usr=admin&psk=secret", "http://h/v?usr=***&psk=***"),
        ("rtsp://h/cam?channel=1&authbasic=YWRtaW46c2Vj", "rtsp://h/cam?channel=1&authbasic=***"),
        ("http://h/v?jsessionid=a1&ticket=b2&sid=c3&fps=5", "http://h/v?jsessionid=***&ticket=***&sid=***&fps=5"),
        ("http://h/v?bearer=a&Authorization=b&side=left", "http://h/v?bearer=***&Authorization=***&side=left"),
        (
            'gst:rtspsrc location="rtsp://admin:my secret@h/1" latency=0 ! decodebin',
            'gst:rtspsrc location="rtsp://***@h/1" latency=0 ! decodebin',
        ),
        (
            'gst:souphttpsrc location=http://h/1 cookies="a=secret" extra-headers="x, A=(string)\\"Basic sec\\"" ! fakesink',
            "gst:souphttpsrc location=http://h/1 cookies=*** extra-headers=*** ! fakesink",
        ),
        ('gst:rtspsrc user-pw="a \\" b" ! fakesink', "gst:rtspsrc user-pw=*** ! fakesink"),
        (
            "gst:rtspsrc location=rtsp://admin:s@-'ecret@h/1 ! fakesink",
            "gst:rtspsrc location=rtsp://***@h/1 ! fakesink",
        ),
    ],
)
def test_passwords_are_not_shown(source, shown):
    assert redacted(source) == shown


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("road.mp4", "road.mp4"),
        ("crew@north/road.mp4", "crew@north/road.mp4"),
        ("rtsp:/admin:secret@10.0.0.5/live", "***@10.0.0.5/live"),
        ("admin:se@cret@10.0.0.5/live", "***@10.0.0.5/live"),
        ("admin:my secret@10.0.0.5/live?token=secret", "***@10.0.0.5/live?token=***"),
        ("rtsp://admin:secret@10.0.0.5/live", "rtsp://***@10.0.0.5/live"),
    ],
)
def test_nor_are_those_of_an_address_that_was_mistyped(path, shown):
    assert redacted_path(path) == shown


@pytest.mark.parametrize(
    ("source", "scheme"),
    [
        ("0", "v4l2"),
        ("/dev/video12", "v4l2"),
        ("/dev/v4l/by-id/usb-Maker_Camera-video-index0", "v4l2"),
        ("RTSP://camera", "rtsp"),
        ("csi://0", "csi"),
        ("gst:videotestsrc", "gst"),
        ("raw:1x1@1", "raw"),
        ("road.mp4", ""),
        ("photos/*.jpg", ""),
        ("C:/road.mp4", ""),
        ("2024", ""),
    ],
)
def test_the_kind_of_source_is_seen_from_its_string(source, scheme):
    assert scheme_of(source) == scheme


def test_blanks_around_an_address_do_not_count_and_those_of_a_path_do():
    assert trimmed(" rtsp://camera/1\n") == "rtsp://camera/1"
    assert trimmed(" 0 ") == "0"
    assert trimmed(" road.mp4") == " road.mp4"


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://camera/1",
        "rtsp://user:secret@camera:554/1?x=a@b",
        "rtsp://user:se@cret@10.0.0.1:8554",
        "http://[fe80::1]:8080/video",
        "udp://:5000",
        "udp://@239.0.0.1:1234?pkt_size=1316",
        "srt://:9000?mode=listener",
        "rtmp://a/b/c",
    ],
)
def test_an_address_that_may_be_is_taken(url):
    check_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rtsp://", "got no host"),
        ("rtsp:///live", "got no host"),
        ("rtsp://user:secret@/live", "got no host"),
        ("rtsp://camera:99999/1", "host or port"),
        ("rtsp://camera:0/1", "host or port"),
        ("rtsp://admin:secret", "host or port"),
        ("rtsp://two words/1", "host or port"),
        ("udp://239.0.0.1", "got no port"),
        ("srt://camera/x", "got no port"),
    ],
)
def test_an_address_that_never_comes_right_is_refused_without_being_shown(url, message):
    with pytest.raises(SpecError, match=message) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)
