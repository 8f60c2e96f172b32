/*
 * See control.h for what each verb means. A verb either answers at once or becomes a Wait: a call and what it waits for.
 * verbs_progress() looks at all waits whenever something changed; a wait ends by its condition, its time, or the node's end.
 */

#include "supervisor/verbs.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "supervisor/events.h"
#include "supervisor/notify.h"
#include "supervisor/status.h"

#define TIMEOUT_DEFAULT_MS 60000
#define TIMEOUT_MAX_MS     3600000
#define DRAIN_MARGIN_NS    (5 * NS_PER_S) /* of a stop's time that is kept for stopping */

/* mqctl's exit codes */
#define ANSWER_FAILED    1
#define ANSWER_USAGE     2
#define ANSWER_CONFLICT  6
#define ANSWER_TIMED_OUT 7
#define ANSWER_CONFIG    78

typedef enum WaitKind {
    WAIT_UP,
    WAIT_DOWN,
    WAIT_RESTARTED,
    WAIT_DRAINED,
    WAIT_RELOADED,
    WAIT_END
} WaitKind;

typedef struct Wait {
    List link;
    ControlCall *call; /* NULL: nobody asked (SIGHUP) */
    WaitKind kind;
    CountersRole role; /* the one that it is about */
    bool all;          /* RESTARTED: go on with the next role */
    pid_t old_pid;     /* RESTARTED */
    int64_t deadline_ns;
    json_t *body; /* RELOADED: what is known already */
} Wait;

static void PRINTF_LIKE(3, 4) refuse(ControlCall *call, int code, const char *fmt, ...)
{
    char text[768];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (call != NULL)
        control_answer(call, code, text, NULL);
}

static void answer_json(ControlCall *call, int code, const char *error, json_t *body)
{
    _cleanup_(base_freep) char *text = json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(15));

    json_decref(body);
    if (call != NULL)
        control_answer(call, code, error, text);
}

static void end_wait(Wait *w)
{
    list_remove(&w->link);
    json_decref(w->body);
    free(w);
}

static int64_t patience_ns(const KControlRequest *r)
{
    int64_t ms = r->timeout_ms <= 0 ? TIMEOUT_DEFAULT_MS : MIN(r->timeout_ms, TIMEOUT_MAX_MS);

    return ms * NS_PER_MS;
}

static Wait *
add_wait(Node *n, ControlCall *call, WaitKind kind, CountersRole role, int64_t timeout_ns)
{
    Wait *w = calloc(1, sizeof(*w));

    if (w == NULL) {
        refuse(call, ANSWER_FAILED, "out of memory");
        return NULL;
    }
    *w = (Wait){
        .call = call, .kind = kind, .role = role, .deadline_ns = clock_mono_ns() + timeout_ns};
    list_append(&n->waits, &w->link);
    node_arm_tick(n);
    return w;
}

static bool arg_is(const KControlRequest *r, const char *word)
{
    for (int32_t i = 0; i < r->args.n; i++)
        if (k_str_equal(r->args.items[i], word))
            return true;
    return false;
}

/* The first argument that names a child; ROW_COUNT none. */
static CountersRole arg_role(const KControlRequest *r)
{
    for (CountersRole role = ROW_CONTROLLER; role < ROW_COUNT; role++)
        if (arg_is(r, child_role_name(role)))
            return role;
    return ROW_COUNT;
}

/* Arguments other than roles and the words given would be silently ignored orders. */
static bool
args_are_known(ControlCall *call, const KControlRequest *r, const char *word1, const char *word2)
{
    for (int32_t i = 0; i < r->args.n; i++) {
        KStr a = r->args.items[i];
        bool known = k_str_equal(a, word1) || k_str_equal(a, word2);

        for (CountersRole role = ROW_CONTROLLER; role < ROW_COUNT; role++)
            known = known || k_str_equal(a, child_role_name(role));
        if (!known) {
            refuse(
                call, ANSWER_USAGE,
                "unknown argument '%.*s': the processes are controller, broker and consumer-coord",
                (int)MIN(MAX(a.len, 0), 64), a.ptr == NULL ? "" : a.ptr);
            return false;
        }
    }
    return true;
}

static void do_status(Node *n, ControlCall *call, const KControlRequest *r UNUSED)
{
    answer_json(call, status_is_degraded(n) ? 1 : 0, NULL, status_json(n));
}

