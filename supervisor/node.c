/* See node.h. */

#include "supervisor/node.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "supervisor/control.h"
#include "supervisor/events.h"
#include "supervisor/notify.h"
#include "supervisor/process.h"
#include "supervisor/talk.h"
#include "supervisor/verbs.h"
#include "supervisor/waits.h"
#include "supervisor/wallclock.h"

#define TICK_NS         NS_PER_S
#define EXIT_CRASH_LOOP 70
#define EXIT_STORAGE    74
#define EXIT_CONFIG     78

bool node_all_up(const Node *n)
{
    bool all = true;

    node_for_each(c, (Node *)(uintptr_t)n) all = all && core_is_up(&c->core);
    return all;
}

bool node_all_down(const Node *n)
{
    bool all = true;

    node_for_each(c, (Node *)(uintptr_t)n) all = all && core_is_down(&c->core);
    return all;
}

bool node_is_drained(const Node *n)
{
    bool all = true;

    node_for_each(c, (Node *)(uintptr_t)n) all = all && (core_is_down(&c->core) || c->core.drained);
    return all;
}

/* What children get: the checked configuration and what only we know. */
int node_child_config(Node *n)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    _cleanup_(buf_deinit) Buf text = BUF_NULL, listeners = BUF_NULL;
    char node_id[16];
    int r = sockets_describe(&n->sockets, &listeners);

    (void)snprintf(node_id, sizeof(node_id), "%d", n->data.node_id);
    const char *const facts[][2] = {
        {"listeners",           listeners.size > 0 ? (const char *)listeners.data : ""},
        {"leat.instance",       n->options->instance                                  },
        {"leat.data.dir",       n->data.path                                          },
        {"leat.run.dir",        n->options->run_dir                                   },
        {"leat.node.id",        node_id                                               },
        {"leat.cluster.id",     n->data.cluster_id                                    },
        {"leat.directory.id",   n->data.directory_id                                  },
        {"leat.build.id",       build_id()                                            },
        {"leat.previous.state", n->data.previous_state                                },
        {"leat.log.file",       n->options->log_file                                  },
    };

    for (size_t i = 0; r == 0 && i < n->conf.n; i++)
        r = conf_set(&conf, n->conf.entries[i].key, n->conf.entries[i].value, "", 0);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(facts); i++)
        r = conf_set(&conf, facts[i][0], facts[i][1], "", 0);
    if (r == 0)
        r = conf_serialize(&conf, &text);
    return r < 0 ? r : spawn_config_memfd(text.data, text.size);
}

/* ---- time ---- */

void node_arm_tick(Node *n)
{
    int64_t next = MIN(n->next_tick_ns, waits_deadline_ns(n));

    node_for_each(c, n) next = MIN(next, core_deadline_ns(&c->core));
    loop_timer_set(n->tick, next);
}

/* Processes that are nobody's: those that a container's init inherits, and a child whose pidfd could not be had. */
static void reap_orphans(Node *n)
{
    siginfo_t info = {.si_pid = 0};

    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0) {
        node_for_each(c, n)
        {
            if (c->pid == info.si_pid)
                return; /* its pidfd says so too */
        }
        (void)waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG);
        info.si_pid = 0;
    }
}

static void on_tick(void *userdata)
{
    Node *n = userdata;
    int64_t now_ns = clock_mono_ns();

    if (now_ns >= n->next_tick_ns) { /* not only an early deadline */
        n->next_tick_ns = now_ns + TICK_NS;
        counter_add(counters_row(n->counters, ROW_SUPERVISOR), COUNTER_HEARTBEAT, 1);
    }
    node_for_each(c, n) process_tick(c, now_ns);
    reap_orphans(n);
    wallclock_watch(n);
    notify_watchdog(n, now_ns);
    node_progress(n);
}

/* ---- start and stop ---- */

static void become_ready(Node *n)
{
    n->phase = NODE_RUNNING;
    n->was_ready = true;
    jlog_write(LOG_NOTICE, MESSAGE_NODE_READY, 0, NULL, 0, "node %d is ready after %lld ms",
               n->data.node_id, (long long)((clock_mono_ns() - n->started_ns) / NS_PER_MS));
    notify_ready(n);
}

/* The last words of a start that failed go to whoever started us, too, when the log is a file. */
static void PRINTF_LIKE(2, 3) tell_starter(const Node *n, const char *fmt, ...)
{
    va_list args;

    if (n->options->log_file[0] == '\0')
        return;
    (void)fputs("leat-supervisor: ", stderr);
    va_start(args, fmt);
    (void)vfprintf(stderr, fmt, args);
    va_end(args);
    (void)fputc('\n', stderr);
}

