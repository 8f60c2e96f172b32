/*
 * mqctl produce: input -> records (input.c) -> libleat. While input is slow, acknowledgements are taken between reads, so
 * that a terminal or a pipe that trickles behaves like a file.
 */

#include "mqctl/mqctl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "mqctl/connect.h"
#include "mqctl/format.h"
#include "mqctl/node.h"
#include "mqctl/output.h"
#include "mqctl/progress.h"
#include "mqctl/topics.h"

#define RECORD_SIZE_MAX     (128u << 20)
#define PROCESS_EVERY       256 /* records between looks at completions */

typedef struct Produce {
    Mq *m;
    leat_producer *producer;
    leat_client *client;
    leat_topic *topic;
    const char *name;
    Input input;
    Format *format;
    bool json, tombstone;
    const char *key; /* of every record; NULL = from the input */
    leat_header *headers;
    size_t headers_count;
    int64_t partition;
    int64_t sent, bytes;
    int failed; /* exit status of a failure already reported */
    Buf scratch; /* decoded JSON values */
    Progress progress;
} Produce;

/* ---- setting up ---------------------------------------------------------------------------------------------------- */

static int parse_headers(Produce *p)
{
    Mq *m = p->m;
    const char *pair;

    for (size_t n = 0; (pair = opt_nth(m, "header", n)) != NULL; n++)
        p->headers_count = n + 1;
    p->headers = mq_alloc(m, (p->headers_count + FORMAT_HEADERS_MAX) * sizeof *p->headers);
    for (size_t i = 0; i < p->headers_count; i++) {
        const char *equal;

        pair = opt_nth(m, "header", i);
        equal = strchr(pair, '=');
        if (equal == NULL)
            return mq_fail(m, MQ_E_USAGE, "-H %s: expected KEY=VALUE", pair);
        p->headers[i] = (leat_header){.key = mq_printf(m, "%.*s", (int)(equal - pair), pair),
                                      .key_size = (size_t)(equal - pair),
                                      .value = equal + 1,
                                      .value_size = (ptrdiff_t)strlen(equal + 1)};
    }
    return 0;
}