static void do_config(Node *n, ControlCall *call, const KControlRequest *r UNUSED)
{
    answer_json(call, 0, NULL, status_config_json(n));
}

static bool refuse_when_ending(Node *n, ControlCall *call)
{
    if (n->phase != NODE_DRAINING && n->phase != NODE_STOPPING)
        return false;
    refuse(call, ANSWER_CONFLICT, "the node is stopping");
    return true;
}

static void do_start(Node *n, ControlCall *call, const KControlRequest *r)
{
    CountersRole role = arg_role(r);

    if (!args_are_known(call, r, "", "") || refuse_when_ending(n, call))
        return;
    if (role == ROW_COUNT) {
        refuse(call, ANSWER_USAGE, "start which process: controller, broker or consumer-coord?");
        return;
    }
    if (add_wait(n, call, WAIT_UP, role, patience_ns(r)) == NULL)
        return;
    node_feed(node_child(n, role), CORE_EV_START, 0);
    verbs_progress(n); /* it may be up already */
}

static void stop_node(Node *n, ControlCall *call, const KControlRequest *r)
{
    int64_t patience = patience_ns(r), drain_ns = 0;

    if (arg_is(r, "drain"))
        drain_ns = MAX(patience - DRAIN_MARGIN_NS, patience / 2);
    if (add_wait(n, call, WAIT_END, ROW_COUNT, patience) == NULL)
        return;
    node_begin_stop(n, drain_ns);
}

static void do_stop(Node *n, ControlCall *call, const KControlRequest *r)
{
    CountersRole role = arg_role(r);

    if (!args_are_known(call, r, "all", "drain"))
        return;
    if (role == ROW_COUNT) {
        stop_node(n, call, r);
        return;
    }
    if (refuse_when_ending(n, call) || add_wait(n, call, WAIT_DOWN, role, patience_ns(r)) == NULL)
        return;
    node_feed(node_child(n, role), CORE_EV_STOP, 0);
    verbs_progress(n);
}

static void do_restart(Node *n, ControlCall *call, const KControlRequest *r)
{
    CountersRole role = arg_role(r);
    bool all = role == ROW_COUNT;
    Wait *w;

    if (!args_are_known(call, r, "all", "") || refuse_when_ending(n, call))
        return;
    if (n->phase != NODE_RUNNING) {
        refuse(call, ANSWER_CONFLICT, "the node is starting");
        return;
    }
    if (all)
        role = ROW_CONTROLLER;
    w = add_wait(n, call, WAIT_RESTARTED, role, patience_ns(r));
    if (w == NULL)
        return;
    w->all = all;
    w->old_pid = node_child(n, role)->pid;
    node_feed(node_child(n, role), CORE_EV_RESTART, 0);
}

static void do_drain(Node *n, ControlCall *call, const KControlRequest *r)
{
    if (refuse_when_ending(n, call) ||
        add_wait(n, call, WAIT_DRAINED, ROW_COUNT, patience_ns(r) + NS_PER_S) ==
            NULL) /* the drain ends first */
        return;
    node_for_each(c, n) node_feed(c, CORE_EV_DRAIN, patience_ns(r));
    verbs_progress(n);
}

static void do_undrain(Node *n, ControlCall *call, const KControlRequest *r UNUSED)
{
    if (refuse_when_ending(n, call))
        return;
    node_for_each(c, n) node_feed(c, CORE_EV_UNDRAIN, 0);
    control_answer(call, 0, NULL, NULL);
}

static int parse_signal(KStr name)
{
    static const struct {
        const char *name;
        int number;
    } signals[] = {
        {"KILL", SIGKILL},
        {"TERM", SIGTERM},
        {"INT",  SIGINT },
        {"STOP", SIGSTOP},
        {"CONT", SIGCONT},
        {"ABRT", SIGABRT},
        {"SEGV", SIGSEGV},
        {"QUIT", SIGQUIT},
        {"HUP",  SIGHUP },
        {"BUS",  SIGBUS }
    };

    if (name.len > 3 && strncmp(name.ptr, "SIG", 3) == 0) {
        name.ptr += 3;
        name.len -= 3;
    }
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
        char number[8];

        (void)snprintf(number, sizeof(number), "%d", signals[i].number);
        if (k_str_equal(name, signals[i].name) || k_str_equal(name, number))
            return signals[i].number;
    }
    return -1;
}