static void give_up_starting(Node *n, const NodeChild *c)
{
    int code = c->last_exit.signal == 0 ? c->last_exit.exit_code : 0;
    const char *why = c->last_exit.why;
    char how[32];

    process_describe_exit(&c->last_exit, how, sizeof(how));
    n->exit_code = c->core.failure == CORE_FAILURE_CRASH_LOOP ? EXIT_CRASH_LOOP : code;
    jlog(LOG_CRIT, "the node cannot start because %s failed; ending with status %d",
         child_role_name(c->role), n->exit_code);
    tell_starter(n, "%s failed: %s (%s)%s%s", child_role_name(c->role),
                 core_failure_name(c->core.failure), how, why[0] == '\0' ? "" : ": ", why);
    node_begin_stop(n, 0);
}

/* Starting: the next child when the one before is ready. A failure here is the whole start's failure. */
static void go_on_starting(Node *n)
{
    node_for_each(c, n)
    {
        if (c->core.state == CORE_FAILED) {
            give_up_starting(n, c);
            return;
        }
        if (c->core.state == CORE_STOPPED) {
            process_feed(c, CORE_EV_START, 0);
            return;
        }
        if (!core_is_up(&c->core))
            return;
    }
    become_ready(n);
}

/* Stopping: the next child when the one after it is down. Return: true when all are down. */
static bool go_on_stopping(Node *n)
{
    for (CountersRole role = ROW_COUNT - 1; role > ROW_SUPERVISOR; role--) {
        NodeChild *c = node_child(n, role);

        if (core_is_down(&c->core))
            continue;
        if (c->core.state != CORE_STOPPING || c->core.restart_wanted)
            process_feed(c, CORE_EV_STOP, 0);
        return false;
    }
    return true;
}

static void finish(Node *n)
{
    bool clean =
        n->was_ready; /* else there may be logs that nobody has looked at since an earlier crash */
    int r = 0;

    n->finished = true;
    node_for_each(c, n)
    {
        clean = clean && c->core.exited_clean && c->core.state == CORE_STOPPED;
        if (n->exit_code == 0 && c->core.failure == CORE_FAILURE_STORAGE)
            n->exit_code = EXIT_STORAGE;
    }
    if (clean)
        r = datadir_mark_clean(&n->data);
    if (r < 0) {
        jlog_errno(LOG_ERR, r, "the clean-shutdown marker cannot be written");
        n->exit_code = EXIT_STORAGE;
    }
    jlog_write(LOG_NOTICE, MESSAGE_NODE_STOPPED, 0, NULL, 0, "node %d stopped%s", n->data.node_id,
               clean && r == 0 ? "" : ", not in order: the next start recovers");
    waits_finish(n);
    loop_quit(n->loop, n->exit_code);
}

/* What does the node do next? Called whenever a child moved; the children it moves call it again. */
void node_progress(Node *n)
{
    if (n->finished)
        return;
    if (n->phase == NODE_STARTING)
        go_on_starting(n);
    if (n->phase == NODE_DRAINING && (node_is_drained(n) || clock_mono_ns() >= n->drain_until_ns)) {
        n->phase = NODE_STOPPING;
        notify_stopping(n);
    }
    if (n->phase == NODE_STOPPING && go_on_stopping(n) && !n->finished)
        finish(n);
    if (n->finished)
        return;
    waits_look(n);
    notify_status(n);
    node_arm_tick(n);
}

void node_begin_stop(Node *n, int64_t drain_ns)
{
    if (n->phase == NODE_STOPPING)
        return;
    n->phase = drain_ns > 0 ? NODE_DRAINING : NODE_STOPPING;
    n->drain_until_ns = clock_mono_ns() + drain_ns;
    notify_stopping(n);
    if (drain_ns > 0)
        node_for_each(c, n) process_feed(c, CORE_EV_DRAIN, drain_ns);
    node_progress(n);
}

void node_kill_all(Node *n)
{
    node_for_each(c, n)(void) process_signal(c, SIGKILL);
}

int node_send_reload(Node *n, Conf *take_applicable)
{
    _cleanup_(base_closep) int fd = -1;

    conf_deinit(&n->conf);
    n->conf = *take_applicable;
    *take_applicable = (Conf){0};
    node_config_digest(&n->conf, n->digest);
    fd = node_child_config(n);
    if (fd < 0)
        return fd;
    node_for_each(c, n)
    {
        c->reload.state = ASK_NONE;
        if (core_is_running(&c->core) && c->core.state != CORE_STOPPING)
            talk_reload(c, fd);
    }
    return 0;
}

/* ---- opening and closing ---- */

static int refuse(Node *n, int code, const char *why)
{
    tell_starter(n, "%s", why);
    jlog_write(LOG_CRIT, MESSAGE_START_REFUSED, 0, NULL, 0, "%s", why);
    return code;
}

