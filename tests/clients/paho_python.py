"""Scenarios for paho-mqtt: paho_python.py SCENARIO HOST PORT TOKEN [CA]. Exits 0 if the scenario held."""

import os
import queue
import sys
import time
import traceback

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

SOON = 10
VERSIONS = {"3.1": paho.MQTTv31, "3.1.1": paho.MQTTv311, "5": paho.MQTTv5}
HOST, PORT, TOKEN = sys.argv[2], int(sys.argv[3]), sys.argv[4]


def properties(kind, **values):
    made = Properties(kind)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def publish_properties(**values):
    return properties(PacketTypes.PUBLISH, **values)


class Client:
    """A client whose callbacks fill queues, so that the scenario reads from top to bottom."""

    def __init__(self, name, version="5", will=None, ca=None, token=TOKEN, durable=False):
        self.messages, self.answers = queue.Queue(), queue.Queue()
        clean = None if version == "5" else not durable
        self.raw = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=VERSIONS[version], clean_session=clean)
        self.raw.username_pw_set(token)
        self.raw.on_connect = self.on_connect
        self.raw.on_subscribe = lambda _client, _data, _mid, reasons, _props: self.answers.put(reasons)
        self.raw.on_message = lambda _client, _data, message: self.messages.put(message)
        if will:
            self.raw.will_set(*will)
        if ca:
            self.raw.tls_set(ca)
        terms = {}
        if durable and version == "5":
            terms = {"clean_start": False, "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=600)}
        self.raw.connect(HOST, PORT, **terms)
        self.raw.loop_start()
        self.reason = self.answers.get(timeout=SOON)

    def on_connect(self, _client, _data, flags, reason, _properties):
        self.session_present = flags.session_present
        self.answers.put(reason)

    def leave(self):
        self.raw.disconnect()
        self.raw.loop_stop()

    def vanish(self):
        self.raw.loop_stop()
        self.raw.socket().close()

    def subscribe(self, *arguments, **options):
        self.raw.subscribe(*arguments, **options)
        for reason in self.answers.get(timeout=SOON):
            assert not reason.is_failure, reason
        return self

    def publish(self, topic, payload, qos=1, **options):
        self.raw.publish(topic, payload, qos, **options).wait_for_publish(SOON)

    def next(self):
        return self.messages.get(timeout=SOON)

    def until_end(self):
        """Everything that arrives before the message on `end`."""
        found = []
        while (message := self.next()).topic != "end":
            found.append(message)
        return found


def each_qos(qos):
    for version in VERSIONS:
        client = Client("both", version).subscribe("hall/1", qos)
        client.publish("hall/1", b"\x00payload\xff" + version.encode(), qos)
        message = client.next()
        assert message.payload == b"\x00payload\xff" + version.encode(), message.payload
        assert (message.topic, message.qos, message.retain) == ("hall/1", qos, False), message.qos
        client.raw.disconnect()


def wildcards():
    for version in VERSIONS:
        client = Client("both", version).subscribe([("hall/+/t", 1), ("yard/#", 1), ("end", 1)])
        for topic in ["hall/1/t", "hall/1/2/t", "hall/t", "yard", "yard/a/b", "garden", "end"]:
            client.publish(topic, topic)
        topics = [message.topic for message in client.until_end()]
        assert topics == ["hall/1/t", "yard", "yard/a/b"], topics
        client.raw.disconnect()


def overlapping():
    """One copy, with the highest QoS of all that match."""
    for version in VERSIONS:
        client = Client("both", version).subscribe([("a/#", 0), ("a/+", 2), ("a/b", 1), ("end", 2)])
        client.publish("a/b", b"once", 2)
        client.publish("end", b"", 2)
        found = [(message.payload, message.qos) for message in client.until_end()]
        assert found == [(b"once", 2)], found
        client.raw.disconnect()


def will():
    for version in VERSIONS:
        watcher = Client("watcher", version).subscribe("gone/+", 2)
        for qos in (0, 1, 2):
            victim = Client("victim", version, will=("gone/victim", b"farewell", qos))
            victim.raw.loop_stop()
            victim.raw.socket().close()
            message = watcher.next()
            assert (message.topic, message.payload, message.qos) == ("gone/victim", b"farewell", qos), message.qos
        watcher.raw.disconnect()


def user_properties():
    client = Client("both").subscribe("t", 1)
    pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("b", "1")]
    client.publish("t", "x", properties=publish_properties(UserProperty=pairs, ContentType="text/plain"))
    message = client.next()
    assert message.properties.UserProperty == pairs, message.properties
    assert message.properties.ContentType == "text/plain", message.properties


def request_response():
    responder = Client("responder").subscribe("ask", 1)
    asker = Client("asker").subscribe("reply/asker", 1)
    asker.publish("ask", "q", properties=publish_properties(ResponseTopic="reply/asker", CorrelationData=b"\x00\x01"))
    request = responder.next().properties
    responder.publish(request.ResponseTopic, "a", properties=publish_properties(CorrelationData=request.CorrelationData))
    reply = asker.next()
    assert (reply.payload, reply.properties.CorrelationData) == (b"a", b"\x00\x01"), reply.properties


def subscription_identifiers():
    client = Client("both")
    for number, topic in [(7, "a/+"), (200_000, "a/b"), (9, "c")]:
        client.subscribe(topic, 1, properties=properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=number))
    client.subscribe("end", 1)
    client.publish("a/b", "x")
    client.publish("end", "")
    found = sorted(n for message in client.until_end() for n in message.properties.SubscriptionIdentifier)
    assert found == [7, 200_000], found


