/*
 * Putting the broker together, the end of a turn, and the way out. See broker.h.
 *
 * Order at the end of a turn: append what was staged, apply metadata, wake fetches, fill rings, write to sockets. Each step
 * may give work to a later one, never to an earlier one of the same turn; what is left makes before_sleep() ask for another.
 */

#include "broker/broker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/fs.h"
#include "base/log.h"
#include "broker/agent.h"
#include "broker/api/api.h"
#include "broker/api/producer_id.h"
#include "broker/apply.h"
#include "broker/daemon.h"
#include "broker/delivery.h"
#include "broker/housekeep.h"
#include "broker/net/net.h"
#include "broker/registration.h"
#include "broker/session.h"
#include "meta/config_keys.h"

#define CLOSE_MS 60000 /* a syncfs waits for whatever else the disk has to write */

/* --- turns --- */

static void turn_end(void *userdata)
{
    Broker *b = userdata;
    produce_flush(b);
    apply_run(b->apply);
    api_fetch_run_woken(b);
    delivery_run(b);
    net_run(b->net);
    sessions_run(b->sessions);
    int64_t next_ns = deadlines_next(&b->deadlines);
    if (loop_timer_deadline(b->deadline_timer) != next_ns)
        loop_timer_set(b->deadline_timer, next_ns);
}

static bool may_sleep(void *userdata)
{
    const Broker *b = userdata;
    return !produce_is_pending(b) && !apply_is_pending(b->apply) && list_is_empty(&b->fetch_woken) && !delivery_is_pending(b);
}

static void on_deadlines(void *userdata)
{
    Broker *b = userdata;
    deadlines_run(&b->deadlines, broker_now_ns(b));
}

void broker_set_deadline(Broker *b, Deadline *d, int64_t delay_ms)
{
    int64_t room_ms = (INT64_MAX - broker_now_ns(b)) / NS_PER_MS - 1;
    int64_t at_ns = broker_now_ns(b) + MAX((int64_t)0, MIN(delay_ms, room_ms)) * NS_PER_MS;
    if (deadline_set(&b->deadlines, d, at_ns) == 0)
        return;
    /* No memory for the heap to grow: nothing may wait without an end, and the process has a supervisor. */
    child_fail(b->child, 1, "out of memory for deadlines");
}

/* --- the sync thread --- */

static void synced_on_loop(void *userdata)
{
    Broker *b = userdata;
    atomic_store(&b->sync_posted, false); /* before reading the ends: a later round posts again */
    produce_synced(b);
}

static void synced(void *userdata)
{
    Broker *b = userdata;
    if (!atomic_exchange(&b->sync_posted, true) && loop_post(b->loop, synced_on_loop, b) < 0)
        atomic_store(&b->sync_posted, false); /* the next round tells it */
}

static void storage_failed(void *userdata, const char *why)
{
    Broker *b = userdata;
    child_fail(b->child, 74, "%s", why);
}

/* --- the supervisor --- */

static void on_siblings(void *userdata, const ChildSibling *children, size_t n)
{
    Broker *b = userdata;
    sessions_set_siblings(b->sessions, children, n);
}

/* The rest is broker_free()'s, after the last turn. */
static void stop_now(Broker *b)
{
    b->clean_stop = true;
    loop_quit(b->loop, 0);
}

static void on_stop(void *userdata)
{
    Broker *b = userdata;
    if (b->phase == BROKER_STOPPING)
        return;
    bool started = b->phase != BROKER_STARTING;
    b->phase = BROKER_STOPPING;
    net_stop_accepting(b->net, true);
    if (started)
        registration_leave(b->registration, stop_now);
    else
        stop_now(b);
}

static void drain_ended(Deadline *d)
{
    Broker *b = CONTAINER_OF(d, Broker, drain_limit);
    if (b->phase != BROKER_DRAINING)
        return;
    produce_flush(b);
    int r = log_dir_sync_now(b->log_dir);
    produce_synced(b);
    (void)child_drained(b->child, r == 0);
}

/* Requests that run go on; new sessions and connections are refused. Groups end when their members leave (D33). */
static void on_drain(void *userdata, int64_t timeout_ms)
{
    Broker *b = userdata;
    if (b->phase != BROKER_RUNNING && b->phase != BROKER_DRAINING)
        return;
    b->phase = BROKER_DRAINING;
    net_stop_accepting(b->net, true);
    b->drain_limit.fn = drain_ended;
    broker_set_deadline(b, &b->drain_limit, MIN(timeout_ms, produce_is_pending(b) ? 100 : 0));
}

