/*
 * See process.h. The order of things when a child ends: its socket is read to the end (it may have said why), the exit is
 * reaped through its pidfd, the siblings are told, and only then the core's other wishes are done.
 */

#include "supervisor/process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "meta/config_keys.h"
#include "supervisor/events.h"
#include "supervisor/talk.h"

static void on_sock(void *userdata, uint32_t events);
static void on_exit_event(void *userdata, uint32_t events);

void process_describe_exit(const Failure *f, char *out, size_t size)
{
    const char *name = f->signal == 0 ? NULL : sigabbrev_np(f->signal);

    if (f->signal == 0)
        (void)snprintf(out, size, "exit %d", f->exit_code);
    else if (name != NULL)
        (void)snprintf(out, size, "SIG%s", name);
    else
        (void)snprintf(out, size, "signal %d", f->signal);
}

static int watch_child(NodeChild *c, const Spawned *s)
{
    int r = loop_add_fd(c->node->loop, s->pidfd, EPOLLIN, on_exit_event, c, &c->exit_source);

    return r < 0 ? r : loop_add_fd(c->node->loop, s->sock, EPOLLIN, on_sock, c, &c->sock_source);
}

static int spawn(NodeChild *c)
{
    Node *n = c->node;
    SpawnOrder order = {.role = c->role,
                        .program = &c->program,
                        .counters_fd = counters_fd(n->counters),
                        .sockets = c->role == ROW_BROKER ? &n->sockets : NULL,
                        .data = &n->data};
    _cleanup_(base_closep) int config_fd = node_child_config(n);
    Spawned s;
    int r;

    if (config_fd < 0)
        return config_fd;
    order.config_fd = config_fd;
    r = spawn_child(&order, &s);
    if (r < 0)
        return r;
    c->pid = s.pid;
    c->pidfd = s.pidfd;
    c->sock = s.sock;
    c->spawned_ns = c->heartbeat_ns = clock_mono_ns();
    c->started_ms = clock_wall_ms();
    c->ready_after_ns = 0;
    c->why[0] = c->status[0] = '\0';
    c->resend_siblings = c->resend_stop = false;
    c->reload.state = c->accept_clock.state = ASK_NONE;
    r = watch_child(c, &s);
    if (r < 0) /* unwatched children are not to be: its end is noticed with the next tick */
        (void)process_signal(c, SIGKILL);
    return 0;
}

static void keep_reason(NodeChild *c)
{
    const char *kind = core_failure_name(c->core.failure);
    Failure f = c->last_exit;
    char how[32];
    int r;

    (void)snprintf(f.kind, sizeof(f.kind), "%s", kind);
    c->last_exit = f;
    r = datadir_keep_failure(&c->node->data, c->role, &f);
    if (r < 0)
        jlog_errno(LOG_WARNING, r, "the reason of the failure cannot be kept in %s",
                   c->node->data.path);
    process_describe_exit(&f, how, sizeof(how));
    jlog_write(LOG_CRIT,
               c->core.failure == CORE_FAILURE_STORAGE      ? MESSAGE_STORAGE_FAILED
               : c->core.failure == CORE_FAILURE_CRASH_LOOP ? MESSAGE_CRASH_LOOP
                                                            : MESSAGE_CHILD_FAILED,
               0, NULL, 0, "%s failed: %s (%s)%s%s; %s%s", child_role_name(c->role), kind, how,
               f.why[0] == '\0' ? "" : ": ", f.why,
               c->node->phase == NODE_STARTING
                   ? "so the node cannot start"
                   : "it is not restarted until: mqctl supervisor start ",
               c->node->phase == NODE_STARTING ? "" : child_role_name(c->role));
}

static int64_t hang_ms(const NodeChild *c)
{
    return config_i64(&c->node->conf, "child.hang.ms");
}

/* Work through what the core wants, in CoreAction's order. */
static void act(NodeChild *c, unsigned actions, int64_t timeout_ns, pid_t dead)
{
    if ((actions & CORE_DO_ABORT) != 0) {
        jlog_write(LOG_ERR, MESSAGE_CHILD_HUNG, 0, NULL, 0,
                   "%s (pid %d) has shown no heartbeat for %lld ms: SIGABRT",
                   child_role_name(c->role), (int)c->pid, (long long)hang_ms(c));
        (void)snprintf(c->why, sizeof(c->why), "hung: no heartbeat for %lld ms",
                       (long long)hang_ms(c));
        (void)process_signal(c, SIGABRT);
    }
    if ((actions & CORE_DO_KILL) != 0)
        (void)process_signal(c, SIGKILL);
    if ((actions & CORE_DO_TELL_DIED) != 0)
        talk_died(c, dead);
    if ((actions & CORE_DO_KEEP_REASON) != 0)
        keep_reason(c);
    if ((actions & CORE_DO_FORGET_REASON) != 0)
        (void)datadir_forget_failure(&c->node->data,
                                     c->role); /* a note that stays is only an old note */
    if ((actions & CORE_DO_SPAWN) != 0) {
        int r = spawn(c);

        if (r < 0) {
            jlog_errno(LOG_ERR, r, "%s cannot be started", child_role_name(c->role));
            (void)snprintf(c->why, sizeof(c->why), "cannot be started: %s", strerror(-r));
            process_feed(c, CORE_EV_EXITED, 0);
            return;
        }
    }
    if ((actions & CORE_DO_SEND_DRAIN) != 0)
        talk_drain(c, timeout_ns);
    if ((actions & CORE_DO_SEND_UNDRAIN) != 0)
        talk_undrain(c);
    if ((actions & CORE_DO_SEND_STOP) != 0)
        talk_stop(c);
    if ((actions & CORE_DO_BROADCAST) != 0)
        talk_siblings(c->node);
}

