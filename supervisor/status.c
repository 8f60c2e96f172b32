/* See status.h. Fields are only ever added within a schema number. */

#include "supervisor/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "supervisor/process.h"
#include "supervisor/wallclock.h"

#define NODE_SCHEMA   "leat.supervisor.status/1"
#define CONFIG_SCHEMA "leat.supervisor.config/1"

/* jansson's set_new functions take NULL values (out of memory) and fail; a document with a hole beats none. */
static void put(json_t *o, const char *name, json_t *value)
{
    (void)json_object_set_new(o, name, value);
}

static void put_text(json_t *o, const char *name, const char *value)
{
    put(o, name, json_stringn_nocheck(value, strlen(value)));
}

static void put_number(json_t *o, const char *name, int64_t value)
{
    put(o, name, json_integer(value));
}

static json_t *exit_json(const Failure *f)
{
    json_t *o = json_object();
    char how[32];

    process_describe_exit(f, how, sizeof(how));
    put_number(o, "at_ms", f->at_ms);
    put_text(o, "how", how);
    put_number(o, "exit_code", f->exit_code);
    put_number(o, "signal", f->signal);
    put_text(o, "why", f->why);
    return o;
}

static json_t *child_json(NodeChild *c, int64_t now_ns)
{
    json_t *o = json_object();

    put_text(o, "role", child_role_name(c->role));
    put_number(o, "pid", c->pid);
    put_text(o, "state", core_state_name(c->core.state));
    put(o, "ready", json_boolean(core_is_up(&c->core)));
    put(o, "drained", json_boolean(c->core.drained));
    put_text(o, "failure", core_failure_name(c->core.failure));
    put_text(o, "status", c->status);
    put_number(o, "restarts", (int64_t)c->core.restarts);
    put_number(o, "counted_deaths", c->core.counted_deaths);
    put_number(o, "started_ms", c->pid > 0 ? c->started_ms : 0);
    put_number(o, "uptime_ms", c->pid > 0 ? (now_ns - c->spawned_ns) / NS_PER_MS : 0);
    put_number(o, "ready_after_ms", c->ready_after_ns / NS_PER_MS);
    put_number(o, "heartbeat_age_ms", c->pid > 0 ? (now_ns - c->heartbeat_ns) / NS_PER_MS : 0);
    put_number(o, "next_try_ms",
               c->core.state == CORE_BACKOFF ? MAX(c->core.deadline_ns - now_ns, 0) / NS_PER_MS
                                             : 0);
    put_text(o, "executable", c->program.path);
    put(o, "last_exit", c->has_exited ? exit_json(&c->last_exit) : json_null());
    return o;
}

static json_t *counters_json(Node *n)
{
    json_t *all = json_object();

    for (CountersRole role = ROW_SUPERVISOR; role < ROW_COUNT; role++) {
        CountersRow *row = counters_row(n->counters, role);
        json_t *o = json_object();

        for (CounterId id = 0; id < COUNTER_COUNT; id++) {
            uint64_t v = counter_get(row, id);

            if (v != 0)
                put_number(o, counter_name(id), (int64_t)v);
        }
        put(all, child_role_name(role), o);
    }
    return all;
}

static json_t *disk_json(const Node *n)
{
    json_t *o = json_object();
    struct statvfs fs;
    int64_t total = 0, available = 0;

    if (statvfs(n->data.log_path, &fs) == 0) {
        total = (int64_t)(fs.f_blocks * fs.f_frsize);
        available = (int64_t)(fs.f_bavail * fs.f_frsize);
    }
    put_number(o, "total_bytes", total);
    put_number(o, "free_bytes", available);
    put_number(o, "reserve_bytes", config_disk_reserve(&n->conf, total));
    return o;
}

static json_t *listeners_json(const Node *n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n->sockets.n_kafka; i++) {
        const KafkaListener *l = &n->sockets.kafka[i];
        json_t *o = json_object();

        put_text(o, "name", l->endpoint.name);
        put_text(o, "host", l->endpoint.host);
        put_number(o, "port", l->endpoint.port);
        put_number(o, "port_asked", l->port_asked);
        (void)json_array_append_new(list, o);
    }
    return list;
}