static void do_kill(Node *n, ControlCall *call, const KControlRequest *r)
{
    CountersRole role = ROW_COUNT;
    int number, result;

    for (CountersRole i = ROW_SUPERVISOR; r->args.n == 2 && i < ROW_COUNT; i++)
        if (k_str_equal(r->args.items[0], child_role_name(i)))
            role = i;
    number = r->args.n == 2 ? parse_signal(r->args.items[1]) : -1;
    if (role == ROW_COUNT || number < 0) {
        refuse(
            call, ANSWER_USAGE,
            "kill ROLE SIGNAL: supervisor, controller, broker or consumer-coord; KILL, TERM, STOP, ...");
        return;
    }
    if (role == ROW_SUPERVISOR)
        result = kill(getpid(), number) < 0 ? -errno : 0;
    else
        result = node_send_signal(node_child(n, role), number);
    if (result < 0)
        refuse(call, ANSWER_FAILED, "%s: %s", child_role_name(role), strerror(-result));
    else
        control_answer(call, 0, NULL, NULL);
}

/* ---- reload ---- */

static json_t *change_json(const ConfigChange *change)
{
    json_t *o = json_object();
    const char *fallback = change->key->fallback == NULL ? "" : change->key->fallback;

    (void)json_object_set_new(o, "key", json_string(change->key->name));
    (void)json_object_set_new(
        o, "old", json_string(change->old_value == NULL ? fallback : change->old_value));
    (void)json_object_set_new(
        o, "new", json_string(change->new_value == NULL ? fallback : change->new_value));
    return o;
}

/* Sorts the changes into applied and waits. Return: the body, or NULL with `fixed` = a key that may not change. */
static json_t *sort_changes(const ConfigChange *changes, size_t n, const ConfigKey **ret_fixed)
{
    static const char *const waits_for[] = {[CONFIG_LIVE] = "",
                                            [CONFIG_PROCESS] = "restart of the processes",
                                            [CONFIG_NODE] = "restart of the node",
                                            [CONFIG_FIXED] = ""};
    json_t *body = json_object(), *applied = json_array(), *waits = json_array();

    *ret_fixed = NULL;
    for (size_t i = 0; i < n; i++) {
        json_t *o = change_json(&changes[i]);
        ConfigEffect effect = changes[i].key->effect;

        if (effect == CONFIG_FIXED)
            *ret_fixed = changes[i].key;
        if (effect == CONFIG_PROCESS || effect == CONFIG_NODE)
            (void)json_object_set_new(o, "for", json_string(waits_for[effect]));
        (void)json_array_append_new(effect == CONFIG_LIVE ? applied : waits, o);
    }
    (void)json_object_set_new(body, "schema", json_string("leat.supervisor.reload/1"));
    (void)json_object_set_new(body, "applied", applied);
    (void)json_object_set_new(body, "waits", waits);
    return body;
}

static void reject(Node *n, ControlCall *call, const char *why)
{
    jlog_write(LOG_ERR, MESSAGE_CONFIG_REJECTED, 0, NULL, 0, "reload rejected, nothing changed: %s",
               why);
    notify_reloaded(n);
    refuse(call, ANSWER_CONFIG, "%s", why);
}

static void apply_own_keys(const Conf *conf)
{
    static const char *const names[] = {"err", "warning", "notice", "info", "debug"};
    const char *level = config_text(conf, "log.level");

    for (int i = 0; i < (int)ARRAY_SIZE(names); i++)
        if (level != NULL && strcmp(level, names[i]) == 0)
            jlog_set_level(LOG_ERR + i);
}

/* The new configuration is valid and differs as `body` says: keep and send what can be applied. */
static void take_config(Node *n, Conf *fresh, json_t *body, ControlCall *call, int64_t timeout_ns)
{
    _cleanup_(conf_deinit) Conf applicable = {0};
    int r = node_config_applicable(&n->conf, fresh, &applicable);
    Wait *w;

    if (r == 0)
        r = node_send_reload(n, &applicable);
    if (r < 0) {
        json_decref(body);
        reject(n, call, strerror(-r));
        return;
    }
    conf_deinit(&n->pending);
    n->pending = *fresh;
    *fresh = (Conf){0};
    apply_own_keys(&n->conf);
    (void)json_object_set_new(body, "digest", json_string(n->digest));
    w = add_wait(n, call, WAIT_RELOADED, ROW_COUNT, timeout_ns);
    if (w == NULL)
        json_decref(body);
    else
        w->body = body;
    verbs_progress(n);
}