static void feed(NodeChild *c, const CoreEvent *ev, pid_t dead)
{
    uint64_t restarts = c->core.restarts;
    CoreState before = c->core.state;
    unsigned actions = core_step(&c->core, ev);

    if (c->core.restarts != restarts)
        counter_add(counters_row(c->node->counters, ROW_SUPERVISOR), COUNTER_RESTARTS, 1);
    act(c, actions, c->core.drain_ns, dead);
    if (actions != 0 || c->core.state != before || ev->type == CORE_EV_DRAINED)
        node_progress(c->node);
}

void process_feed(NodeChild *c, CoreEventType type, int64_t argument)
{
    CoreEvent ev = {.type = type, .now_ns = clock_mono_ns(), .timeout_ns = argument};

    if (type == CORE_EV_DRAINED)
        ev.ok = argument != 0;
    if (type == CORE_EV_EXITED) { /* it never ran */
        ev.exit_code = 71;
        c->last_exit = (Failure){.at_ms = clock_wall_ms(), .exit_code = 71};
        memcpy(c->last_exit.why, c->why, sizeof(c->last_exit.why));
        c->has_exited = true;
    }
    feed(c, &ev, c->pid);
}

static void log_exit(NodeChild *c, pid_t pid)
{
    bool expected =
        c->core.state == CORE_STOPPING && c->last_exit.signal == 0 && c->last_exit.exit_code == 0;
    char how[32];

    process_describe_exit(&c->last_exit, how, sizeof(how));
    jlog_write(expected ? LOG_INFO : LOG_ERR, expected ? NULL : MESSAGE_CHILD_DIED, 0, NULL, 0,
               "%s (pid %d) ended: %s%s%s", child_role_name(c->role), (int)pid, how,
               c->why[0] == '\0' ? "" : ": ", c->why);
}

void process_forget(NodeChild *c)
{
    c->exit_source = loop_fd_free(c->exit_source);
    c->sock_source = loop_fd_free(c->sock_source);
    base_closep(&c->pidfd);
    base_closep(&c->sock);
    c->pid = 0;
}

/* Has it ended? Return: true and everything about it is done. */
static bool reap(NodeChild *c)
{
    siginfo_t info = {.si_pid = 0};
    CoreEvent ev = {.type = CORE_EV_EXITED, .exit_code = -1};
    pid_t pid = c->pid;

    if (pid <= 0 || waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG) < 0 ||
        info.si_pid == 0)
        return false;
    talk_read(c);
    if (info.si_code == CLD_EXITED)
        ev.exit_code = info.si_status;
    else
        ev.signal = info.si_status;
    c->last_exit =
        (Failure){.at_ms = clock_wall_ms(), .exit_code = ev.exit_code, .signal = ev.signal};
    memcpy(c->last_exit.why, c->why, sizeof(c->last_exit.why));
    c->has_exited = true;
    log_exit(c, pid);
    process_forget(c);
    ev.now_ns = clock_mono_ns();
    feed(c, &ev, pid);
    return true;
}

static void on_exit_event(void *userdata, uint32_t events UNUSED)
{
    (void)reap(userdata);
}

static void on_sock(void *userdata, uint32_t events UNUSED)
{
    talk_read(userdata);
}

int process_signal(NodeChild *c, int number)
{
    if (c->pid <= 0)
        return -ESRCH;
    return pidfd_send_signal(c->pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

void process_tick(NodeChild *c, int64_t now_ns)
{
    uint64_t beat = counter_get(counters_row(c->node->counters, c->role), COUNTER_HEARTBEAT);

    if (reap(c))
        return;
    talk_retry(c);
    if (beat != c->heartbeat) {
        c->heartbeat = beat;
        c->heartbeat_ns = now_ns;
        process_feed(c, CORE_EV_HEARTBEAT, 0);
    }
    process_feed(c, CORE_EV_TICK, hang_ms(c) * NS_PER_MS);
}