static void PRINTF_LIKE(2, 3) add_reason(json_t *list, const char *fmt, ...)
{
    char text[640];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)json_array_append_new(list, json_stringn_nocheck(text, strlen(text)));
}

static void reasons_of_child(NodeChild *c, json_t *list)
{
    const char *role = child_role_name(c->role);
    char how[32];

    process_describe_exit(&c->last_exit, how, sizeof(how));
    if (c->core.state == CORE_FAILED)
        add_reason(list, "%s failed: %s (%s)%s%s", role, core_failure_name(c->core.failure), how,
                   c->last_exit.why[0] == '\0' ? "" : ": ", c->last_exit.why);
    else if (c->core.state == CORE_BACKOFF)
        add_reason(list, "%s died (%s), next try soon", role, how);
    else if (c->core.state == CORE_DRAINING)
        add_reason(list, "%s is %s", role, c->core.drained ? "drained" : "draining");
    else if (c->core.state != CORE_READY)
        add_reason(list, "%s is %s%s%s", role, core_state_name(c->core.state),
                   c->status[0] == '\0' ? "" : ": ", c->status);
    if (c->core.abort_ns != 0 && core_is_running(&c->core))
        add_reason(list, "%s hangs", role);
}

static void
reason_of_limit(json_t *list, const Node *n, const char *what, int64_t open, const char *key)
{
    if (open >= config_i64(&n->conf, key))
        add_reason(list, "%" PRId64 " %s are open: more are refused (%s)", open, what, key);
}

/* The daemons' own sessions do not count. */
static void reasons_of_limits(Node *n, CountersRow *broker, json_t *list)
{
    int64_t sessions = (int64_t)counter_get(broker, COUNTER_SESSIONS);

    node_for_each(c, n) sessions -= c->role != ROW_BROKER && core_is_up(&c->core);
    reason_of_limit(list, n, "sessions", sessions, "max.sessions");
    reason_of_limit(list, n, "connections", (int64_t)counter_get(broker, COUNTER_CONNECTIONS),
                    "max.connections");
}

static json_t *degraded_json(Node *n)
{
    CountersRow *broker = counters_row(n->counters, ROW_BROKER),
                *controller = counters_row(n->counters, ROW_CONTROLLER);
    json_t *list = json_array();
    uint64_t damaged = counter_get(broker, COUNTER_LOGS_DAMAGED),
             slow_ns = counter_get(broker, COUNTER_SYNC_NS_SLOW), map = counter_get(controller, COUNTER_META_MAP_USED);

    node_for_each(c, n) reasons_of_child(c, list);
    if (n->data.log_is_new)
        add_reason(
            list, "the log directory %s was new at this start: the records of before are not there",
            n->data.log_path);
    if (counter_get(broker, COUNTER_DISK_LOW) != 0)
        add_reason(list, "disk below disk.reserve: produce is refused");
    if (slow_ns != 0)
        add_reason(list, "slow disk: a sync round took %.1f s within the last minute", (double)slow_ns / 1e9);
    if (damaged != 0)
        add_reason(list, "%" PRIu64 " logs hold damaged records: mqctl log verify", damaged);
    reasons_of_limits(n, broker, list);
    if (wallclock_is_distrusted(n))
        add_reason(list, "%s", WALLCLOCK_DISTRUSTED);
    if (map > 800)
        add_reason(list, "metadata map is %" PRIu64 " %% full", map / 10);
    return list;
}

bool status_is_degraded(Node *n)
{
    json_t *list = degraded_json(n);
    bool degraded = n->phase != NODE_RUNNING || json_array_size(list) > 0;

    json_decref(list);
    return degraded;
}

