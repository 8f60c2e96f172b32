/*
 * workload: the producers and consumers of the fault tests, through libleat's public API alone.
 *
 *   workload produce BOOTSTRAP TOPIC WRITER RATE LOG [KEY=VALUE...]   until SIGTERM; RATE records/s, 0 = as fast as it goes
 *   workload consume BOOTSTRAP TOPIC GROUP LOG [KEY=VALUE...]         until SIGTERM; GROUP "-" = all partitions from the start,
 *                                                                     ends at the high watermark
 *
 * stop.at=STAGE among the settings: the program stops itself (SIGSTOP) once, at record STAGE_AT, for others to continue or kill:
 *   claim   room for a value claimed in the arena, half of it written     open   in the open batch, not sent (give linger.ms)
 *   ack     sent, its acknowledgement not looked at                       hold   records of leat_poll() in hand, not looked at
 *   fork    a child lives that inherited everything; it was refused and holds what it has for as long as it may
 *
 * A value is {writer u64, seq u64, hash u64, pad}; the key is derived from both, so order per key and per partition can be
 * checked. The log has one line an event:
 *   I writer seq                     handed to libleat
 *   A writer seq partition offset    acknowledged
 *   F writer seq error               refused for good
 *   R partition offset writer seq    consumed (BAD instead of writer when the hash does not match)
 *   E text                           anything unexpected
 */

#include "base/hash.h"
#include <errno.h>
#include <inttypes.h>
#include <leat/leat.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VALUE_SIZE 100
#define STAGE_AT   200

static volatile sig_atomic_t stopping;
static FILE *out;
static const char *stage = "";

static void on_signal(int sig)
{
    (void)sig;
    stopping = 1;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fill(uint8_t value[VALUE_SIZE], uint64_t writer, uint64_t seq)
{
    memcpy(value, &writer, 8);
    memcpy(value + 8, &seq, 8);
    memset(value + 24, (int)(seq & 0xff), VALUE_SIZE - 24);
    uint64_t hash = hash64(value + 24, VALUE_SIZE - 24) ^ writer * 31 ^ seq;
    memcpy(value + 16, &hash, 8);
}

static bool check(const leat_record *r, uint64_t *writer, uint64_t *seq)
{
    uint8_t want[VALUE_SIZE];
    if (r->value_size != VALUE_SIZE)
        return false;
    memcpy(writer, r->value, 8);
    memcpy(seq, (const uint8_t *)r->value + 8, 8);
    fill(want, *writer, *seq);
    return memcmp(want, r->value, VALUE_SIZE) == 0;
}

static void drain_reports(leat_producer *p, uint64_t writer)
{
    leat_report reports[256];
    size_t n;
    while ((n = leat_reports(p, reports, 256)) > 0)
        for (size_t i = 0; i < n; i++) {
            uint64_t seq = (uint64_t)(uintptr_t)reports[i].opaque;
            if (reports[i].error == 0)
                fprintf(out, "A %" PRIu64 " %" PRIu64 " %d %" PRId64 "\n", writer, seq, reports[i].partition, reports[i].offset);
            else
                fprintf(out, "F %" PRIu64 " %" PRIu64 " %d %d\n", writer, seq, reports[i].error, reports[i].kafka_error);
        }
}

static void stop_here(void)
{
    fflush(out);
    raise(SIGSTOP);
    stage = "";
}

static int produce_by_claim(leat_producer *p, leat_message *m)
{
    void *room;
    const uint8_t *value = m->value;
    m->value = NULL;
    m->value_size = -1;
    int r = leat_claim(p, m, VALUE_SIZE, &room);
    if (r < 0)
        return r;
    memcpy(room, value, VALUE_SIZE / 2);
    stop_here();
    memcpy((uint8_t *)room + VALUE_SIZE / 2, value + VALUE_SIZE / 2, VALUE_SIZE / 2);
    return leat_commit(p);
}

static void stop_with_a_child(leat_producer *p, const leat_message *m)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        alarm(60); /* whatever happens to the test */
        for (;;) {
            if (leat_produce(p, m) != -ECHILD || leat_flush(p, 0) != -ECHILD)
                _exit(1);
            usleep(10000);
        }
    }
    stop_here();
    kill(child, SIGKILL);
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSIGNALED(status))
        fprintf(out, "E the forked child was not refused: status %d\n", status);
}

