"""Messages to a real MQTT broker: one that is there, one that is away, one that refuses, one that answers nothing."""

from __future__ import annotations

import gc
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from edgecrack.errors import SpecError
from edgecrack.runtime import Account, Detection, Event, Frame

pytest.importorskip("paho.mqtt", reason="MQTT needs edgecrack[live]")
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from waiting import free_port, wait_until

from edgecrack.runtime import mqtt
from edgecrack.runtime.mqtt import Broker, MqttMessages

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
USER, PASSWORD = "van-7", "p@ss/w:rd"  # as people choose them, and do not escape them


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Mosquitto:
    """A broker for whoever knows the password."""

    def __init__(self, folder, *settings):
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        passwords = folder / "passwords"
        passwords.touch(0o600)
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), USER, PASSWORD], check=True)
        # as root it would become a user that cannot read a test's folder
        text = f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
        self._file.write_text(text + "".join(f"{line}\n" for line in settings))
        self._process = None

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._file)], **quiet)
        wait_until(lambda: answers(self.port))

    def kill(self):
        if self._process:
            self._process.kill()
            self._process.wait()

    def url(self, scheme="mqtt", password=PASSWORD, host="127.0.0.1"):
        return f"{scheme}://{USER}:{password}@{host}:{self.port}/survey/van-7"

    @contextmanager
    def heard(self):
        """What comes to the broker while the block lasts, as (topic, message)."""
        found, ready = [], threading.Event()
        client = Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set(USER, PASSWORD)
        client.on_connect = lambda client, *rest: client.subscribe("#", qos=1)
        client.on_subscribe = lambda *rest: ready.set()
        client.on_message = lambda client, data, message: found.append((message.topic, json.loads(message.payload)))
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        assert ready.wait(20)
        try:
            yield found
        finally:
            client.disconnect()
            client.loop_stop()


