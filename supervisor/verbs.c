/* See control.h for what each verb means. A verb either answers at once or becomes a wait (waits.h). */

#include "supervisor/verbs.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "supervisor/answer.h"
#include "supervisor/process.h"
#include "supervisor/reload.h"
#include "supervisor/status.h"
#include "supervisor/waits.h"
#include "supervisor/wallclock.h"

#define TIMEOUT_DEFAULT_MS 60000
#define TIMEOUT_MAX_MS     3600000
#define DRAIN_MARGIN_NS    (5 * NS_PER_S) /* of a stop's time that is kept for stopping */

static int64_t patience_ns(const KControlRequest *r)
{
    int64_t ms = r->timeout_ms <= 0 ? TIMEOUT_DEFAULT_MS : MIN(r->timeout_ms, TIMEOUT_MAX_MS);

    return ms * NS_PER_MS;
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
            answer_refuse(
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
    answer_refuse(call, ANSWER_CONFLICT, "the node is stopping");
    return true;
}

static void do_start(Node *n, ControlCall *call, const KControlRequest *r)
{
    CountersRole role = arg_role(r);

    if (!args_are_known(call, r, "", "") || refuse_when_ending(n, call))
        return;
    if (role == ROW_COUNT) {
        answer_refuse(call, ANSWER_USAGE,
                      "start which process: controller, broker or consumer-coord?");
        return;
    }
    if (waits_add(n, call, WAIT_UP, role, patience_ns(r)) == NULL)
        return;
    process_feed(node_child(n, role), CORE_EV_START, 0);
    waits_look(n); /* it may be up already */
}

static void stop_node(Node *n, ControlCall *call, const KControlRequest *r)
{
    int64_t patience = patience_ns(r), drain_ns = 0;

    if (arg_is(r, "drain"))
        drain_ns = MAX(patience - DRAIN_MARGIN_NS, patience / 2);
    if (waits_add(n, call, WAIT_END, ROW_COUNT, patience) == NULL)
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
    if (refuse_when_ending(n, call) || waits_add(n, call, WAIT_DOWN, role, patience_ns(r)) == NULL)
        return;
    process_feed(node_child(n, role), CORE_EV_STOP, 0);
    waits_look(n);
}

static void do_restart(Node *n, ControlCall *call, const KControlRequest *r)
{
    CountersRole role = arg_role(r);
    bool all = role == ROW_COUNT;
    Wait *w;

    if (!args_are_known(call, r, "all", "") || refuse_when_ending(n, call))
        return;
    if (n->phase != NODE_RUNNING) {
        answer_refuse(call, ANSWER_CONFLICT, "the node is starting");
        return;
    }
    if (all)
        role = ROW_CONTROLLER;
    w = waits_add(n, call, WAIT_RESTARTED, role, patience_ns(r));
    if (w == NULL)
        return;
    w->all = all;
    w->old_pid = node_child(n, role)->pid;
    process_feed(node_child(n, role), CORE_EV_RESTART, 0);
}

static void do_drain(Node *n, ControlCall *call, const KControlRequest *r)
{
    if (refuse_when_ending(n, call) ||
        waits_add(n, call, WAIT_DRAINED, ROW_COUNT, patience_ns(r) + NS_PER_S) ==
            NULL) /* the drain ends first */
        return;
    node_for_each(c, n) process_feed(c, CORE_EV_DRAIN, patience_ns(r));
    waits_look(n);
}

static void do_undrain(Node *n, ControlCall *call, const KControlRequest *r UNUSED)
{
    if (refuse_when_ending(n, call))
        return;
    node_for_each(c, n) process_feed(c, CORE_EV_UNDRAIN, 0);
    waits_look(n); /* a drain that waits is over */
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
        answer_refuse(
            call, ANSWER_USAGE,
            "kill ROLE SIGNAL: supervisor, controller, broker or consumer-coord; KILL, TERM, STOP, ...");
        return;
    }
    if (role == ROW_SUPERVISOR)
        result = kill(getpid(), number) < 0 ? -errno : 0;
    else
        result = process_signal(node_child(n, role), number);
    if (result < 0)
        answer_refuse(call, ANSWER_FAILED, "%s: %s", child_role_name(role), strerror(-result));
    else
        control_answer(call, 0, NULL, NULL);
}

static void do_reload(Node *n, ControlCall *call, const KControlRequest *r)
{
    if (!refuse_when_ending(n, call))
        reload_begin(n, call, patience_ns(r));
}

static void do_accept_clock(Node *n, ControlCall *call, const KControlRequest *r)
{
    if (!refuse_when_ending(n, call))
        wallclock_accept(n, call, patience_ns(r));
}

void verbs_reload(Node *n)
{
    if (n->phase != NODE_DRAINING && n->phase != NODE_STOPPING)
        reload_begin(n, NULL, TIMEOUT_DEFAULT_MS * NS_PER_MS);
}

void verbs_call(void *userdata, ControlCall *call, const KControlRequest *request)
{
    static const struct {
        const char *name;
        void (*fn)(Node *n, ControlCall *call, const KControlRequest *r);
    } verbs[] = {
        {"status",       do_status      },
        {"config",       do_config      },
        {"start",        do_start       },
        {"stop",         do_stop        },
        {"restart",      do_restart     },
        {"drain",        do_drain       },
        {"undrain",      do_undrain     },
        {"reload",       do_reload      },
        {"accept-clock", do_accept_clock},
        {"kill",         do_kill        },
    };

    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        if (k_str_equal(request->verb, verbs[i].name)) {
            verbs[i].fn(userdata, call, request);
            return;
        }
    }
    answer_refuse(call, ANSWER_USAGE, "unknown verb '%.*s'",
                  (int)MIN(MAX(request->verb.len, 0), 64),
                  request->verb.ptr == NULL ? "" : request->verb.ptr);
}