def topic_alias():
    client = Client("both").subscribe([("a", SubscribeOptions(qos=1)), ("b", SubscribeOptions(qos=1))])
    client.publish("a", "1", properties=publish_properties(TopicAlias=1))
    client.publish("", "2", properties=publish_properties(TopicAlias=1))
    client.publish("b", "3", properties=publish_properties(TopicAlias=1))
    client.publish("", "4", properties=publish_properties(TopicAlias=1))
    found = [(message.topic, message.payload) for message in (client.next() for _ in range(4))]
    assert found == [("a", b"1"), ("a", b"2"), ("b", b"3"), ("b", b"4")], found


def no_local():
    one = Client("one").subscribe([("t", SubscribeOptions(qos=1, noLocal=True)), ("end", SubscribeOptions(qos=1))])
    other = Client("other").subscribe("t", 1)
    one.publish("t", "mine")
    one.publish("end", "")
    assert one.until_end() == []
    assert other.next().payload == b"mine"
    other.publish("t", "theirs")
    assert one.next().payload == b"theirs"


def message_expiry():
    client = Client("both").subscribe("t", 1)
    client.publish("t", "x", properties=publish_properties(MessageExpiryInterval=1000))
    left = client.next().properties.MessageExpiryInterval
    assert 900 < left <= 1000, left


def shared():
    for version in ("3.1.1", "5"):
        members = [Client(name, version).subscribe([("$share/team/job/+", 1), ("end", 1)]) for name in ("m1", "m2")]
        boss = Client("boss", version)
        for number in range(10):
            boss.publish(f"job/{number}", str(number))
        boss.publish("end", "")
        shares = [[int(message.payload) for message in member.until_end()] for member in members]
        assert sorted(shares[0] + shares[1]) == list(range(10)), shares
        assert shares[0] and shares[1], shares
        for client in [*members, boss]:
            client.raw.disconnect()


def retained():
    for version in VERSIONS:
        publisher = Client("publisher", version)
        watcher = Client("watcher", version).subscribe("state/+", 1)
        publisher.publish("state/lamp", "on", retain=True)
        assert (message := watcher.next()).payload == b"on" and not message.retain
        late = Client("late", version).subscribe("state/#", 2)
        message = late.next()
        assert (message.payload, message.qos, message.retain) == (b"on", 1, True), message.qos
        publisher.publish("state/lamp", "", retain=True)
        publisher.publish("state/end", "end", retain=True)
        assert Client("later", version).subscribe("state/#", 2).next().topic == "state/end"
        publisher.publish("state/end", "", retain=True)
    client = Client("both").subscribe("end", 1)
    client.publish("state/lamp", "on", retain=True)
    for handling, comes in [(2, False), (1, False), (0, True), (1, False)]:
        options = SubscribeOptions(1, retainAsPublished=True, retainHandling=handling)
        client.subscribe([("state/lamp", options)])
        client.publish("end", "")
        assert [message.retain for message in client.until_end()] == [True] * comes, handling
    client.publish("state/lamp", "off", retain=True)
    assert client.next().retain, "as published"


def session_begins():
    for version in VERSIONS:
        keeper = Client(f"keeper {version}", version, durable=True).subscribe(f"kept/{version}/#", 2)
        assert not keeper.session_present
        keeper.leave()
        publisher = Client("publisher", version)
        publisher.publish(f"kept/{version}/1", "one", 1)
        publisher.publish(f"kept/{version}/2", "two", 1, retain=True)
        publisher.publish(f"kept/{version}/3", "three", 2)
        publisher.leave()


def session_goes_on():
    for version in VERSIONS:
        keeper = Client(f"keeper {version}", version, durable=True)
        assert keeper.session_present == (version != "3.1")
        found = [(message.payload, message.qos, message.retain) for message in (keeper.next() for _ in range(3))]
        assert found == [(b"one", 1, False), (b"two", 1, False), (b"three", 2, False)], found
        assert Client("late", version).subscribe(f"kept/{version}/+", 2).next().retain
        keeper.publish(f"kept/{version}/4", "four", 2)
        assert keeper.next().payload == b"four", "the subscription is kept"
        keeper.leave()
        assert not Client(f"keeper {version}", version).session_present


def will_delay():
    watcher = Client("watcher").subscribe("gone/+", 1)
    delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=1)
    # The second is back in time, so the will of the first is never heard.
    for payload in (b"too early", b"farewell"):
        victim = Client("victim", will=("gone/victim", payload, 1, False, delay), durable=True)
        assert victim.session_present == (payload == b"farewell")
        victim.vanish()
    since = time.monotonic()
    assert watcher.next().payload == b"farewell"
    assert time.monotonic() - since > 0.9


def tls():
    for version in VERSIONS:
        client = Client("both", version, ca=sys.argv[5]).subscribe("t", 2)
        client.publish("t", b"x" * 100_000, 2)
        assert client.next().payload == b"x" * 100_000
        client.raw.disconnect()


def wrong_token():
    for version in VERSIONS:
        client = Client("both", version, token="wrong")
        assert client.reason == ("Bad user name or password" if version == "5" else "Not authorized"), client.reason
        client.raw.loop_stop()


SCENARIOS = {f"qos_{qos}": lambda qos=qos: each_qos(qos) for qos in (0, 1, 2)} | {
    scenario.__name__: scenario
    for scenario in (wildcards, overlapping, will, user_properties, request_response, subscription_identifiers,
                     topic_alias, no_local, message_expiry, shared, retained, session_begins, session_goes_on, will_delay,
                     tls, wrong_token)
}


try:
    SCENARIOS[sys.argv[1]]()
    status = 0
except Exception:
    traceback.print_exc()
    status = 1
# Threads of clients that are still connected must not keep the process.
os._exit(status)
