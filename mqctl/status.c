/* mqctl status and wait: is it well? The supervisor answers. check.c has the checks of monitoring. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "mqctl/node.h"
#include "mqctl/output.h"
#include "mqctl/topics.h"

/* ---- the node ------------------------------------------------------------------------------------------------------ */

int node_status(Mq *m, const Target *t, int64_t timeout_ms, json_t **ret, char **ret_why)
{
    int r = control_try(m, t, "status", NULL, 0, timeout_ms, ret, ret_why);

    if (r == 1 && json_is_object(*ret))
        return 0; /* degraded: the body says why */
    if (r == 0 && !json_is_object(*ret)) {
        *ret_why = mq_printf(m, "the supervisor's answer cannot be read");
        r = MQ_E_FAILED;
    }
    return r;
}

NodeState node_state(const json_t *status)
{
    if (status == NULL)
        return NODE_DOWN;
    if (!json_is_true(json_object_get(status, "ready"))) {
        const char *state = doc_text(status, "state", ""); /* degraded, failed: running, but not whole */
        return strcmp(state, "degraded") == 0 || strncmp(state, "failed", 6) == 0 ? NODE_DEGRADED : NODE_NOT_READY;
    }
    return json_array_size(json_object_get(status, "degraded")) > 0 ? NODE_DEGRADED : NODE_OK;
}

const char *node_state_name(NodeState s)
{
    static const char *const names[] = {"down", "starting", "degraded", "ok"};
    return names[s];
}

const char *node_kafka_address(Mq *m, const json_t *status)
{
    const json_t *l = json_array_get(json_object_get(status, "listeners"), 0);
    const char *host = doc_text(l, "host", "");

    if (l == NULL)
        return "";
    return mq_printf(m, strchr(host, ':') != NULL ? "[%s]:%lld" : "%s:%lld", host[0] ? host : "0.0.0.0",
                     (long long)doc_i64(l, "port", 0));
}

/* ---- status -------------------------------------------------------------------------------------------------------- */

int64_t node_counter(const json_t *status, const char *role, const char *name)
{
    return doc_i64(json_object_get(json_object_get(status, "counters"), role), name, 0);
}

static void add_problem(json_t *list, const char *what, const char *command)
{
    json_t *p = json_object();

    doc_set_text(p, "problem", what);
    doc_set_text(p, "look", command);
    json_array_append_new(list, p);
}

static const char *sandbox_dir(Mq *m)
{
    const char *dir = m->target.node_dir;

    return mq_printf(m, "%.*s", (int)(strrchr(dir, '/') - dir), dir);
}

/* "mqctl" and what names the node. */
static const char *self(Mq *m)
{
    return m->target.kind == TARGET_SANDBOX ? mq_printf(m, "mqctl --sandbox %s", sandbox_dir(m))
                                            : mq_printf(m, "mqctl -I %s", m->target.instance);
}

const char *node_start_command(Mq *m)
{
    return m->target.kind == TARGET_SANDBOX ? mq_printf(m, "mqctl sandbox start --dir %s", sandbox_dir(m))
                                            : mq_printf(m, "%s supervisor start", self(m));
}

/* What a person does about a problem. The first fragment that occurs in its text decides; %S is self(), %R the first word, a role. */
static const struct {
    const char *fragment, *way;
} ways_out[] = {
    {"failed: storage",       "journalctl -k; when the disk is sound: %S supervisor start %R"                               },
    {"failed: ",              "%S supervisor logs %R; when the cause is mended: %S supervisor start %R"                     },
    {" died ",                "%S supervisor logs %R"                                                                       },
    {" is stopped",           "%S supervisor start %R"                                                                      },
    {" is drain",             "%S supervisor undrain"                                                                       },
    {" hangs",                "%S supervisor logs %R; it is killed and started again by itself"                             },
    {"disk.reserve",          "free space, or keep less: %S topic alter TOPIC -c retention.ms=MS"                           },
    {"slow disk",             "iostat -x 1: who else writes? every acknowledgement waits for sync rounds (flush.messages, flush.ms)"},
    {"damaged",               "stop the node; %S log verify --all; %S log repair TOPIC-PARTITION"                           },
    {"log directory",         "is its disk mounted? if not, stop the node and mount it; if the loss is known, restart the node"},
    {"clock",                 "timedatectl; when it is right: %S supervisor accept-clock"                                   },
    {" are open: ",           "close some, or raise the limit: %S config explain KEY; it needs a restart of the broker"      },
    {"records, ",             "%S group describe GROUP: are there members, and do their offsets move?"                      },
    {"metadata map",          "%S check disk: it grows while the disk has room"                                             },
};

const char *node_mend_command(Mq *m, int status)
{
    if (status == MQ_E_DENIED)
        return "usermod -aG leat-admin USER, who then logs in again";
    if (status != MQ_E_TIMEOUT)
        return node_start_command(m);
    if (m->target.kind == TARGET_SANDBOX) /* nobody else ends it */
        return mq_printf(m, "mqctl sandbox kill --dir %s --role supervisor; mqctl sandbox start --dir %s", sandbox_dir(m), sandbox_dir(m));
    return mq_printf(m, "systemctl status leat@%s: its watchdog ends a supervisor that hangs", m->target.instance);
}