static void on_undrain(void *userdata)
{
    Broker *b = userdata;
    if (b->phase != BROKER_DRAINING)
        return;
    b->phase = BROKER_RUNNING;
    deadline_clear(&b->deadlines, &b->drain_limit);
    net_stop_accepting(b->net, false);
}

static int copy_conf(Conf *to, const Conf *from)
{
    for (size_t i = 0; i < from->n; i++) {
        const ConfEntry *e = &from->entries[i];
        int r = conf_set(to, e->key, e->value, e->file, e->line);
        if (r < 0)
            return r;
    }
    return 0;
}

static void log_path(const Broker *b, char *out, size_t size)
{
    const char *dirs = config_text(&b->conf, "log.dirs");
    if (dirs && dirs[0])
        snprintf(out, size, "%s", dirs);
    else
        snprintf(out, size, "%s/log", conf_get(&b->conf, "leat.data.dir", ""));
}

static int64_t disk_bytes(const char *path)
{
    struct statvfs v;
    return statvfs(path, &v) == 0 ? (int64_t)(v.f_blocks * v.f_frsize) : (int64_t)1 << 40;
}

void broker_take_settings(Broker *b)
{
    ConfigView view = {.conf = &b->conf,
                       .broker = meta_broker_configs(b->image, b->node_id),
                       .cluster = meta_broker_configs(b->image, -1)};
    char path[512];
    settings_read(&view, &b->settings);
    if (!b->log_dir)
        return;
    log_path(b, path, sizeof(path));
    log_dir_set_reserve(b->log_dir, config_disk_reserve(&b->conf, disk_bytes(path)));
    log_dir_set_cleaner(b->log_dir, b->settings.cleaner_map_bytes, b->settings.cleaner_bytes_per_s);
    net_take_settings(b->net);
}

static int on_reload(void *userdata, const Conf *conf, char *why, size_t why_size)
{
    Broker *b = userdata;
    Conf fresh = {0};
    int r = copy_conf(&fresh, conf);
    if (r < 0) {
        conf_deinit(&fresh);
        snprintf(why, why_size, "out of memory");
        return r;
    }
    conf_deinit(&b->conf);
    b->conf = fresh;
    broker_take_settings(b);
    apply_configs(b);
    return 0;
}

/* --- start --- */

static int exit_code_of(int r)
{
    if (fs_is_shortage(r))
        return 1; /* may be better in a moment: the supervisor tries again */
    return r == -EIO ? 74 : r == -EBADMSG ? 65 : 78;
}

static void on_log_progress(void *userdata, const PlogId *id, int64_t done_bytes, int64_t total_bytes)
{
    Broker *b = userdata;
    apply_progress(b->apply, id, done_bytes, total_bytes);
}

static int open_log_dir(Broker *b)
{
    char path[512], why[256] = "";
    log_path(b, path, sizeof(path));
    (void)fs_mkdir_p(path, 0700); /* so that its disk can be asked; what is wrong with it, log_dir_open says */
    LogDirOptions o = {.path = path,
                       .pool_bytes = config_i64(&b->conf, "log.pool.bytes"),
                       .pool_on_disk_only = conf_find(&b->conf, "log.pool.bytes") == NULL,
                       .reserve_bytes = config_disk_reserve(&b->conf, disk_bytes(path)),
                       .segment_bytes_default = config_i64(&b->conf, "log.segment.bytes"),
                       .synced = synced,
                       .failed = storage_failed,
                       .progress = on_log_progress,
                       .userdata = b};
    int r = log_dir_open(&o, &b->log_dir, why, sizeof(why));
    if (r < 0)
        child_fail(b->child, exit_code_of(r), "log directory %s: %s", path, why[0] ? why : strerror(-r));
    return r;
}

