// Scenarios for MQTT.js: mqttjs.mjs SCENARIO HOST PORT TOKEN [CA]. Exits 0 if the scenario held.
// The folder in MQTT_JS holds the node_modules with the library.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const mqtt = createRequire(process.env.MQTT_JS + "/")("mqtt");
const [scenario, host, port, username, ca] = process.argv.slice(2);
const VERSIONS = [3, 4, 5];
const SOON = 10_000;

class Client {
  messages = [];
  waiting = null;

  static async connect(clientId, protocolVersion = 5, more = {}) {
    const client = new Client();
    client.raw = mqtt.connect({
      protocol: ca ? "mqtts" : "mqtt",
      host,
      port: Number(port),
      username,
      clientId,
      protocolVersion,
      protocolId: protocolVersion === 3 ? "MQIsdp" : "MQTT",
      reconnectPeriod: 0,
      ...(ca ? { ca: readFileSync(ca) } : {}),
      ...more,
    });
    // From the start: what waited for a session comes right behind the CONNACK.
    client.raw.on("message", (topic, payload, packet) => {
      client.messages.push({ topic, text: payload.toString(), payload, packet });
      client.waiting?.();
    });
    const { sessionPresent } = await new Promise((resolve, reject) => {
      client.raw.once("connect", resolve);
      client.raw.once("error", reject);
    });
    client.sessionPresent = sessionPresent;
    return client;
  }

  // With a session that outlives the connection.
  static keep(clientId, protocolVersion = 5, more = {}) {
    const terms = protocolVersion === 5 ? { properties: { sessionExpiryInterval: 600 } } : {};
    return Client.connect(clientId, protocolVersion, { clean: false, ...terms, ...more });
  }

  async subscribe(topics, options = { qos: 1 }) {
    await this.raw.subscribeAsync(topics, options);
    return this;
  }

  publish(topic, payload, options = {}) {
    return this.raw.publishAsync(topic, payload, { qos: 1, ...options });
  }

  async next() {
    while (this.messages.length === 0) await new Promise((resolve) => (this.waiting = resolve));
    return this.messages.shift();
  }

  async untilEnd() {
    const found = [];
    for (let message; (message = await this.next()).topic !== "end"; ) found.push(message);
    return found;
  }

  end() {
    return this.raw.endAsync();
  }
}

async function eachVersion(run) {
  for (const version of VERSIONS) await run(version);
}

function eachQos(qos) {
  return eachVersion(async (version) => {
    const client = await (await Client.connect("both", version)).subscribe("hall/1", { qos });
    const sent = Buffer.from([0, 255, version]);
    await client.publish("hall/1", sent, { qos });
    const { topic, payload, packet } = await client.next();
    assert.deepEqual([topic, payload, packet.qos, packet.retain], ["hall/1", sent, qos, false]);
    await client.end();
  });
}