static const char *expand(Mq *m, const char *way, const char *problem)
{
    char out[1024];
    size_t n = 0;

    for (; *way != '\0' && n < sizeof out - 1; way++) {
        const char *insert = way[0] != '%' ? NULL : way[1] == 'S' ? self(m) : problem;
        size_t size = insert == NULL ? 1 : insert == problem ? strcspn(problem, " ") : strlen(insert);

        size = MIN(size, sizeof out - 1 - n);
        memcpy(out + n, insert != NULL ? insert : way, size);
        n += size;
        way += insert != NULL;
    }
    return mq_printf(m, "%.*s", (int)n, out);
}

const char *node_way_out(Mq *m, const char *problem)
{
    for (size_t i = 0; i < ARRAY_SIZE(ways_out); i++)
        if (strstr(problem, ways_out[i].fragment) != NULL)
            return expand(m, ways_out[i].way, problem);
    return expand(m, "%S supervisor status", problem);
}

bool node_explain(Mq *m)
{
    json_t *status = NULL, *reason;
    size_t i = 0;
    char *why;

    if (m->explained || m->target.kind == TARGET_NONE || m->target.kind == TARGET_ADDRESS)
        return false;
    m->explained = true;
    if (node_status(m, &m->target, STATUS_TIMEOUT_MS, &status, &why) != 0) {
        json_decref(status);
        return false;
    }
    json_array_foreach(json_object_get(status, "degraded"), i, reason) {
        mq_note(m, "! %s", json_string_value(reason));
        mq_hint(m, "%s", node_way_out(m, json_string_value(reason)));
    }
    json_decref(status);
    return i > 0;
}

static json_t *summary(Mq *m, const json_t *status)
{
    static const char *const counted[][3] = {
        {"topics", "broker", "topics"},         {"partitions", "broker", "partitions"},
        {"groups", "consumer-coord", "groups"}, {"group_members", "consumer-coord", "group_members"},
        {"sessions", "broker", "sessions"},     {"connections", "broker", "connections"},
        {"records_in", "broker", "records_in"}, {"log_bytes", "broker", "log_bytes"},
    };
    json_t *doc = json_object(), *problems = json_array(), *reason;
    size_t i;

    doc_set_text(doc, "node", m->target.name);
    doc_set_text(doc, "state", node_state(status) == NODE_NOT_READY ? doc_text(status, "state", "starting")
                                                                    : node_state_name(node_state(status)));
    doc_set_text(doc, "version", doc_text(status, "version", ""));
    doc_set(doc, "node_id", json_integer(doc_i64(status, "node_id", -1)));
    doc_set_text(doc, "cluster_id", doc_text(status, "cluster_id", ""));
    doc_set(doc, "pid", json_integer(doc_i64(status, "pid", 0)));
    doc_set(doc, "uptime_ms", json_integer(doc_i64(status, "uptime_ms", 0)));
    doc_set_text(doc, "kafka", node_kafka_address(m, status));
    doc_set_text(doc, "socket", doc_text(status, "client_socket", ""));
    doc_set(doc, "free_bytes", json_integer(doc_i64(json_object_get(status, "disk"), "free_bytes", 0)));
    for (i = 0; i < ARRAY_SIZE(counted); i++)
        doc_set(doc, counted[i][0], json_integer(node_counter(status, counted[i][1], counted[i][2])));
    json_array_foreach(json_object_get(status, "degraded"), i, reason)
        add_problem(problems, json_string_value(reason), node_way_out(m, json_string_value(reason)));
    doc_set(doc, "problems", problems);
    return doc;
}

static void print_status(Mq *m, json_t *doc)
{
    int64_t uptime = doc_i64(doc, "uptime_ms", 0);
    char up[32], log[32], disk[32];
    size_t i;
    json_t *p;

    (void)m;
    format_duration_ms(uptime < 1000 ? uptime : uptime / 1000 * 1000, up, sizeof up);
    format_size(doc_i64(doc, "log_bytes", 0), log, sizeof log);
    format_size(doc_i64(doc, "free_bytes", 0), disk, sizeof disk);
    printf("%s   %s   up %s   leat %s   %s\n", doc_text(doc, "node", ""), doc_text(doc, "state", ""), up,
           doc_text(doc, "version", ""), doc_text(doc, "kafka", ""));
    printf("topics %lld   partitions %lld   groups %lld   sessions %lld   connections %lld   log %s   free %s\n",
           (long long)doc_i64(doc, "topics", 0), (long long)doc_i64(doc, "partitions", 0), (long long)doc_i64(doc, "groups", 0),
           (long long)doc_i64(doc, "sessions", 0), (long long)doc_i64(doc, "connections", 0), log, disk);
    json_array_foreach(json_object_get(doc, "problems"), i, p)
        printf("! %s   -> %s\n", doc_text(p, "problem", ""), doc_text(p, "look", ""));
}