static void put_state(json_t *o, Node *n, bool degraded)
{
    static const char *const phases[] = {"starting", "ready", "draining", "stopping"};
    char text[64];

    (void)snprintf(text, sizeof(text), "%s",
                   n->phase == NODE_RUNNING && degraded ? "degraded" : phases[n->phase]);
    node_for_each(c, n)
    {
        if (c->core.state == CORE_FAILED)
            (void)snprintf(text, sizeof(text), "failed: %s", core_failure_name(c->core.failure));
    }
    put_text(o, "state", text);
}

static void put_places(json_t *o, Node *n)
{
    json_t *config = json_object();

    put_text(config, "file", n->options->config_path);
    put_text(config, "digest", n->digest);
    put(o, "config", config);
    put_text(o, "data_dir", n->data.path);
    put_text(o, "log_dir", n->data.log_path);
    put_text(o, "run_dir", n->options->run_dir);
    put_text(o, "log_file", n->options->log_file);
    put_text(o, "client_socket", n->sockets.client_path);
    put_text(o, "control_socket", n->control_path);
    put_text(o, "counters_file", n->counters_path);
}

json_t *status_json(Node *n)
{
    int64_t now_ns = clock_mono_ns();
    json_t *o = json_object(), *children = json_array(), *degraded = degraded_json(n);

    put_text(o, "schema", NODE_SCHEMA);
    put_text(o, "instance", n->options->instance);
    put_state(o, n, json_array_size(degraded) > 0);
    put(o, "ready", json_boolean(n->phase == NODE_RUNNING && node_all_up(n)));
    put(o, "degraded", degraded);
    put_text(o, "version", build_version());
    put_text(o, "build", build_id());
    put_number(o, "pid", getpid());
    put_number(o, "node_id", n->data.node_id);
    put_text(o, "cluster_id", n->data.cluster_id);
    put_text(o, "directory_id", n->data.directory_id);
    put_text(o, "previous_stop", n->data.previous_state);
    put_number(o, "started_ms", n->started_ms);
    put_number(o, "uptime_ms", (now_ns - n->started_ns) / NS_PER_MS);
    put_places(o, n);
    put(o, "listeners", listeners_json(n));
    node_for_each(c, n)(void) json_array_append_new(children, child_json(c, now_ns));
    put(o, "processes", children);
    put(o, "disk", disk_json(n));
    put(o, "counters", counters_json(n));
    return o;
}

static const char *source_name(const ConfEntry *e)
{
    if (e == NULL)
        return "default";
    return e->line > 0 ? "file" : e->file; /* "environment", "--set" */
}

json_t *status_config_json(Node *n)
{
    static const char *const effects[] = {"live", "process", "node", "fixed"};
    const ConfigView view = {.conf = &n->conf};
    json_t *o = json_object(), *values = json_array();
    const ConfigKey *key;

    for (size_t i = 0; (key = config_key_at(i)) != NULL; i++) {
        const ConfEntry *e = conf_find(&n->conf, key->name);
        const char *value;
        json_t *v;

        if ((key->scope & CONFIG_SCOPE_BROKER) == 0 ||
            (e == NULL && (key->scope & CONFIG_SCOPE_IGNORED) != 0))
            continue;
        value = (key->scope & CONFIG_SCOPE_IGNORED) != 0 ? e->value
                                                         : config_view_broker(&view, key, NULL);
        v = json_object();
        put_text(v, "key", key->name);
        put(v, "value",
            value == NULL                  ? json_null()
            : key->type == CONFIG_PASSWORD ? json_string("[hidden]")
                                           : json_stringn_nocheck(value, strlen(value)));
        put_text(v, "source", source_name(e));
        put_text(v, "file", e != NULL && e->line > 0 ? e->file : "");
        put_number(v, "line", e == NULL ? 0 : e->line);
        put(v, "default", key->fallback == NULL ? json_null() : json_string(key->fallback));
        put_text(v, "effect", effects[key->effect]);
        put(v, "ignored", json_boolean((key->scope & CONFIG_SCOPE_IGNORED) != 0));
        (void)json_array_append_new(values, v);
    }
    put_text(o, "schema", CONFIG_SCHEMA);
    put_text(o, "digest", n->digest);
    put(o, "values", values);
    return o;
}