const scenarios = {
  qos_0: () => eachQos(0),
  qos_1: () => eachQos(1),
  qos_2: () => eachQos(2),

  wildcards: () => eachVersion(async (version) => {
    const client = await (await Client.connect("both", version)).subscribe(["hall/+/t", "yard/#", "end"]);
    for (const topic of ["hall/1/t", "hall/1/2/t", "hall/t", "yard", "yard/a/b", "garden", "end"]) {
      await client.publish(topic, topic);
    }
    assert.deepEqual((await client.untilEnd()).map(({ text }) => text), ["hall/1/t", "yard", "yard/a/b"]);
    await client.end();
  }),

  // One copy, with the highest QoS of all that match.
  overlapping: () => eachVersion(async (version) => {
    const client = await Client.connect("both", version);
    await client.subscribe({ "a/#": { qos: 0 }, "a/+": { qos: 2 }, "a/b": { qos: 1 }, end: { qos: 2 } }, {});
    await client.publish("a/b", "once", { qos: 2 });
    await client.publish("end", "", { qos: 2 });
    assert.deepEqual((await client.untilEnd()).map(({ text, packet }) => [text, packet.qos]), [["once", 2]]);
    await client.end();
  }),

  will: () => eachVersion(async (version) => {
    const watcher = await (await Client.connect("watcher", version)).subscribe("gone/+", { qos: 2 });
    for (const qos of [0, 1, 2]) {
      const will = { topic: "gone/victim", payload: Buffer.from("farewell"), qos, retain: false };
      const victim = await Client.connect("victim", version, { will });
      victim.raw.stream.destroy();
      const { topic, text, packet } = await watcher.next();
      assert.deepEqual([topic, text, packet.qos], ["gone/victim", "farewell", qos]);
    }
    await watcher.end();
  }),

  async user_properties() {
    const client = await (await Client.connect("both")).subscribe("t");
    const userProperties = { b: ["1", "3", "1"], a: "2" };
    await client.publish("t", "x", { properties: { userProperties, contentType: "text/plain" } });
    const { properties } = (await client.next()).packet;
    assert.deepEqual({ ...properties.userProperties }, userProperties);
    assert.equal(properties.contentType, "text/plain");
  },

  async request_response() {
    const responder = await (await Client.connect("responder")).subscribe("ask");
    const asker = await (await Client.connect("asker")).subscribe("reply/asker");
    const correlationData = Buffer.from([0, 1]);
    await asker.publish("ask", "q", { properties: { responseTopic: "reply/asker", correlationData } });
    const asked = (await responder.next()).packet.properties;
    const properties = { correlationData: asked.correlationData };
    await responder.publish(asked.responseTopic, "a", { properties });
    const reply = await asker.next();
    assert.equal(reply.text, "a");
    assert.deepEqual(reply.packet.properties.correlationData, correlationData);
  },

  async subscription_identifiers() {
    const client = await Client.connect("both");
    for (const [subscriptionIdentifier, topic] of [[7, "a/+"], [200_000, "a/b"], [9, "c"]]) {
      await client.subscribe(topic, { qos: 1, properties: { subscriptionIdentifier } });
    }
    await client.subscribe("end");
    await client.publish("a/b", "x");
    await client.publish("end", "");
    const found = (await client.untilEnd()).flatMap(({ packet }) => packet.properties.subscriptionIdentifier);
    assert.deepEqual(found.sort((a, b) => a - b), [7, 200_000]);
  },

  // Both ways: the client allows the broker ten aliases, and the library puts the topic back.
  async topic_alias() {
    const client = await Client.connect("both", 5, { properties: { topicAliasMaximum: 10 } });
    await client.subscribe(["a", "b"]);
    await client.publish("a", "1", { properties: { topicAlias: 1 } });
    await client.publish("", "2", { properties: { topicAlias: 1 } });
    await client.publish("b", "3", { properties: { topicAlias: 1 } });
    await client.publish("", "4", { properties: { topicAlias: 1 } });
    for (const expected of [["a", "1"], ["a", "2"], ["b", "3"], ["b", "4"]]) {
      const { topic, text } = await client.next();
      assert.deepEqual([topic, text], expected);
    }
  },

  async no_local() {
    const one = await (await Client.connect("one")).subscribe("t", { qos: 1, nl: true });
    await one.subscribe("end");
    const other = await (await Client.connect("other")).subscribe("t");
    await one.publish("t", "mine");
    await one.publish("end", "");
    assert.deepEqual(await one.untilEnd(), []);
    assert.equal((await other.next()).text, "mine");
    await other.publish("t", "theirs");
    assert.equal((await one.next()).text, "theirs");
  },

  async message_expiry() {
    const client = await (await Client.connect("both")).subscribe("t");
    await client.publish("t", "x", { properties: { messageExpiryInterval: 1000 } });
    const left = (await client.next()).packet.properties.messageExpiryInterval;
    assert.ok(left > 900 && left <= 1000, `${left} s left`);
  },

  async shared() {
    for (const version of [4, 5]) {
      const members = [];
      for (const name of ["m1", "m2"]) {
        members.push(await (await Client.connect(name, version)).subscribe(["$share/team/job/+", "end"]));
      }
      const boss = await Client.connect("boss", version);
      for (let number = 0; number < 10; number += 1) await boss.publish(`job/${number}`, String(number));
      await boss.publish("end", "");
      const shares = [];
      for (const member of members) shares.push((await member.untilEnd()).map(({ text }) => Number(text)));
      assert.deepEqual(shares.flat().sort(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
      assert.ok(shares.every((share) => share.length > 0), JSON.stringify(shares));
      for (const client of [...members, boss]) await client.end();
    }
  },

  async retained() {
    await eachVersion(async (version) => {
      const publisher = await Client.connect("publisher", version);
      const watcher = await (await Client.connect("watcher", version)).subscribe("state/+");
      await publisher.publish("state/lamp", "on", { retain: true });
      assert.equal((await watcher.next()).packet.retain, false);
      const late = await (await Client.connect("late", version)).subscribe("state/#", { qos: 2 });
      const { text, packet } = await late.next();
      assert.deepEqual([text, packet.qos, packet.retain], ["on", 1, true]);
      await publisher.publish("state/lamp", "", { retain: true });
      await publisher.publish("state/end", "end", { retain: true });
      const later = await (await Client.connect("later", version)).subscribe("state/#");
      assert.equal((await later.next()).topic, "state/end");
      await publisher.publish("state/end", "", { retain: true });
      for (const client of [publisher, watcher, late, later]) await client.end();
    });
    const client = await (await Client.connect("both")).subscribe("end");
    await client.publish("state/lamp", "on", { retain: true });
    for (const [rh, comes] of [[2, 0], [1, 0], [0, 1], [1, 0]]) {
      await client.subscribe("state/lamp", { qos: 1, rap: true, rh });
      await client.publish("end", "");
      assert.equal((await client.untilEnd()).length, comes, `retain handling ${rh}`);
    }
    await client.publish("state/lamp", "off", { retain: true });
    assert.equal((await client.next()).packet.retain, true, "as published");
  },

  session_begins: () => eachVersion(async (version) => {
    const keeper = await Client.keep(`keeper ${version}`, version);
    assert.ok(!keeper.sessionPresent);
    await keeper.subscribe(`kept/${version}/#`, { qos: 2 });
    await keeper.end();
    const publisher = await Client.connect("publisher", version);
    await publisher.publish(`kept/${version}/1`, "one");
    await publisher.publish(`kept/${version}/2`, "two", { retain: true });
    await publisher.publish(`kept/${version}/3`, "three", { qos: 2 });
    await publisher.end();
  }),

  session_goes_on: () => eachVersion(async (version) => {
    const keeper = await Client.keep(`keeper ${version}`, version);
    assert.equal(Boolean(keeper.sessionPresent), version !== 3);
    for (const expected of [["one", 1], ["two", 1], ["three", 2]]) {
      const { text, packet } = await keeper.next();
      assert.deepEqual([text, packet.qos, packet.retain], [...expected, false]);
    }
    const late = await (await Client.connect("late", version)).subscribe(`kept/${version}/+`);
    assert.equal((await late.next()).packet.retain, true);
    await late.publish(`kept/${version}/4`, "four", { qos: 2 });
    assert.equal((await keeper.next()).text, "four", "the subscription is kept");
    for (const client of [keeper, late]) await client.end();
    assert.ok(!(await Client.connect(`keeper ${version}`, version)).sessionPresent);
  }),

  async will_delay() {
    const watcher = await (await Client.connect("watcher")).subscribe("gone/+");
    const properties = { willDelayInterval: 1 };
    // The second is back in time, so the will of the first is never heard.
    for (const text of ["too early", "farewell"]) {
      const will = { topic: "gone/victim", payload: Buffer.from(text), qos: 1, retain: false, properties };
      const victim = await Client.keep("victim", 5, { will });
      assert.equal(victim.sessionPresent, text === "farewell");
      victim.raw.stream.destroy();
    }
    const since = performance.now();
    assert.equal((await watcher.next()).text, "farewell");
    assert.ok(performance.now() - since > 900);
  },

  tls: () => eachVersion(async (version) => {
    const client = await (await Client.connect("both", version)).subscribe("t", { qos: 2 });
    await client.publish("t", Buffer.alloc(100_000, "x"), { qos: 2 });
    assert.equal((await client.next()).text, "x".repeat(100_000));
    await client.end();
  }),

  wrong_token: () => eachVersion(async (version) => {
    const refused = Client.connect("both", version, { username: "wrong" });
    await assert.rejects(refused, (error) => error.code === (version === 5 ? 0x86 : 5));
  }),
};

setTimeout(() => {
  console.error(`${scenario}: not done after ${SOON} ms`);
  process.exit(1);
}, SOON);
try {
  await scenarios[scenario]();
} catch (error) {
  console.error(error);
  process.exit(1);
}
process.exit(0);