static int produce(leat_conf *conf, const char *topic_name, uint64_t writer, double rate)
{
    leat_producer *p = NULL;
    leat_topic *topic = NULL;
    int r = leat_producer_new(conf, &p);
    for (int i = 0; r == 0 && i < 200 && (r = leat_topic_open(leat_producer_client(p), topic_name, &topic)) < 0 && !stopping; i++) {
        leat_wait(leat_producer_client(p), 50);
        if (i < 199)
            r = 0;
    }
    if (r < 0 || !topic) {
        fprintf(out, "E start: %s\n", p ? leat_error_text(leat_producer_client(p)) : leat_strerror(r));
        return 1;
    }
    double start = now_s();
    uint64_t seq = 1;
    while (!stopping) {
        if (rate > 0 && (double)seq > (now_s() - start) * rate) {
            fflush(out);
            leat_wait(leat_producer_client(p), 2);
            drain_reports(p, writer);
            continue;
        }
        uint8_t value[VALUE_SIZE];
        char key[32];
        fill(value, writer, seq);
        leat_message m = LEAT_MESSAGE_INIT;
        m.topic = topic;
        m.key = key;
        m.key_size = snprintf(key, sizeof key, "w%" PRIu64 "-%" PRIu64, writer, seq % 64);
        m.value = value;
        m.value_size = VALUE_SIZE;
        m.opaque = (void *)(uintptr_t)seq;
        bool here = seq == STAGE_AT && *stage;
        if (here && leat_flush(p, 30000) < 0)
            fprintf(out, "E flush at the stage: %s\n", leat_error_text(leat_producer_client(p)));
        r = here && strcmp(stage, "claim") == 0 ? produce_by_claim(p, &m) : leat_produce(p, &m);
        if (r == -EAGAIN) {
            leat_wait(leat_producer_client(p), 100);
        } else if (r < 0) {
            fprintf(out, "E produce %" PRIu64 ": %s: %s\n", seq, leat_strerror(r), leat_error_text(leat_producer_client(p)));
            leat_wait(leat_producer_client(p), 100);
        } else {
            fprintf(out, "I %" PRIu64 " %" PRIu64 "\n", writer, seq);
            seq++;
            if (here && strcmp(stage, "fork") == 0)
                stop_with_a_child(p, &m);
            else if (here && *stage)
                stop_here();
        }
        if (seq % 64 == 0 || r < 0)
            drain_reports(p, writer);
    }
    r = leat_flush(p, 30000);
    drain_reports(p, writer);
    if (r < 0)
        fprintf(out, "E flush: %s: %s\n", leat_strerror(r), leat_error_text(leat_producer_client(p)));
    uint64_t lost = 0;
    leat_producer_close(p, &lost);
    return r < 0 || lost;
}

static int consume(leat_conf *conf, const char *topic, const char *group)
{
    leat_consumer *c = NULL;
    bool all = strcmp(group, "-") == 0;
    if (!all)
        leat_conf_set(conf, "group.id", group);
    leat_conf_set(conf, "auto.offset.reset", "earliest");
    int r = leat_consumer_new(conf, &c);
    if (r == 0 && all) {
        leat_topic *t = NULL;
        r = leat_topic_open(leat_consumer_client(c), topic, &t);
        leat_partition parts[64];
        size_t n = r == 0 ? (size_t)leat_topic_partitions(t) : 0;
        for (size_t i = 0; i < n && i < 64; i++)
            parts[i] = (leat_partition){.topic = topic, .partition = (int32_t)i, .offset = LEAT_OFFSET_EARLIEST};
        if (r == 0)
            r = leat_assign(c, parts, n);
    } else if (r == 0) {
        r = leat_subscribe(c, &topic, 1);
    }
    if (r < 0) {
        fprintf(out, "E start: %s: %s\n", leat_strerror(r), c ? leat_error_text(leat_consumer_client(c)) : "");
        return 1;
    }
    static leat_record records[1024];
    int bad = 0, seen = 0;
    while (!stopping) {
        int n = leat_poll(c, 100, records, 1024);
        seen += n > 0 ? n : 0;
        if (*stage && n > 0 && seen >= STAGE_AT)
            stop_here();
        if (n < 0)
            fprintf(out, "E poll: %s: %s\n", leat_strerror(n), leat_error_text(leat_consumer_client(c)));
        for (int i = 0; i < n; i++) {
            uint64_t writer, seq;
            if (check(&records[i], &writer, &seq)) {
                fprintf(out, "R %d %" PRId64 " %" PRIu64 " %" PRIu64 "\n", records[i].partition, records[i].offset, writer, seq);
            } else {
                fprintf(out, "R %d %" PRId64 " BAD %td\n", records[i].partition, records[i].offset, records[i].value_size);
                bad = 1;
            }
        }
        fflush(out); /* before the next poll may commit them: a kill must not take both */
        if (all && n == 0 && leat_at_end(c))
            break;
    }
    leat_consumer_close(c);
    return bad;
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: workload produce BOOTSTRAP TOPIC WRITER RATE LOG | consume BOOTSTRAP TOPIC GROUP LOG\n");
        return 64;
    }
    bool producer = strcmp(argv[1], "produce") == 0;
    int at = producer ? 6 : 5;
    if (producer && argc < 7)
        return 64;
    out = fopen(argv[at], "a");
    if (!out)
        return 74;
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "bootstrap.servers", argv[2]);
    for (int i = at + 1; i < argc; i++) {
        char *eq = strchr(argv[i], '=');
        if (!eq)
            return 64;
        *eq = 0;
        if (strcmp(argv[i], "stop.at") == 0) {
            stage = eq + 1;
            continue;
        }
        int r = leat_conf_set(conf, argv[i], eq + 1);
        if (r < 0) {
            fprintf(stderr, "workload: %s=%s: %s\n", argv[i], eq + 1, leat_strerror(r));
            return 64;
        }
    }
    int r = producer ? produce(conf, argv[3], strtoull(argv[4], NULL, 10), atof(argv[5])) : consume(conf, argv[3], argv[4]);
    leat_conf_free(conf);
    fclose(out);
    return r;
}