static json_t *lines_json(const Buf *text)
{
    json_t *list = json_array();

    for (size_t at = 0, end; at < text->size; at = end + 1) {
        const uint8_t *newline = memchr(text->data + at, '\n', text->size - at);

        end = newline == NULL ? text->size : (size_t)(newline - text->data);
        (void)json_array_append_new(list,
                                    json_stringn_nocheck((const char *)text->data + at, end - at));
    }
    return list;
}

static void reload(Node *n, ControlCall *call, int64_t timeout_ns)
{
    _cleanup_(conf_deinit) Conf fresh = {0};
    _cleanup_(buf_deinit) Buf messages = BUF_NULL;
    _cleanup_(base_freep) ConfigChange *changes = NULL;
    const ConfigKey *fixed;
    size_t n_changes = 0;
    json_t *body;
    int r;

    notify_reloading();
    r = node_config_load(n->options, &fresh, &messages);
    if (r == 0)
        r = node_config_diff(&n->conf, &fresh, &changes, &n_changes);
    if (r < 0) {
        reject(n, call, messages.size > 0 ? (const char *)messages.data : strerror(-r));
        return;
    }
    body = sort_changes(changes, n_changes, &fixed);
    if (fixed != NULL) {
        char why[256];

        (void)snprintf(why, sizeof(why), "%s cannot change once the node has data", fixed->name);
        json_decref(body);
        reject(n, call, why);
        return;
    }
    (void)json_object_set_new(body, "warnings", lines_json(&messages));
    take_config(n, &fresh, body, call, timeout_ns);
}

static void do_reload(Node *n, ControlCall *call, const KControlRequest *r)
{
    if (!refuse_when_ending(n, call))
        reload(n, call, patience_ns(r));
}

void verbs_reload(Node *n)
{
    if (n->phase != NODE_DRAINING && n->phase != NODE_STOPPING)
        reload(n, NULL, TIMEOUT_DEFAULT_MS * NS_PER_MS);
}

static bool is_reloaded(Node *n)
{
    node_for_each(c, n)
    {
        if (c->reload == RELOAD_ASKED &&
            c->pid > 0) /* a process that died reads the new one at its start */
            return false;
    }
    return true;
}

static void answer_reload(Node *n, Wait *w, bool in_time)
{
    json_t *processes = json_array();
    int code = in_time ? 0 : ANSWER_TIMED_OUT;

    node_for_each(c, n)
    {
        json_t *o = json_object();

        (void)json_object_set_new(o, "role", json_string(child_role_name(c->role)));
        (void)json_object_set_new(
            o, "ok", json_boolean(c->reload != RELOAD_REFUSED && c->reload != RELOAD_ASKED));
        (void)json_object_set_new(o, "text", json_string(c->reload_text));
        (void)json_array_append_new(processes, o);
        if (c->reload == RELOAD_REFUSED)
            code = ANSWER_FAILED;
    }
    (void)json_object_set_new(w->body, "processes", processes);
    jlog_write(code == 0 ? LOG_NOTICE : LOG_WARNING, MESSAGE_RELOADED, 0, NULL, 0,
               "configuration %s: %zu keys applied, %zu wait for a restart", n->digest,
               json_array_size(json_object_get(w->body, "applied")),
               json_array_size(json_object_get(w->body, "waits")));
    notify_reloaded(n);
    answer_json(w->call, code,
                code == 0 ? NULL
                : code == ANSWER_TIMED_OUT
                    ? "not all processes have answered yet"
                    : "a process refused the configuration; it keeps the old one until its restart",
                json_incref(w->body));
}

/* ---- waits ---- */

static void answer_timeout(Node *n, Wait *w)
{
    static const char *const goals[] = {
        [WAIT_UP] = "ready",        [WAIT_DOWN] = "down",         [WAIT_RESTARTED] = "ready again",
        [WAIT_DRAINED] = "drained", [WAIT_RELOADED] = "reloaded", [WAIT_END] = "stopped"};

    if (w->kind == WAIT_RELOADED)
        answer_reload(n, w, false);
    else
        refuse(w->call, ANSWER_TIMED_OUT, "%s is not %s yet; the work goes on",
               w->role == ROW_COUNT ? "the node" : child_role_name(w->role), goals[w->kind]);
}

