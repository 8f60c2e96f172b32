/* See notify.h. sd_notify() does nothing and returns 0 without NOTIFY_SOCKET; its errors change nothing for us. */

#include "supervisor/notify.h"

#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "base/clock.h"
#include "base/log.h"

/* Our own hung-child killing comes first (10 s + 2 s); if even that does not help, systemd shall end the whole node. */
#define HEARTBEAT_LOST_NS (20 * NS_PER_S)
#define EXTEND_MIN_MS     10000

void notify_init(Node *n)
{
    uint64_t usec;

    if (sd_watchdog_enabled(0, &usec) > 0)
        n->watchdog_ns = (int64_t)MIN(usec, (uint64_t)INT64_MAX / 1000) * NS_PER_US / 2;
}

static void status_text(Node *n, char *out, size_t size)
{
    static const char *const phases[] = {"starting", "ready", "draining", "stopping"};
    size_t used = (size_t)snprintf(out, size, "%s", phases[n->phase]);

    node_for_each(c, n)
    {
        if (used < size && c->core.state == CORE_FAILED)
            used += (size_t)snprintf(out + used, size - used, "; %s failed: %s",
                                     child_role_name(c->role), core_failure_name(c->core.failure));
        else if (used < size && n->phase != NODE_STOPPING && c->core.state != CORE_READY)
            used += (size_t)snprintf(out + used, size - used, "; %s %s%s%s",
                                     child_role_name(c->role), core_state_name(c->core.state),
                                     c->status[0] == '\0' ? "" : ": ", c->status);
    }
    for (size_t i = 0; used < size && n->phase == NODE_RUNNING && i < n->sockets.n_kafka; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s:%u", i == 0 ? "; Kafka on " : ", ",
                                 n->sockets.kafka[i].endpoint.host,
                                 (unsigned)n->sockets.kafka[i].endpoint.port);
}

void notify_status(Node *n)
{
    char text[512];

    status_text(n, text, sizeof(text));
    if (strcmp(text, n->status_sent) == 0)
        return;
    (void)snprintf(n->status_sent, sizeof(n->status_sent), "%s", text);
    (void)sd_notifyf(0, "STATUS=%s", text);
}

void notify_ready(Node *n)
{
    char text[512];

    status_text(n, text, sizeof(text));
    (void)sd_notifyf(0, "READY=1\nSTATUS=%s", text);
}

void notify_progress(Node *n, const NodeChild *c, int64_t extend_ms)
{
    if (c->core.state != CORE_STARTING && c->core.state != CORE_STOPPING)
        return;
    (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%lld",
                     (long long)(MAX(extend_ms, EXTEND_MIN_MS) + EXTEND_MIN_MS) * 1000);
    notify_status(n);
}

void notify_reloading(void)
{
    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld",
                     (long long)(clock_mono_ns() / NS_PER_US));
}

void notify_reloaded(Node *n)
{
    notify_ready(n);
}

void notify_stopping(Node *n)
{
    char text[512];

    status_text(n, text, sizeof(text));
    (void)sd_notifyf(0, "STOPPING=1\nSTATUS=%s", text);
}

void notify_watchdog(Node *n, int64_t now_ns)
{
    if (n->watchdog_ns == 0 || now_ns - n->watchdog_sent_ns < n->watchdog_ns / 2)
        return;
    node_for_each(c, n)
    {
        if (core_is_running(&c->core) &&
            now_ns - MAX(c->heartbeat_ns, c->core.heartbeat_ns) > HEARTBEAT_LOST_NS) {
            jlog_limited(LOG_ERR,
                         "%s gives no sign of life and cannot be ended: the watchdog is not fed",
                         child_role_name(c->role));
            return;
        }
    }
    (void)sd_notify(0, "WATCHDOG=1");
    n->watchdog_sent_ns = now_ns;
}
