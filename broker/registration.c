/*
 * Registering, heartbeats, readiness. See registration.h. One call to the controller is under way at a time; calls survive
 * the controller's restarts (daemon.h), so a missing answer means only that it has not come yet.
 */

#include "broker/registration.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "broker/apply.h"
#include "broker/daemon.h"
#include "broker/net/net.h"
#include "broker/session.h"
#include "meta/config_keys.h"

#define REGISTER_RETRY_MS 500
#define CALL_TIMEOUT_MS   30000
#define LEAVE_MS          2000
#define DURABLE_MS        1000 /* how long readiness waits for what recovery found to be synced */

struct Registration {
    Broker *broker;
    int64_t epoch;          /* -1 not registered */
    int64_t metadata_index; /* the image must reach it first */
    int64_t durable_limit_ns; /* readiness waits no longer for produce_is_durable() */
    bool recovered, unfenced, ready;
    bool leaving;
    void (*left)(Broker *b);
    DaemonCall *call; /* under way */
    Deadline next, leave_limit;
};

static void schedule(Registration *r, int64_t delay_ms);

static bool leave_done(Registration *r)
{
    if (!r->leaving || !r->left)
        return false;
    void (*left)(Broker *b) = r->left;
    r->left = NULL;
    deadline_clear(&r->broker->deadlines, &r->leave_limit);
    left(r->broker);
    return true;
}

static void check_ready(Registration *r)
{
    Broker *b = r->broker;
    if (r->ready || !r->recovered || !r->unfenced || (int64_t)meta_index(b->image) < r->metadata_index)
        return;
    /* Acknowledged records past the durable mark become visible with the first sync round: who connects then sees them. */
    if (!produce_is_durable(b) && broker_now_ns(b) < r->durable_limit_ns)
        return; /* looked at again after each round and each heartbeat */
    r->ready = true;
    if (b->phase == BROKER_STARTING)
        b->phase = BROKER_RUNNING;
    /* Only now: connections that came before wait in the supervisor's sockets, sessions in their queues. */
    int e = net_start(b->net);
    if (e < 0)
        child_fail(b->child, 1, "cannot listen: %s", strerror(-e));
    sessions_wake(b->sessions);
    jlog(LOG_INFO, "broker %d is ready: epoch %lld, %zu topics, %zu partitions", (int)b->node_id, (long long)r->epoch,
         b->partitions.topics_count, b->partitions.partitions_count);
    (void)child_ready(b->child);
}

/* --- registering --- */

static uint16_t port_of(const Broker *b, const char *listener)
{
    const char *name;
    int fd;
    for (size_t i = 0; (fd = child_kafka_fd(b->child, i, &name)) >= 0; i++) {
        struct sockaddr_storage a;
        socklen_t size = sizeof(a);
        if (strcmp(name, listener) != 0 || getsockname(fd, (struct sockaddr *)&a, &size) < 0)
            continue;
        if (a.ss_family == AF_INET)
            return ntohs(((struct sockaddr_in *)&a)->sin_port);
        if (a.ss_family == AF_INET6)
            return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    }
    return 0;
}

static int list_endpoints(const Broker *b, MetaEndpoint *endpoints, KRegisterBrokerRequestListeners *ret)
{
    char why[256] = "";
    int n = config_listeners(&b->conf, true, endpoints, META_ENDPOINTS_MAX, why, sizeof(why));
    if (n < 0)
        child_fail(b->child, 78, "advertised.listeners: %s", why);
    for (int i = 0; i < n; i++) {
        uint16_t port = endpoints[i].port ? endpoints[i].port : port_of(b, endpoints[i].name);
        ret[i] = (KRegisterBrokerRequestListeners){.name = k_str(endpoints[i].name), .host = k_str(endpoints[i].host), .port = port};
    }
    return n;
}

static void on_registered(void *userdata, const void *body, size_t size)
{
    Registration *r = userdata;
    Broker *b = r->broker;
    Arena arena = ARENA_NULL;
    KRegisterBrokerResponse a;
    r->call = NULL;
    if (!body || k_decode(&k_register_broker_response, 0, body, size, &arena, &a) < 0) {
        schedule(r, REGISTER_RETRY_MS);
    } else if (a.error_code == K_INCONSISTENT_CLUSTER_ID) {
        child_fail(b->child, 78, "this data directory belongs to another cluster: %.*s", (int)MAX(a.error_message.len, 0),
                   a.error_message.len > 0 ? a.error_message.ptr : "");
    } else if (a.error_code != K_NONE) {
        jlog(LOG_WARNING, "the controller refuses registration: %s; trying again", k_error_name(a.error_code));
        schedule(r, REGISTER_RETRY_MS);
    } else {
        r->epoch = a.broker_epoch;
        r->metadata_index = a.metadata_index;
        apply_changed(b->apply);
        schedule(r, 0);
    }
    arena_deinit(&arena);
}