static void answer_failure(Wait *w, const NodeChild *c)
{
    char how[32];

    node_describe_exit(&c->last_exit, how, sizeof(how));
    refuse(w->call, ANSWER_FAILED, "%s failed: %s (%s)%s%s", child_role_name(c->role),
           core_failure_name(c->core.failure), how, c->last_exit.why[0] == '\0' ? "" : ": ",
           c->last_exit.why);
}

static void answer_drained(Node *n, Wait *w)
{
    node_for_each(c, n)
    {
        if (core_is_up(&c->core) && !c->core.drained_ok) {
            refuse(w->call, ANSWER_TIMED_OUT,
                   "%s still had work when the time was over; new sessions stay refused",
                   child_role_name(c->role));
            return;
        }
    }
    control_answer(w->call, 0, NULL, NULL);
}

/* RESTARTED of all: on with the next one. Return: true when that was the last. */
static bool restart_next(Node *n, Wait *w)
{
    if (!w->all || w->role + 1 >= ROW_COUNT)
        return true;
    w->role++;
    w->old_pid = node_child(n, w->role)->pid;
    node_feed(node_child(n, w->role), CORE_EV_RESTART, 0);
    return false;
}

/* Return: true when the wait was answered. */
static bool look(Node *n, Wait *w)
{
    NodeChild *c = w->role < ROW_COUNT ? node_child(n, w->role) : NULL;

    if (c != NULL && (n->phase == NODE_DRAINING || n->phase == NODE_STOPPING)) {
        refuse(w->call, ANSWER_CONFLICT, "the node is stopping");
        return true;
    }
    if (c != NULL && c->core.state == CORE_FAILED && w->kind != WAIT_DOWN) {
        answer_failure(w, c);
        return true;
    }
    if (w->kind == WAIT_DRAINED && node_is_drained(n)) {
        answer_drained(n, w);
        return true;
    }
    if ((w->kind == WAIT_UP && core_is_up(&c->core)) ||
        (w->kind == WAIT_DOWN && core_is_down(&c->core)) ||
        (w->kind == WAIT_RESTARTED && core_is_up(&c->core) && c->pid != w->old_pid &&
         restart_next(n, w))) {
        control_answer(w->call, 0, NULL, NULL);
        return true;
    }
    if (w->kind == WAIT_RELOADED && is_reloaded(n)) {
        answer_reload(n, w, true);
        return true;
    }
    if (clock_mono_ns() >= w->deadline_ns) {
        answer_timeout(n, w);
        return true;
    }
    return false;
}

void verbs_progress(Node *n)
{
    static bool
        looking; /* restart_next() moves a child, which comes back here; the outer round sees all */

    if (looking)
        return;
    looking = true;
    list_for_each_safe (l, &n->waits) {
        Wait *w = CONTAINER_OF(l, Wait, link);

        if (look(n, w))
            end_wait(w);
    }
    looking = false;
}

int64_t verbs_deadline_ns(const Node *n)
{
    int64_t next = INT64_MAX;

    for (const List *l = n->waits.next; l != &n->waits; l = l->next)
        next = MIN(next, CONTAINER_OF(l, Wait, link)->deadline_ns);
    return next;
}

void verbs_finish(Node *n)
{
    for (List *l; (l = list_pop(&n->waits)) != NULL;) {
        Wait *w = CONTAINER_OF(l, Wait, link);

        if (w->call != NULL && w->kind == WAIT_END)
            control_answer(w->call, n->exit_code == 0 ? 0 : ANSWER_FAILED,
                           n->exit_code == 0 ? NULL : "stopped, but not in order", NULL);
        else
            refuse(w->call, ANSWER_CONFLICT, "the node was stopped");
        end_wait(w);
    }
}

void verbs_call(void *userdata, ControlCall *call, const KControlRequest *request)
{
    static const struct {
        const char *name;
        void (*fn)(Node *n, ControlCall *call, const KControlRequest *r);
    } verbs[] = {
        {"status",  do_status },
        {"config",  do_config },
        {"start",   do_start  },
        {"stop",    do_stop   },
        {"restart", do_restart},
        {"drain",   do_drain  },
        {"undrain", do_undrain},
        {"reload",  do_reload },
        {"kill",    do_kill   },
    };

    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        if (k_str_equal(request->verb, verbs[i].name)) {
            verbs[i].fn(userdata, call, request);
            return;
        }
    }
    refuse(call, ANSWER_USAGE, "unknown verb '%.*s'", (int)MIN(MAX(request->verb.len, 0), 64),
           request->verb.ptr == NULL ? "" : request->verb.ptr);
}