static int open_input(Produce *p, int *ret_fd)
{
    Mq *m = p->m;
    const char *text = opt(m, "format"), *missing = opt(m, "missing-key");
    char why[FORMAT_WHY_MAX];
    int fd = STDIN_FILENO, r;

    p->json = opt_has(m, "format-json");
    r = p->json ? 0 : format_compile(text != NULL ? text : "%v\\n", true, &p->format, why);
    if (r < 0)
        return mq_fail(m, MQ_E_USAGE, "-f '%s': %s", text, why[0] ? why : strerror(-r));
    if (missing != NULL && strcmp(missing, "null") != 0)
        return mq_fail(m, MQ_E_USAGE, "--missing-key: only null is known");
    if (m->n_args > 1 && strcmp(m->args[1], "-") != 0) {
        fd = open(m->args[1], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return mq_fail_errno(m, -errno, "%s", m->args[1]);
    }
    input_init(&p->input, fd, p->format, RECORD_SIZE_MAX);
    p->input.missing_key_is_null = missing != NULL;
    *ret_fd = fd;
    return 0;
}

static int configure(Mq *m, leat_conf *conf)
{
    const char *acks = opt(m, "acks"), *codec = opt(m, "compression");

    if (acks != NULL && leat_conf_set(conf, "acks", acks) < 0)
        return mq_fail(m, MQ_E_USAGE, "--acks: 0, 1 or all, not '%s'", acks);
    if (acks != NULL && strcmp(acks, "all") != 0 && strcmp(acks, "-1") != 0)
        (void)leat_conf_set(conf, "enable.idempotence", "false");
    if (codec != NULL && leat_conf_set(conf, "compression.type", codec) < 0)
        return mq_fail(m, MQ_E_USAGE, "-z: none, gzip, snappy, lz4 or zstd, not '%s'", codec);
    return 0;
}

static bool has_client_config(const Mq *m, const char *key)
{
    const char *pair;

    for (size_t i = 0; (pair = opt_nth(m, "client-config", i)) != NULL; i++)
        if (strncmp(pair, key, strlen(key)) == 0 && pair[strlen(key)] == '=')
            return true;
    return false;
}

static int open_producer(Produce *p)
{
    Mq *m = p->m;
    leat_conf *conf;
    int r = connect_client(m, &p->client); /* says clearly when nothing is there */

    if (r == 0)
        r = connect_conf(m, &conf);
    if (r != 0)
        return r;
    r = configure(m, conf);
    if (r == 0 && !has_client_config(m, "delivery.timeout.ms")) /* a person waits: give up before Kafka's two minutes */
        (void)leat_conf_set(conf, "delivery.timeout.ms", mq_printf(m, "%lld", (long long)MAX(m->timeout_ms, 30000)));
    if (r == 0) {
        int e = leat_producer_attach(m->client, conf, &p->producer);
        if (e < 0)
            r = connect_fail(m, m->client, e, "producer");
    }
    leat_conf_free(conf);
    return r;
}

/* ---- sending ------------------------------------------------------------------------------------------------------- */

/* What the broker refused. Return: 0 nothing, else an exit status. */
static int take_reports(Produce *p)
{
    leat_report reports[32];
    size_t n;

    while ((n = leat_reports(p->producer, reports, ARRAY_SIZE(reports))) > 0) {
        for (size_t i = 0; i < n; i++) {
            const leat_report *r = &reports[i];
            char what[400];

            if (r->error == 0)
                continue;
            snprintf(what, sizeof what, "%u record%s for %s-%d not written", r->records, r->records == 1 ? "" : "s", p->name,
                     r->partition);
            if (r->kafka_error != 0)
                mq_fail_kafka(p->m, r->kafka_error, NULL, "%s", what);
            else
                mq_fail(p->m, MQ_E_FAILED, "%s: %s", what, leat_strerror(r->error));
            (void)node_explain(p->m);
            p->failed = MQ_E_FAILED;
        }
    }
    return p->failed;
}

static int send_one(Produce *p, const leat_message *msg)
{
    for (;;) {
        int r = leat_produce(p->producer, msg);

        if (r == 0)
            break;
        if (mq_interrupted)
            return MQ_E_INTERRUPTED;
        if (r == -EAGAIN) {
            (void)leat_wait(p->client, 100);
            if (take_reports(p) != 0)
                return p->failed;
            continue;
        }
        if (take_reports(p) != 0)
            return p->failed;
        if (r == -EMSGSIZE)
            return mq_fail(p->m, MQ_E_FAILED, "%s: a record of %lld bytes is too large", p->input.out.place,
                           (long long)(MAX(msg->key_size, 0) + MAX(msg->value_size, 0)));
        connect_fail(p->m, p->client, r, "produce to %s", p->name);
        return MQ_E_FAILED;
    }
    p->sent++;
    p->bytes += MAX(msg->key_size, 0) + MAX(msg->value_size, 0);
    if (p->sent % PROCESS_EVERY == 0) {
        progress_update(&p->progress, p->progress.bytes ? p->input.bytes : p->sent, NULL);
        return take_reports(p);
    }
    return 0;
}

static int send_record(Produce *p)
{
    const InputRecord *in = &p->input.out;
    leat_message msg = LEAT_MESSAGE_INIT;

    msg.topic = p->topic;
    msg.partition = in->partition >= 0 ? (int32_t)in->partition : (int32_t)p->partition;
    msg.timestamp_ms = in->timestamp_ms;
    msg.key = p->key != NULL ? p->key : in->key;
    msg.key_size = p->key != NULL ? (ptrdiff_t)strlen(p->key) : in->key_size;
    msg.value = in->value;
    msg.value_size = p->tombstone && in->value_size == 0 ? -1 : in->value_size;
    msg.headers = p->headers;
    msg.headers_count = p->headers_count;
    if (in->headers_count > 0) {
        memcpy(p->headers + p->headers_count, in->headers, in->headers_count * sizeof *p->headers);
        msg.headers_count += in->headers_count;
    }
    if (msg.partition >= leat_topic_partitions(p->topic))
        return mq_fail(p->m, MQ_E_FAILED, "%s: %s has no partition %d", in->place, p->name, msg.partition);
    if (in->topic_size >= 0) {
        int r = topic_open(p->m, p->client, mq_printf(p->m, "%.*s", (int)in->topic_size, (const char *)in->topic), true, &msg.topic);
        if (r != 0)
            return r;
    }
    return send_one(p, &msg);
}

/* ---- JSON lines, as consume prints them ---------------------------------------------------------------------------- */

/* A string or {"base64": "..."}; null stays null. Bytes go to scratch. Return: 0 or -EINVAL. */
static int json_bytes(Produce *p, const json_t *v, size_t *ret_at, ptrdiff_t *ret_size)
{
    const json_t *coded = json_object_get(v, "base64");
    int r;

    *ret_at = p->scratch.size;
    *ret_size = -1;
    if (v == NULL || json_is_null(v))
        return 0;
    if (json_is_string(v))
        r = buf_append(&p->scratch, json_string_value(v), json_string_length(v));
    else
        r = json_is_string(coded) ? base64_decode(json_string_value(coded), json_string_length(coded), &p->scratch) : -EINVAL;
    *ret_size = (ptrdiff_t)(p->scratch.size - *ret_at);
    return r;
}

static int json_record(Produce *p, const json_t *doc)
{
    static size_t keys_at[FORMAT_HEADERS_MAX], values_at[FORMAT_HEADERS_MAX];
    InputRecord *out = &p->input.out;
    const json_t *headers = json_object_get(doc, "headers");
    size_t key_at, value_at, n = MIN(json_array_size(headers), (size_t)FORMAT_HEADERS_MAX);
    ptrdiff_t size;
    int r;

    buf_clear(&p->scratch);
    r = json_bytes(p, json_object_get(doc, "key"), &key_at, &out->key_size);
    r = r < 0 ? r : json_bytes(p, json_object_get(doc, "value"), &value_at, &out->value_size);
    for (size_t i = 0; r == 0 && i < n; i++) {
        const json_t *pair = json_array_get(headers, i);

        r = json_bytes(p, json_array_get(pair, 0), &keys_at[i], &size);
        out->headers[i].key_size = (size_t)MAX(size, 0);
        r = r < 0 ? r : json_bytes(p, json_array_get(pair, 1), &values_at[i], &out->headers[i].value_size);
    }
    if (r < 0)
        return r;
    r = buf_reserve(&p->scratch, 1); /* an empty value needs an address */
    out->key = p->scratch.data + key_at;
    out->value = p->scratch.data + value_at;
    for (size_t i = 0; i < n; i++) {
        out->headers[i].key = (const char *)p->scratch.data + keys_at[i];
        out->headers[i].value = p->scratch.data + values_at[i];
    }
    out->headers_count = n;
    out->topic_size = -1;
    out->partition = -1;
    out->timestamp_ms = doc_i64(doc, "ts", 0);
    return r;
}

/* As input_next(). */
static int next_json(Produce *p, char *why)
{
    const char *text;
    size_t size;
    json_error_t error;
    json_t *doc;
    int r = input_next_line(&p->input, &text, &size, why);

    if (r != 1)
        return r;
    doc = json_loadb(text, size, JSON_ALLOW_NUL, &error);
    if (doc == NULL) {
        snprintf(why, FORMAT_WHY_MAX, "%s: %.160s", p->input.out.place, error.text);
        return -EBADMSG;
    }
    r = json_record(p, doc);
    if (r == -EINVAL) {
        snprintf(why, FORMAT_WHY_MAX, "%s: key, value and headers are strings, null or {\"base64\":...}", p->input.out.place);
        r = -EBADMSG;
    }
    json_decref(doc);
    return r < 0 ? r : 1;
}

/* ---- the loop ------------------------------------------------------------------------------------------------------ */

/* Before a read that may block: send what is gathered and take acknowledgements until there is input. */
static void before_read(void *userdata)
{
    Produce *p = userdata;
    struct pollfd fds[2] = {{.fd = p->input.fd, .events = POLLIN}, {.fd = leat_fd(p->client)}};

    while (!mq_interrupted) {
        int64_t timeout = leat_timeout(p->client);

        fds[1].events = (short)leat_events(p->client);
        if (poll(fds, 1, 0) != 0)
            return; /* input, end, or a signal */
        (void)leat_process(p->client);
        if (poll(fds, 2, timeout < 0 || timeout > 1000 ? 1000 : (int)timeout) < 0)
            return;
    }
}

static int pump(Produce *p)
{
    char why[FORMAT_WHY_MAX];
    int r;

    for (;;) {
        r = p->json ? next_json(p, why) : input_next(&p->input, why);
        if (mq_interrupted)
            return MQ_E_INTERRUPTED;
        if (r == 0)
            return MQ_OK;
        if (r < 0)
            return why[0] != '\0' ? mq_fail(p->m, MQ_E_FAILED, "%s", why) : mq_fail_errno(p->m, r, "input");
        r = send_record(p);
        if (r != 0)
            return r;
    }
}

static int finish(Produce *p, int status)
{
    Mq *m = p->m;
    uint64_t lost = 0;
    int r = p->failed == 0 ? leat_flush(p->producer, m->timeout_ms + 30000) : 0, failed;
    int64_t open = (int64_t)leat_in_flight(p->producer);

    progress_end(&p->progress);
    failed = take_reports(p);
    if (r < 0 && failed == 0)
        failed = connect_fail(m, p->client, r, "%lld records are not acknowledged", (long long)open);
    p->producer = leat_producer_close(p->producer, &lost);
    if (status == MQ_OK)
        status = failed;
    if (status != MQ_OK && status != MQ_E_INTERRUPTED)
        mq_note(m, "stopped; %lld of %lld records went through", (long long)p->sent - (long long)lost, (long long)p->sent);
    else if (failed == 0 && (m->verbose || m->stderr_tty))
        mq_note(m, "%s: %lld record%s, %lld bytes", p->name, (long long)p->sent, p->sent == 1 ? "" : "s", (long long)p->bytes);
    if (!output_is_text(m)) {
        json_t *doc = json_object();
        doc_set_text(doc, "topic", p->name);
        doc_set(doc, "records", json_integer(p->sent));
        doc_set(doc, "bytes", json_integer(p->bytes));
        doc_set(doc, "not_acknowledged", json_integer((json_int_t)lost));
        (void)output_doc(m, doc, NULL);
    }
    return status;
}

int produce_run(Mq *m)
{
    Produce *p = mq_alloc(m, sizeof *p);
    struct stat st;
    int fd, r;

    p->m = m;
    p->name = m->args[0];
    p->key = opt(m, "key");
    p->tombstone = opt_has(m, "tombstone");
    p->partition = LEAT_PARTITION_ANY;
    r = opt_i64(m, "partition", 0, INT32_MAX, &p->partition);
    r = r ? r : parse_headers(p);
    r = r ? r : open_input(p, &fd);
    if (r != 0)
        return r;
    mq_catch_signals();
    r = open_producer(p);
    r = r ? r : topic_open(m, p->client, p->name, true, &p->topic);
    if (r == 0) {
        bool file = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);

        if (!file) {
            p->input.before_read = before_read;
            p->input.userdata = p;
        }
        progress_begin(&p->progress, m, p->name, file ? st.st_size : 0, file);
        r = finish(p, pump(p));
    }
    leat_producer_close(p->producer, NULL);
    input_deinit(&p->input);
    format_free(p->format);
    buf_deinit(&p->scratch);
    return r;
}