static int open_counters(Node *n, char *why, size_t why_size)
{
    char id[24] = "";
    CountersRow *row;
    int r;

    (void)snprintf(id, sizeof(id), "%s", build_id());
    (void)snprintf(n->counters_path, sizeof(n->counters_path), "%.4000s/counters",
                   n->options->run_dir);
    r = counters_create(n->counters_path, id, &n->counters);
    if (r < 0) {
        (void)snprintf(why, why_size, "%.300s cannot be made: %s", n->counters_path, strerror(-r));
        return EXIT_CONFIG;
    }
    row = counters_row(n->counters, ROW_SUPERVISOR);
    counter_set(row, COUNTER_STARTED_MS, (uint64_t)n->started_ms);
    return 0;
}

static int open_run_dir(Node *n, char *why, size_t why_size)
{
    int r = fs_mkdir_p(n->options->run_dir, 0755);

    /* clients of other users come through here; 0750 by our umask would keep them out (EPERM: systemd made it right) */
    (void)chmod(n->options->run_dir, 0755);
    if (r < 0)
        (void)snprintf(why, why_size, "the run directory %.300s cannot be used: %s",
                       n->options->run_dir, strerror(-r));
    return r < 0 ? EXIT_CONFIG : 0;
}

int node_open(Node *n, Loop *loop, const Options *o, Conf *take_conf)
{
    char why[DATADIR_WHY_MAX] = "";
    int r;

    *n = (Node){.loop = loop, .options = o, .conf = *take_conf, .started_ms = clock_wall_ms()};
    *take_conf = (Conf){0};
    n->started_ns = clock_mono_ns();
    n->data.dir_fd = n->data.lock_fds[0] = n->data.lock_fds[1] = -1;
    n->sockets.client_fd = -1;
    list_init(&n->waits);
    node_config_digest(&n->conf, n->digest);
    (void)snprintf(n->control_path, sizeof(n->control_path), "%.4000s/control.sock", o->run_dir);
    for (CountersRole role = ROW_CONTROLLER; role < ROW_COUNT; role++) {
        NodeChild *c = node_child(n, role);

        *c = (NodeChild){.node = n, .role = role, .pidfd = -1, .sock = -1, .program = {.fd = -1}};
        core_init(&c->core);
    }
    r = 0;
    for (CountersRole role = ROW_CONTROLLER; r == 0 && role < ROW_COUNT; role++)
        r = spawn_open_program(role, &node_child(n, role)->program, why, sizeof(why));
    if (r == 0)
        r = datadir_open(o->data_dir, &n->conf, &n->data, why, sizeof(why));
    if (r == 0)
        r = open_run_dir(n, why, sizeof(why));
    if (r == 0)
        r = sockets_open(&n->sockets, &n->conf, o->run_dir, why, sizeof(why));
    if (r == 0)
        r = open_counters(n, why, sizeof(why));
    if (r == 0 && (loop_add_timer(loop, on_tick, n, &n->tick) < 0))
        r = EXIT_CRASH_LOOP;
    if (r == 0 &&
        control_open(loop, n->control_path, verbs_call, n, &n->control, why, sizeof(why)) < 0)
        r = EXIT_CONFIG;
    return r == 0 ? 0 : refuse(n, r, why);
}

int node_start(Node *n)
{
    Failure f;
    int r;

    node_for_each(c, n)
    {
        if (datadir_read_failure(&n->data, c->role, &f)) { /* shown until the role is ready again */
            c->last_exit = f;
            c->has_exited = true;
        }
    }
    jlog(LOG_NOTICE, "starting node %d of cluster %s in %s, build %s, previous stop: %s",
         n->data.node_id, n->data.cluster_id, n->data.path, build_id(), n->data.previous_state);
    if (n->data.log_is_new)
        jlog(
            LOG_ERR,
            "%s is new: the records of before are not there; if its disk is not mounted, stop the node now",
            n->data.log_path);
    r = datadir_begin(&n->data);
    if (r < 0) {
        jlog_errno(LOG_CRIT, r, "the clean-shutdown marker in %s cannot be removed", n->data.path);
        return EXIT_STORAGE;
    }
    notify_init(n);
    n->next_tick_ns = clock_mono_ns() + TICK_NS;
    node_arm_tick(n);
    node_progress(n);
    return 0;
}

void node_close(Node *n)
{
    n->control = control_close(n->control);
    node_for_each(c, n)
    {
        if (c->pid > 0)
            (void)process_signal(c, SIGKILL);
        process_forget(c);
        base_closep(&c->program.fd);
    }
    n->tick = loop_timer_free(n->tick);
    n->counters = counters_close(n->counters);
    sockets_close(&n->sockets);
    if (n->counters_path[0] != '\0')
        (void)unlink(n->counters_path);
    datadir_close(&n->data);
    conf_deinit(&n->conf);
    conf_deinit(&n->pending);
}