@pytest.fixture
def broker(tmp_path):
    if not (MOSQUITTO and shutil.which("mosquitto_passwd")):
        pytest.skip("no mosquitto: apt-get install mosquitto")
    made = Mosquitto(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def send():
    """Open messages to a broker: `send(url, **options)`."""
    opened = []

    def call(url, **options):
        opened.append(MqttMessages(Broker.parse(url), **options))
        return opened[-1]

    yield call
    for messages in opened:
        messages.close()
    wait_until(lambda: not [thread for thread in threading.enumerate() if "mqtt" in thread.name])


def found(index=0, source="cam", crack=1.0, size=(40, 50)):
    """A frame of which the share `crack` is crack."""
    probability = np.zeros(size, np.uint8)
    probability.flat[: round(crack * probability.size)] = 255
    frame = Frame(np.zeros((*size, 3), np.uint8), index, index / 10, source, 1.0, 1_700_000_000.25)
    return frame, Detection.of(probability, 0.5)


def event(name, number=0, **details):
    return Event(name, "cam", 1_700_000_000.0, {"number": number, **details})


def test_events_and_finds_arrive_as_the_log_has_them(broker, send):
    broker.start()
    with broker.heard() as heard:
        messages = send(broker.url())
        wait_until(messages._client.is_connected)  # what waited for it may come in any order
        messages.write_event(event("lost", reason="it went away"))
        messages.write(*found(7, crack=0.5))
        messages.write_event(Account(3, 2, {"newer": 1}, 0))
        wait_until(lambda: len(heard) == 3)
    assert heard[0] == ("survey/van-7/events", event("lost", reason="it went away").to_json())
    topic, find = heard[1]
    assert topic == "survey/van-7/finds"
    expected = {"index": 7, "source": "cam", "time": 0.7, "utc": "2023-11-14T22:13:20.250Z", "crack_pixels": 1000}
    assert expected.items() <= find.items()
    assert heard[2] == ("survey/van-7/events", Account(3, 2, {"newer": 1}, 0).to_json())


def test_the_last_messages_are_sent_before_it_ends(broker, caplog):
    broker.start()
    with broker.heard() as heard:
        with MqttMessages(Broker.parse(broker.url())) as messages:
            wait_until(messages._client.is_connected)
            for number in range(50):
                messages.write_event(event("marked", number))
        wait_until(lambda: len(heard) == 50)
        assert [message["number"] for _, message in heard] == list(range(50))
    assert not caplog.records


def test_finds_are_few_and_dropped_frames_are_not_sent(broker, send, monkeypatch):
    monkeypatch.setattr(mqtt, "_PAUSE", 1e9)
    broker.start()
    with broker.heard() as heard:
        messages = send(broker.url(), share=0.1)
        wait_until(messages._client.is_connected)  # what waited for it may come in any order, and twice
        messages.write(*found(1, crack=0.0))
        messages.write(*found(2, crack=0.09))
        messages.write(*found(3, crack=0.1))
        for index in range(4, 50):
            messages.write(*found(index))
            messages.write_event(event("dropped", index, cause="newer", first=0, last=9))
        messages.write(*found(50, source="other camera"))
        messages.write_event(event("ended"))
        wait_until(lambda: len(heard) == 3)
    assert [message.get("index") for _, message in heard] == [3, 50, None]


def test_a_find_without_a_single_pixel_is_none(broker, send):
    broker.start()
    with broker.heard() as heard:
        messages = send(broker.url(), share=0.0)
        messages.write(*found(1, crack=0.0))
        messages.write_event(event("ended"))
        wait_until(lambda: heard)
    assert [topic for topic, _ in heard] == ["survey/van-7/events"]


def test_after_the_pause_the_next_find_is_sent(broker, send, monkeypatch):
    monkeypatch.setattr(mqtt, "_PAUSE", 0.05)
    broker.start()
    with broker.heard() as heard:
        messages = send(broker.url())
        messages.write(*found(1))
        wait_until(lambda: messages.write(*found(2)) or len(heard) > 1)


def test_what_happens_while_the_broker_is_away_arrives_later(broker, send, caplog):
    messages = send(broker.url())
    wait_until(lambda: "cannot be reached; trying again" in caplog.text)
    for number in range(30):
        messages.write_event(event("marked", number))
    broker.start()
    with broker.heard() as heard:  # whoever listens from now on hears what was sent after that
        wait_until(messages._client.is_connected)
        wait_until(lambda: messages._sent == 30)
        messages.write_event(event("marked", 30))
        wait_until(lambda: heard)
    broker.kill()
    messages.write_event(event("marked", 31))
    broker.start()
    wait_until(lambda: messages._sent == 32)
    assert PASSWORD not in caplog.text


def test_a_broker_that_stays_away_keeps_nobody_waiting_and_fills_no_memory(send, monkeypatch, caplog):
    monkeypatch.setattr(mqtt, "_KEPT", 10)
    messages = send(f"mqtt://{USER}:{PASSWORD}@127.0.0.1:{free_port()}")
    for number in range(25):
        messages.write_event(event("marked", number))
    assert messages.lost == 15
    begun = time.monotonic()
    messages.close()
    messages.close()
    messages.write_event(event("ended"))  # comes too late, and is no error
    assert time.monotonic() - begun < 10
    assert "25 messages did not reach mqtt://127.0.0.1" in caplog.text
    assert PASSWORD not in caplog.text


def test_a_broker_that_takes_a_connection_and_answers_nothing(send, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        messages = send(f"mqtt://127.0.0.1:{silent.getsockname()[1]}")
        taken, _ = silent.accept()
        with taken:
            for number in range(2000):
                messages.write_event(event("marked", number, text="x" * 1000))
            messages.close()
    assert "2000 messages did not reach" in caplog.text


def test_a_broker_that_hangs_up_is_told(send, caplog):
    """As one that wants TLS does, or a tunnel with nothing behind it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        send(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        server.accept()[0].close()
        wait_until(lambda: "hung up; trying again" in caplog.text)


def test_a_mark_during_the_close_harms_nobody(send):
    messages = send("mqtt://127.0.0.1:1")
    marking = threading.Thread(target=messages.write_event, args=(event("marked"),))
    with messages._lock:
        marking.start()
        wait_until(lambda: "_send" in {frame.f_code.co_name for frame in sys._current_frames().values()})
        messages.close()
    marking.join()


def test_a_wrong_password_is_said_once_and_not_shown(broker, send, caplog):
    broker.start()
    messages = send(broker.url(password="sesame"))  # noqa: S106
    wait_until(lambda: "refused: Not authorized; trying again" in caplog.text)
    messages.write_event(event("marked"))
    messages.write(*found())
    assert "sesame" not in caplog.text
    assert "sesame" not in repr(messages.broker) + str(messages.broker)


# paho-mqtt 2.2 leaves a socket whose handshake failed to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_tls(tmp_path, send, monkeypatch):
    if not (MOSQUITTO and shutil.which("openssl")):
        pytest.skip("no mosquitto or no openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", *words.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    broker = Mosquitto(tmp_path, f"certfile {certificate}", f"keyfile {key}")
    broker.start()
    try:
        stranger = send(broker.url("mqtts", host="localhost"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        messages = send(broker.url("mqtts", host="localhost"))
        messages.write_event(event("marked"))
        wait_until(lambda: messages._sent == 1)
        assert not stranger._client.is_connected()  # a certificate that nobody vouches for
        stranger.close()
    finally:
        broker.kill()
        gc.collect()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://host", Broker("host", 1883, "edgecrack", False)),
        ("mqtt://host/", Broker("host", 1883, "edgecrack", False)),
        ("MQTTS://host", Broker("host", 8883, "edgecrack", True)),
        ("mqtt://10.0.0.7:99/a/b/", Broker("10.0.0.7", 99, "a/b", False)),
        ("mqtt://[::1]:99/a", Broker("::1", 99, "a", False)),
        ("mqtt://me@host", Broker("host", 1883, "edgecrack", False, "me")),
        ("mqtt://me:@host", Broker("host", 1883, "edgecrack", False, "me", "")),
        ("mqtt://me:p@:/w@host:1/t", Broker("host", 1, "t", False, "me", "p@:/w")),
        ("mqtt://m%40e:p%2Fw@host", Broker("host", 1883, "edgecrack", False, "m@e", "p/w")),
    ],
)
def test_the_parts_of_an_address(url, expected):
    assert Broker.parse(url) == expected
    assert "p@" not in repr(expected) + str(expected)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "http://me:sesame@host",
        "mqtt://",
        "mqtt://me:sesame@",
        "mqtt://me:sesame@host:0/t",
        "mqtt://host:70000",
        "me:sesame@host:1883",
        "mqtt://me:my sesame@host:99999",
        "mqtt://broker..local",
        "mqtt://:sesame@host",
    ],
)
def test_an_address_that_cannot_be(url):
    with pytest.raises(SpecError, match="a broker is mqtt://USER:PASSWORD@HOST:PORT/TOPIC") as refused:
        Broker.parse(url)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("topic", ["a/+/b", "#", "a\0", "road\udcff", "x" * 65_530])
def test_a_topic_that_cannot_be_published_to(topic):
    with pytest.raises(SpecError, match="no \\+ and no #"):
        Broker.parse(f"mqtt://me:sesame@host/{topic}")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_cannot_be(share):
    with pytest.raises(SpecError, match="between 0 and 1"):
        MqttMessages(Broker.parse("mqtt://127.0.0.1"), share=share)


def test_a_run_tells_the_broker(broker, camera, model, tmp_path):
    broker.start()
    camera.value = 200
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", camera.url, "--out", tmp_path / "out"]
    command += ["--mqtt", broker.url(), "--max-reconnects", "0", "--no-overlay"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with broker.heard() as heard, subprocess.Popen(command, text=True, **pipes) as run:
        try:
            wait_until(lambda: any(topic.endswith("/finds") for topic, _ in heard))
            camera.kill()
            stdout, stderr = run.communicate(timeout=60)
            wait_until(lambda: any(message.get("event") == "summary" for _, message in heard))
        finally:
            run.kill()
    names = [message["event"] for topic, message in heard if topic == "survey/van-7/events"]
    assert names[0] == "connected"
    assert names[-2:] == ["ended", "summary"]
    assert "lost" in names
    written = stdout + stderr + (tmp_path / "out" / "log.jsonl").read_text() + json.dumps(heard)
    assert PASSWORD not in written
    assert "secret" not in written
