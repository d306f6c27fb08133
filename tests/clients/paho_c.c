/* Scenarios for Paho C: paho_c SCENARIO HOST PORT TOKEN [CA]. Exits 0 if the scenario held. */

#include <MQTTClient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SOON 10000
#define HOLDS(condition) holds(condition, #condition, __LINE__)

static char **words;

static void holds(int condition, const char *text, int line)
{
    if (!condition) {
        fprintf(stderr, "line %d: not so: %s\n", line, text);
        exit(1);
    }
}

/* Whether a session outlives its connection, whether there was one (3.1.1 alone tells), how long a will waits. */
static int durable, session_present, will_delay_s;

static void number(MQTTProperties *list, int identifier, int value)
{
    MQTTProperty property = {.identifier = identifier};
    property.value.integer4 = value;
    HOLDS(MQTTProperties_add(list, &property) == 0);
}

static int try_connect(MQTTClient *client, const char *name, int version, const char *token,
                       MQTTClient_willOptions *will)
{
    int v5 = version == MQTTVERSION_5;
    char uri[200];
    snprintf(uri, sizeof uri, "%s://%s:%s", words[5] ? "ssl" : "tcp", words[2], words[3]);
    MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
    create.MQTTVersion = version;
    HOLDS(MQTTClient_createWithOptions(client, uri, name, MQTTCLIENT_PERSISTENCE_NONE, NULL, &create) == 0);
    MQTTClient_connectOptions three = MQTTClient_connectOptions_initializer;
    MQTTClient_connectOptions five = MQTTClient_connectOptions_initializer5;
    MQTTClient_connectOptions options = v5 ? five : three;
    MQTTClient_SSLOptions tls = MQTTClient_SSLOptions_initializer;
    options.MQTTVersion = version;
    options.username = token;
    options.will = will;
    if (words[5]) {
        tls.trustStore = words[5];
        tls.verify = 1;
        options.ssl = &tls;
    }
    if (!v5) {
        options.cleansession = !durable;
        int code = MQTTClient_connect(*client, &options);
        session_present = options.returned.sessionPresent;
        return code;
    }
    session_present = 0;
    options.cleanstart = !durable;
    MQTTProperties terms = MQTTProperties_initializer, of_will = MQTTProperties_initializer;
    if (durable)
        number(&terms, MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL, 600);
    if (will_delay_s)
        number(&of_will, MQTTPROPERTY_CODE_WILL_DELAY_INTERVAL, will_delay_s);
    MQTTResponse response = MQTTClient_connect5(*client, &options, &terms, will ? &of_will : NULL);
    int reason = response.reasonCode;
    MQTTResponse_free(response);
    MQTTProperties_free(&terms);
    MQTTProperties_free(&of_will);
    return reason;
}

static MQTTClient connected(const char *name, int version)
{
    MQTTClient client;
    HOLDS(try_connect(&client, name, version, words[4], NULL) == 0);
    return client;
}

static void subscribe(MQTTClient client, int version, const char *filter, int qos)
{
    if (version == MQTTVERSION_5) {
        MQTTResponse response = MQTTClient_subscribe5(client, filter, qos, NULL, NULL);
        HOLDS((int)response.reasonCode == qos);
        MQTTResponse_free(response);
    } else {
        HOLDS(MQTTClient_subscribe(client, filter, qos) == 0);
    }
}

static int retain;

static void publish(MQTTClient client, int version, const char *topic, const void *payload, int length, int qos,
                    MQTTProperties *properties)
{
    MQTTClient_deliveryToken token;
    if (version == MQTTVERSION_5) {
        MQTTResponse response = MQTTClient_publish5(client, topic, length, payload, qos, retain, properties, &token);
        HOLDS(response.reasonCode == 0);
        MQTTResponse_free(response);
    } else {
        HOLDS(MQTTClient_publish(client, topic, length, payload, qos, retain, &token) == 0);
    }
    HOLDS(qos == 0 || MQTTClient_waitForCompletion(client, token, SOON) == 0);
}

static MQTTClient_message *expect(MQTTClient client, const char *topic, const void *payload, int length, int qos)
{
    char *found = NULL;
    int found_length;
    MQTTClient_message *message = NULL;
    HOLDS(MQTTClient_receive(client, &found, &found_length, &message, SOON) >= 0);
    HOLDS(message != NULL);
    HOLDS(strcmp(found, topic) == 0);
    HOLDS(message->payloadlen == length && memcmp(message->payload, payload, length) == 0);
    HOLDS(message->qos == qos);
    MQTTClient_free(found);
    return message;
}

