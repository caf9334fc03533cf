"""Publishes to an MQTT broker: camera events, marked places and finds."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from edgecrack.errors import MissingDependency, SpecError
from edgecrack.runtime.account import Account
from edgecrack.runtime.camera import Event, iso_time
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.evidence import check_share, is_find
from edgecrack.runtime.frame import Frame

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.reasoncodes import ReasonCode

_log = logging.getLogger("edgecrack")
_KEPT = 1000  # messages queued while the broker is away: about 300 kB
_PAUSE = 1.0  # minimum seconds between two finds of a source
_FLUSH = 0.5  # seconds allowed for the last messages on close
_LONGEST = 60_000  # bytes of a topic: MQTT allows 65,535, and its kind of message is added
_PATIENCE = 1.0  # seconds allowed for the thread to end


@dataclass(frozen=True)
class Broker:
    """The broker and topic that messages are published to; shown without its password."""

    host: str
    port: int
    topic: str
    secure: bool
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Parse `mqtt://USER:PASSWORD@HOST:PORT/TOPIC`, or `mqtts://` for TLS; only the host is required.

        The default port is 1883, or 8883 for TLS, and the default topic "edgecrack". Raises SpecError, without the
        password.
        """
        # Up to the last @, as in sources: passwords contain @ and /, and users do not escape them.
        found = re.fullmatch(
            r"(?i)(mqtts?)://(?:(.*)@)?(\[[^\[\]]+\]|[^:/@\[\]]+)(?::(\d{1,5}))?(?:/(.*))?", url.strip()
        )
        if not found or not 0 < int(found[4] or 1) < 65536 or not _is_host(found[3]):
            raise SpecError("a broker is mqtt://USER:PASSWORD@HOST:PORT/TOPIC or mqtts://..., got something else")
        secure = found[1].lower() == "mqtts"
        user, colon, password = (found[2] or "").partition(":")
        if password and not user:
            raise SpecError("a broker is mqtt://USER:PASSWORD@HOST:PORT/TOPIC, got a password without its user")
        topic = (found[5] or "").strip("/") or "edgecrack"
        if re.search("[+#\0\ud800-\udfff]", topic) or len(topic.encode()) > _LONGEST:
            raise SpecError(f"a topic to publish to is UTF-8, not long, and holds no + and no #, got {topic[:80]!r}")
        port = int(found[4] or (8883 if secure else 1883))
        secret = unquote(password) if colon else None
        return cls(found[3].strip("[]"), port, topic, secure, unquote(user) or None, secret)

    def __str__(self) -> str:
        return f"{'mqtts' if self.secure else 'mqtt'}://{self.host}:{self.port}/{self.topic}"


def _is_host(name: str) -> bool:
    """Whether this is a valid host name; looking up an invalid one would raise an unexpected exception."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


class MqttMessages(Closing):
    """A sink that publishes the events of the log to TOPIC/events, and finds to TOPIC/finds.

    Messages are JSON, with QoS 1. At most one find per second and source is sent, and no events for dropped frames. If
    the broker is away, a background thread retries every 1 to 30 s, and nothing waits for it: 1000 messages are queued,
    any further ones are counted and discarded.

    Attributes:
        lost: number of messages discarded because the queue was full.
    """

    def __init__(self, broker: Broker, *, share: float = 0.001) -> None:
        """A find is a frame with crack pixels that make up at least `share` (0..1) of it.

        Raises MissingDependency, SpecError for an invalid share.
        """
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise MissingDependency("MQTT needs paho-mqtt 2; pip install 'edgecrack[live]'") from error
        self.broker = broker
        self.lost = 0
        self._share = check_share(share)
        self._found: dict[str, float] = {}  # source -> when its last find was sent
        self._lock = threading.Lock()  # marks and finds come from different threads
        self._queued = self._sent = 0
        self._said = ""
        self._client: Client | None
        self._client = client = Client(CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(_KEPT)
        client.reconnect_delay_set(1, 30)
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_publish = self._on_disconnect, self._on_publish
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if broker.secure:
            client.tls_set()
        client.connect_async(broker.host, broker.port, keepalive=30)
        client.loop_start()

    def write(self, frame: Frame, detection: Detection) -> None:
        """Publish the frame if it is a find and the source's last one was sent at least a second ago."""
        now = time.monotonic()
        due = now - self._found.get(frame.source, -_PAUSE) >= _PAUSE
        if not due or not is_find(detection.crack_share, self._share):
            return
        self._found = {source: sent for source, sent in self._found.items() if now - sent < _PAUSE}
        self._found[frame.source] = now
        place = {"index": frame.index, "source": frame.source, "time": frame.captured_at}
        utc = {} if frame.utc is None else {"utc": iso_time(frame.utc)}
        self._send("finds", {**place, **utc, **detection.to_json()})

    def write_event(self, event: Event | Account) -> None:
        """Publish an event, or the final account of the frames."""
        if not isinstance(event, Event) or event.name != "dropped":  # many per second, and in the log
            self._send("events", event.to_json())

    def close(self) -> None:
        """Send queued messages, if connected, and end the thread, within about a second; a second call does nothing.

        A thread still connecting to a broker that does not answer ends by itself when the attempt fails, seconds later.
        """
        client, self._client = self._client, None
        if client is None:
            return
        deadline = time.monotonic() + _FLUSH
        while client.is_connected() and self._sent < self._queued and time.monotonic() < deadline:
            time.sleep(0.01)
        client.disconnect()
        end = threading.Thread(target=client.loop_stop, name="edgecrack mqtt", daemon=True)  # it has no time limit
        end.start()
        end.join(_PATIENCE / 2)
        if end.is_alive() and isinstance(stalled := client.socket(), socket.socket):  # also true for TLS sockets
            with suppress(OSError):  # the connection ended meanwhile
                stalled.shutdown(socket.SHUT_RDWR)
            end.join(_PATIENCE / 2)
        unsent = self._queued - self._sent + self.lost
        if unsent:
            _log.warning("%d messages did not reach %s", unsent, self.broker)

    def _send(self, kind: str, message: Mapping[str, object]) -> None:
        from paho.mqtt.enums import MQTTErrorCode

        client = self._client  # a concurrent close may set it to None
        if client is None:
            return
        with self._lock:
            sent = client.publish(f"{self.broker.topic}/{kind}", json.dumps(message), qos=1)
            if sent.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                self.lost += 1
            else:
                self._queued += 1

    # The following are called in the client's thread.

    def _on_connect(self, client: Client, data: object, flags: object, reason: ReasonCode, *properties: object) -> None:
        self._say(f"refused: {reason}" if reason.is_failure else "")

    def _on_connect_fail(self, client: Client, data: object) -> None:
        self._say("cannot be reached")

    def _on_disconnect(self, client: Client, data: object, flags: object, reason: ReasonCode, *rest: object) -> None:
        if reason.is_failure and not self._said:  # a refusal says more, and is followed by this
            self._say("hung up")

    def _on_publish(self, *arguments: object) -> None:
        self._sent += 1

    def _say(self, trouble: str) -> None:
        """Log a problem with the broker when it changes."""
        if trouble and trouble != self._said:
            _log.warning("%s %s; trying again", self.broker, trouble)
        self._said = trouble