static int make_parts(Broker *b)
{
    int r = partition_table_init(&b->partitions);
    if (r == 0)
        r = produce_init(b);
    if (r == 0)
        r = meta_image_new(&b->image);
    if (r == 0)
        r = worker_new(b->loop, &b->worker);
    if (r == 0)
        r = apply_new(b, &b->apply);
    if (r == 0)
        r = registration_new(b, &b->registration);
    if (r == 0)
        r = daemon_new(b, FAB_ROLE_CONTROLLER, &b->controller);
    if (r == 0)
        r = daemon_new(b, FAB_ROLE_COORDINATOR, &b->coordinator);
    if (r == 0)
        r = sessions_new(b, &b->sessions);
    if (r == 0)
        r = delivery_new(b, &b->delivery);
    if (r == 0)
        r = agent_new(b, &b->agent);
    if (r == 0)
        r = producer_ids_new(b, &b->producer_ids);
    if (r == 0)
        r = net_new(b, &b->net);
    if (r == 0)
        r = housekeep_new(b, &b->housekeeper);
    if (r == 0)
        r = loop_add_timer(b->loop, on_deadlines, b, &b->deadline_timer);
    return r;
}

static int on_accept_clock(void *userdata, char *why, size_t why_size)
{
    Broker *b = userdata;
    int r = housekeep_accept_clock(b->housekeeper);
    if (r < 0)
        snprintf(why, why_size, "the time cannot be kept in the data directory: %s", strerror(-r));
    return r;
}

static void read_identity(Broker *b)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    b->session_epoch = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
    int64_t node_id = 1;
    (void)parse_i64(conf_get(&b->conf, "leat.node.id", conf_get(&b->conf, "node.id", "1")), &node_id);
    b->node_id = (int32_t)node_id;
    snprintf(b->cluster_id, sizeof(b->cluster_id), "%s", conf_get(&b->conf, "leat.cluster.id", ""));
    (void)uuid_random(&b->incarnation_id);
}

int broker_new(Loop *loop, int argc, char **argv, Broker **ret)
{
    static const ChildOps ops = {
        .siblings = on_siblings, .drain = on_drain, .undrain = on_undrain, .stop = on_stop, .reload = on_reload,
        .accept_clock = on_accept_clock};
    Broker *b = calloc(1, sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->loop = loop;
    list_init(&b->fetch_woken);
    int r = make_parts(b);
    if (r == 0)
        r = child_init(argc, argv, ROW_BROKER, loop, &ops, b, &b->child);
    if (r == 0)
        r = copy_conf(&b->conf, child_conf(b->child));
    if (r < 0) {
        broker_free(b);
        return r;
    }
    b->row = child_row(b->child);
    read_identity(b);
    broker_take_settings(b);
    (void)child_status(b->child, "opening the log directory", 30000);
    r = open_log_dir(b);
    /* The fabric's hooks first: it takes descriptors at the end of a turn, ours work on them, and its before_sleep rings
     * one doorbell for everything that came of it. */
    if (r == 0)
        r = sessions_listen(b->sessions, child_client_fd(b->child));
    if (r == 0)
        r = loop_add_turn_end(loop, turn_end, b);
    if (r == 0)
        r = loop_add_before_sleep(loop, may_sleep, b);
    if (r == 0)
        r = apply_start(b->apply);
    if (r < 0) {
        jlog_errno(LOG_ERR, r, "cannot start");
        broker_free(b);
        return r;
    }
    housekeep_start(b->housekeeper);
    *ret = b;
    return 0;
}

Broker *broker_free(Broker *b)
{
    if (!b)
        return NULL;
    b->net = net_free(b->net);
    b->fabric = fab_server_free(b->fabric);
    b->housekeeper = housekeep_free(b->housekeeper);
    b->producer_ids = producer_ids_free(b->producer_ids);
    b->agent = agent_free(b->agent);
    b->registration = registration_free(b->registration);
    b->coordinator = daemon_free(b->coordinator);
    b->controller = daemon_free(b->controller);
    b->delivery = delivery_free(b->delivery);
    b->sessions = sessions_free(b->sessions);
    b->worker = worker_free(b->worker);
    if (b->log_dir) {
        apply_close_logs(b);
        (void)child_status(b->child, "syncing the log directory", CLOSE_MS);
        b->log_dir = log_dir_close(b->log_dir, b->clean_stop);
    }
    b->apply = apply_free(b->apply);
    partition_table_deinit(&b->partitions);
    produce_deinit(b);
    b->reader = meta_reader_close(b->reader);
    b->image = meta_image_free(b->image);
    b->deadline_timer = loop_timer_free(b->deadline_timer);
    deadlines_deinit(&b->deadlines);
    conf_deinit(&b->conf);
    b->child = child_free(b->child);
    free(b);
    return NULL;
}