static const int versions[] = {MQTTVERSION_3_1, MQTTVERSION_3_1_1, MQTTVERSION_5};

static void each_qos(int qos, const char *filter)
{
    for (int i = 0; i < 3; i++) {
        MQTTClient client = connected("both", versions[i]);
        subscribe(client, versions[i], filter, qos);
        publish(client, versions[i], "garden/1", "other", 5, qos, NULL);
        publish(client, versions[i], "hall/1", "a\0b", 3, qos, NULL);
        MQTTClient_message *message = expect(client, "hall/1", "a\0b", 3, qos);
        MQTTClient_freeMessage(&message);
        MQTTClient_disconnect(client, SOON);
        MQTTClient_destroy(&client);
    }
}

static void properties(void)
{
    MQTTClient client = connected("both", MQTTVERSION_5);
    subscribe(client, MQTTVERSION_5, "t", 1);
    MQTTProperties sent = MQTTProperties_initializer;
    const char *pairs[3][2] = {{"b", "1"}, {"a", "2"}, {"b", "3"}};
    for (int i = 0; i < 3; i++) {
        MQTTProperty property = {.identifier = MQTTPROPERTY_CODE_USER_PROPERTY};
        property.value.data = (MQTTLenString){1, (char *)pairs[i][0]};
        property.value.value = (MQTTLenString){1, (char *)pairs[i][1]};
        HOLDS(MQTTProperties_add(&sent, &property) == 0);
    }
    MQTTProperty correlation = {.identifier = MQTTPROPERTY_CODE_CORRELATION_DATA};
    correlation.value.data = (MQTTLenString){2, "\0\1"};
    HOLDS(MQTTProperties_add(&sent, &correlation) == 0);
    publish(client, MQTTVERSION_5, "t", "x", 1, 1, &sent);
    MQTTClient_message *message = expect(client, "t", "x", 1, 1);
    for (int i = 0; i < 3; i++) {
        MQTTProperty *found = MQTTProperties_getPropertyAt(&message->properties, MQTTPROPERTY_CODE_USER_PROPERTY, i);
        HOLDS(found && found->value.data.data[0] == pairs[i][0][0] && found->value.value.data[0] == pairs[i][1][0]);
    }
    MQTTProperty *found = MQTTProperties_getProperty(&message->properties, MQTTPROPERTY_CODE_CORRELATION_DATA);
    HOLDS(found && found->value.data.len == 2 && memcmp(found->value.data.data, "\0\1", 2) == 0);
}

/* Processes of their own, so many one after the other, connect with a will and end without a word. */
static void victims(int version, int count, int ready)
{
    for (int i = 0; i < count; i++) {
        char byte;
        int gone[2];
        HOLDS(pipe(gone) == 0);
        if (fork() == 0) {
            MQTTClient_willOptions left = MQTTClient_willOptions_initializer;
            left.topicName = "gone/victim";
            left.message = i + 1 < count ? "too early" : "farewell";
            left.qos = 2;
            MQTTClient client;
            HOLDS(i > 0 || read(ready, &byte, 1) == 1);
            HOLDS(try_connect(&client, "victim", version, words[4], &left) == 0);
            _exit(0);
        }
        close(gone[1]);
        /* The end of the pipe is the end of the process. */
        HOLDS(read(gone[0], &byte, 1) == 0);
        close(gone[0]);
    }
}

static void will(int version, int count)
{
    int ready[2];
    HOLDS(pipe(ready) == 0);
    if (fork() == 0) {
        victims(version, count, ready[0]);
        _exit(0);
    }
    durable = 0;
    MQTTClient watcher = connected("watcher", version);
    subscribe(watcher, version, "gone/+", 2);
    HOLDS(write(ready[1], "x", 1) == 1);
    MQTTClient_message *message = expect(watcher, "gone/victim", "farewell", 8, 2);
    MQTTClient_freeMessage(&message);
    publish(watcher, version, "gone/other", "x", 1, 1, NULL);
    message = expect(watcher, "gone/other", "x", 1, 1);
    MQTTClient_freeMessage(&message);
}