static void print_cluster(Mq *m, json_t *doc)
{
    (void)m;
    printf("%s   %s   cluster %s   brokers %lld   topics %lld   partitions %lld, %lld without leader\n", doc_text(doc, "node", ""),
           doc_text(doc, "state", ""), doc_text(doc, "cluster_id", "?"), (long long)doc_i64(doc, "brokers", 0),
           (long long)doc_i64(doc, "topics", 0), (long long)doc_i64(doc, "partitions", 0), (long long)doc_i64(doc, "leaderless", 0));
}

/* A bare address: what metadata tells. */
static int status_by_metadata(Mq *m)
{
    KMetadataResponse response;
    int64_t partitions = 0, leaderless = 0;
    json_t *doc;
    int r = topics_metadata(m, NULL, -1, &response);

    if (r != 0)
        return r;
    for (int32_t i = 0; i < response.topics.n; i++)
        for (int32_t p = 0; p < response.topics.items[i].partitions.n; p++) {
            partitions++;
            leaderless += response.topics.items[i].partitions.items[p].leader_id < 0;
        }
    doc = json_object();
    doc_set_text(doc, "node", m->target.name);
    doc_set(doc, "state", json_string(leaderless ? "degraded" : "ok"));
    doc_set_text(doc, "cluster_id",
                 response.cluster_id.len >= 0 ? mq_printf(m, "%.*s", response.cluster_id.len, response.cluster_id.ptr) : NULL);
    doc_set(doc, "brokers", json_integer(response.brokers.n));
    doc_set(doc, "topics", json_integer(response.topics.n));
    doc_set(doc, "partitions", json_integer(partitions));
    doc_set(doc, "leaderless", json_integer(leaderless));
    r = output_doc(m, doc, print_cluster);
    return r ? r : leaderless ? 1 : 0;
}

static int status_down(Mq *m, int r, const char *why)
{
    json_t *doc;

    if (!output_is_text(m)) {
        doc = json_object();
        doc_set_text(doc, "node", m->target.name);
        doc_set(doc, "state", json_string("down"));
        doc_set_text(doc, "why", why);
        (void)output_doc(m, doc, NULL);
    }
    mq_fail(m, r, "%s", why);
    mq_hint(m, "%s", node_mend_command(m, r));
    return r == MQ_E_DENIED ? r : MQ_E_UNREACHABLE;
}

int status_run(Mq *m)
{
    json_t *status = NULL;
    char *why;
    NodeState state;
    int r = target_resolve(m);

    if (r != 0)
        return r;
    if (m->target.kind == TARGET_ADDRESS)
        return status_by_metadata(m);
    r = node_status(m, &m->target, STATUS_TIMEOUT_MS, &status, &why);
    if (r != 0) {
        json_decref(status);
        return status_down(m, r, why);
    }
    state = node_state(status);
    r = output_doc(m, summary(m, status), print_status);
    json_decref(status);
    return r ? r : state == NODE_OK ? 0 : state == NODE_DEGRADED ? 1 : MQ_E_UNREACHABLE;
}

/* ---- wait ---------------------------------------------------------------------------------------------------------- */

int64_t wait_timeout(const Mq *m, int64_t fallback_ms)
{
    return opt_has(m, "timeout") ? m->timeout_ms : fallback_ms;
}

static void nap(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * NS_PER_MS};
    nanosleep(&t, NULL);
}

int wait_run(Mq *m)
{
    bool healthy = strcmp(m->args[0], "healthy") == 0;
    int64_t every = 20, start = clock_mono_ms(), timeout = wait_timeout(m, 60000);
    char *why = NULL;
    json_t *status, *doc;
    int r = target_need_node(m);

    if (r == 0 && !healthy && strcmp(m->args[0], "ready") != 0)
        r = mq_fail(m, MQ_E_USAGE, "wait for ready or healthy");
    r = r ? r : opt_duration(m, "every", 1000, &every);
    if (r != 0)
        return r;
    mq_catch_signals();
    for (;;) {
        NodeState state;

        r = node_status(m, &m->target, STATUS_TIMEOUT_MS, &status, &why);
        state = r == 0 ? node_state(status) : NODE_DOWN;
        if (r == 0 && (healthy ? state == NODE_OK : json_is_true(json_object_get(status, "ready"))))
            break;
        if (r == 0)
            why = mq_printf(m, "state: %s", doc_text(status, "state", "?"));
        json_decref(status);
        if (r == MQ_E_DENIED)
            return mq_fail(m, r, "%s", why);
        if (mq_interrupted)
            return MQ_E_INTERRUPTED;
        if (clock_mono_ms() - start >= timeout)
            return mq_fail(m, MQ_E_TIMEOUT, "not %s after %lld ms: %s", m->args[0], (long long)timeout, why);
        nap(every);
    }
    json_decref(status);
    doc = json_object();
    doc_set_text(doc, "node", m->target.name);
    doc_set_text(doc, "state", m->args[0]);
    doc_set(doc, "waited_ms", json_integer(clock_mono_ms() - start));
    if (output_is_text(m)) {
        json_decref(doc);
        return MQ_OK;
    }
    return output_doc(m, doc, NULL);
}