static void send_registration(Registration *r)
{
    Broker *b = r->broker;
    MetaEndpoint endpoints[META_ENDPOINTS_MAX];
    KRegisterBrokerRequestListeners listeners[META_ENDPOINTS_MAX];
    KRegisterBrokerRequestLogDirs dir = {.id = *log_dir_id(b->log_dir), .state = (int8_t)log_dir_state(b->log_dir)};
    KRegisterBrokerRequest q = {.broker_id = b->node_id,
                                .incarnation_id = b->incarnation_id,
                                .cluster_id = k_str(b->cluster_id),
                                .rack = k_str(config_text(&b->conf, "broker.rack")),
                                .previous_epoch = r->epoch};
    q.log_dirs.items = &dir;
    q.log_dirs.n = 1;
    q.listeners.items = listeners;
    q.listeners.n = list_endpoints(b, endpoints, listeners);
    if (daemon_call_message(b->controller, API_REGISTER_BROKER, 0, NULL, &q, CALL_TIMEOUT_MS, on_registered, r, &r->call) < 0)
        schedule(r, REGISTER_RETRY_MS);
}

/* --- heartbeats --- */

static void on_heartbeat(void *userdata, const void *body, size_t size)
{
    Registration *r = userdata;
    Broker *b = r->broker;
    Arena arena = ARENA_NULL;
    KBrokerHeartbeatResponse a;
    bool ok = body && k_decode(&k_broker_heartbeat_response, 0, body, size, &arena, &a) == 0;
    arena_deinit(&arena);
    r->call = NULL;
    if (ok && (a.error_code == K_STALE_BROKER_EPOCH || a.error_code == K_BROKER_ID_NOT_REGISTERED)) {
        jlog(LOG_NOTICE, "the controller does not know epoch %lld: registering again", (long long)r->epoch);
        r->epoch = -1;
        schedule(r, 0);
        return;
    }
    if (ok && a.error_code == K_NONE) {
        r->unfenced = !a.is_fenced;
        if (!a.is_caught_up || !r->ready)
            apply_changed(b->apply); /* the notice of our leaderships came before this answer: seen, then ready */
        if (r->leaving && a.should_shutdown && leave_done(r))
            return;
    }
    /* Until ready every millisecond counts; afterwards the interval does. */
    schedule(r, r->ready || !ok ? b->settings.heartbeat_interval_ms : MIN(b->settings.heartbeat_interval_ms, 10));
}

static void send_heartbeat(Registration *r)
{
    Broker *b = r->broker;
    KBrokerHeartbeatRequest q = {.broker_id = b->node_id,
                                 .broker_epoch = r->epoch,
                                 .metadata_index = (int64_t)meta_index(b->image),
                                 .want_fence = !r->recovered,
                                 .want_shutdown = r->leaving};
    if (daemon_call_message(b->controller, API_BROKER_HEARTBEAT, 0, NULL, &q, CALL_TIMEOUT_MS, on_heartbeat, r, &r->call) < 0)
        schedule(r, b->settings.heartbeat_interval_ms);
}

static void on_next(Deadline *d)
{
    Registration *r = CONTAINER_OF(d, Registration, next);
    if (r->call || !daemon_is_up(r->broker->controller))
        return;
    if (r->epoch < 0)
        send_registration(r);
    else
        send_heartbeat(r);
}

static void schedule(Registration *r, int64_t delay_ms)
{
    broker_set_deadline(r->broker, &r->next, delay_ms);
}

/* --- life --- */

static void on_leave_limit(Deadline *d)
{
    (void)leave_done(CONTAINER_OF(d, Registration, leave_limit));
}

int registration_new(Broker *b, Registration **ret)
{
    Registration *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->broker = b;
    r->epoch = r->metadata_index = -1;
    r->next.fn = on_next;
    r->leave_limit.fn = on_leave_limit;
    *ret = r;
    return 0;
}

Registration *registration_free(Registration *r)
{
    if (!r)
        return NULL;
    daemon_cancel(r->call);
    deadline_clear(&r->broker->deadlines, &r->next);
    deadline_clear(&r->broker->deadlines, &r->leave_limit);
    free(r);
    return NULL;
}

void registration_controller_up(Registration *r)
{
    apply_changed(r->broker->apply);
    schedule(r, 0);
}

void registration_controller_down(Registration *r)
{
    (void)r; /* calls under way wait for it; nothing new starts until it is up */
}

void registration_recovered(Registration *r)
{
    r->recovered = true;
    r->durable_limit_ns = broker_now_ns(r->broker) + DURABLE_MS * NS_PER_MS;
    if (!r->call)
        schedule(r, 0);
}

void registration_applied(Registration *r)
{
    check_ready(r);
}

void registration_look(Registration *r)
{
    if (r && !r->ready)
        check_ready(r);
}

bool registration_is_ready(const Registration *r)
{
    return r->ready;
}

int64_t registration_epoch(const Registration *r)
{
    return r->epoch;
}

void registration_leave(Registration *r, void (*done)(Broker *b))
{
    r->leaving = true;
    r->left = done;
    bool can_ask = r->epoch >= 0 && daemon_is_up(r->broker->controller);
    broker_set_deadline(r->broker, &r->leave_limit, can_ask ? LEAVE_MS : 0);
    if (can_ask && !r->call)
        schedule(r, 0);
}