static void retained(void)
{
    for (int i = 0; i < 3; i++) {
        MQTTClient publisher = connected("publisher", versions[i]);
        retain = 1;
        publish(publisher, versions[i], "state/lamp", "on", 2, 1, NULL);
        MQTTClient late = connected("late", versions[i]);
        subscribe(late, versions[i], "state/+", 2);
        MQTTClient_message *message = expect(late, "state/lamp", "on", 2, 1);
        HOLDS(message->retained);
        MQTTClient_freeMessage(&message);
        publish(publisher, versions[i], "state/lamp", "", 0, 1, NULL);
        message = expect(late, "state/lamp", "", 0, 1);
        HOLDS(!message->retained);
        MQTTClient_freeMessage(&message);
        retain = 0;
        MQTTClient later = connected("later", versions[i]);
        subscribe(later, versions[i], "state/+", 2);
        publish(publisher, versions[i], "state/end", "end", 3, 1, NULL);
        message = expect(later, "state/end", "end", 3, 1);
        MQTTClient_freeMessage(&message);
        MQTTClient_destroy(&publisher);
        MQTTClient_destroy(&late);
        MQTTClient_destroy(&later);
    }
}

static void session_begins(void)
{
    for (int i = 0; i < 3; i++) {
        char name[20], filter[20], topic[20];
        snprintf(name, sizeof name, "keeper %d", i);
        snprintf(filter, sizeof filter, "kept/%d/#", i);
        snprintf(topic, sizeof topic, "kept/%d/1", i);
        durable = 1;
        MQTTClient keeper = connected(name, versions[i]);
        HOLDS(session_present == 0);
        subscribe(keeper, versions[i], filter, 2);
        MQTTClient_disconnect(keeper, SOON);
        durable = 0;
        MQTTClient publisher = connected("publisher", versions[i]);
        publish(publisher, versions[i], topic, "one", 3, 1, NULL);
        publish(publisher, versions[i], topic, "two", 3, 2, NULL);
        MQTTClient_disconnect(publisher, SOON);
    }
}

static void session_goes_on(void)
{
    for (int i = 0; i < 3; i++) {
        char name[20], topic[20];
        snprintf(name, sizeof name, "keeper %d", i);
        snprintf(topic, sizeof topic, "kept/%d/1", i);
        durable = 1;
        MQTTClient keeper = connected(name, versions[i]);
        HOLDS(session_present == (versions[i] == MQTTVERSION_3_1_1));
        for (int qos = 1; qos <= 2; qos++) {
            MQTTClient_message *message = expect(keeper, topic, qos == 1 ? "one" : "two", 3, qos);
            MQTTClient_freeMessage(&message);
        }
        publish(keeper, versions[i], topic, "three", 5, 2, NULL);
        MQTTClient_message *message = expect(keeper, topic, "three", 5, 2);
        MQTTClient_freeMessage(&message);
        MQTTClient_disconnect(keeper, SOON);
        durable = 0;
        connected(name, versions[i]);
        HOLDS(session_present == 0);
    }
}

static void wrong_token(void)
{
    for (int i = 0; i < 3; i++) {
        MQTTClient client;
        int refused = versions[i] == MQTTVERSION_5 ? 0x86 : 5;
        HOLDS(try_connect(&client, "both", versions[i], "wrong", NULL) == refused);
    }
}

int main(int count, char **arguments)
{
    char *all[7] = {0};
    for (int i = 0; i < count && i < 6; i++)
        all[i] = arguments[i];
    words = all;
    MQTTClient_init_options options = MQTTClient_init_options_initializer;
    options.do_openssl_init = 1;
    MQTTClient_global_init(&options);
    const char *scenario = count > 4 ? words[1] : "";
    if (strcmp(scenario, "qos_0") == 0)
        each_qos(0, "hall/+");
    else if (strcmp(scenario, "qos_1") == 0)
        each_qos(1, "hall/#");
    else if (strcmp(scenario, "qos_2") == 0)
        each_qos(2, "hall/1");
    else if (strcmp(scenario, "user_properties") == 0)
        properties();
    else if (strcmp(scenario, "will_3") == 0)
        will(MQTTVERSION_3_1_1, 1);
    else if (strcmp(scenario, "will_5") == 0)
        will(MQTTVERSION_5, 1);
    else if (strcmp(scenario, "retained") == 0)
        retained();
    else if (strcmp(scenario, "session_begins") == 0)
        session_begins();
    else if (strcmp(scenario, "session_goes_on") == 0)
        session_goes_on();
    else if (strcmp(scenario, "will_delay") == 0) {
        durable = will_delay_s = 1;
        /* The second is back in time, so the will of the first is never heard. */
        will(MQTTVERSION_5, 2);
    } else if (strcmp(scenario, "tls") == 0)
        each_qos(2, "hall/1");
    else if (strcmp(scenario, "wrong_token") == 0)
        wrong_token();
    else
        HOLDS(!"a scenario");
    return 0;
}
