/* See coord.h. */

#include "consumer-coord/coord.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/wall.h"
#include "consumer-coord/topic.h"
#include "meta/child.h"
#include "meta/config_keys.h"
#include "meta/store.h"

#define READER_RETRY_MS 100
#define STOP_MS         2000 /* how long a clean stop waits for writes in flight */
#define EVENT_TOPIC_DELETED 3 /* CoordinatorEvent.kind; 0 to 2 only say that the image changed */

struct Coord {
    Loop *loop;
    Child *child;
    FabLink *link;
    MetaReader *reader;
    MetaImage *image;
    Groups *groups;
    OffsetsTopic *topic;
    GroupEffects effects;
    LoopTimer *group_timer, *reader_timer, *expiry_timer, *stop_timer;
    WallTrust wall;
    int32_t node_id;
    bool image_changed; /* by a look-up inside the core: told at the end of the turn */
    bool is_up, is_ready, is_stopping, is_draining;
    char meta_dir[600], socket_path[600];
};

/* From the core outwards */

static void send_reply(Coord *c, const GroupEffect *e)
{
    FabSqe sqe = {.op = FAB_OP_RESPONSE, .user_data = e->asker.tag};
    int r = fab_link_send(c->link, &sqe, e->body.ptr, (size_t)e->body.len);
    if (r < 0)
        jlog_limited(LOG_WARNING, "an answer to the broker was lost: %s", strerror(-r));
}

static void send_notice(Coord *c, const KGroupEvent *notice)
{
    Buf body = BUF_NULL;
    FabSqe sqe = {.op = FAB_OP_NOTIFY};
    if (k_encode(&k_group_event, 0, notice, &body) == 0)
        (void)fab_link_send(c->link, &sqe, body.data, body.size); /* members learn by their next heartbeat all the same */
    buf_deinit(&body);
}

static void count(Coord *c)
{
    CountersRow *row = child_row(c->child);
    GroupsCounts n = groups_counts(c->groups);
    counter_set(row, COUNTER_GROUPS, n.groups);
    counter_set(row, COUNTER_GROUP_MEMBERS, n.members);
    counter_set(row, COUNTER_OFFSETS, n.offsets);
    counter_set(row, COUNTER_REBALANCES, n.rebalances);
}

static void arm(Coord *c)
{
    int64_t at_ms = groups_next_deadline(c->groups);
    loop_timer_set(c->group_timer, at_ms == INT64_MAX ? INT64_MAX : at_ms * NS_PER_MS);
}

/* Drained is who has no members and no writes (D33), and who loads does not know yet; a stop waits for the writes alone. */
static void maybe_finish(Coord *c)
{
    if (offsets_topic_writes(c->topic) > 0)
        return;
    if (c->is_draining && groups_counts(c->groups).members == 0 && !offsets_topic_is_loading(c->topic)) {
        c->is_draining = false;
        (void)child_drained(c->child, true);
    }
    if (c->is_stopping)
        loop_quit(c->loop, 0);
}

static void step(Coord *c, GroupEvent *event)
{
    event->now_ms = clock_mono_ms();
    event->wall_ms = clock_wall_ms();
    group_effects_clear(&c->effects);
    group_step(c->groups, event, &c->effects);
    for (size_t i = 0; i < c->effects.n; i++) {
        const GroupEffect *e = &c->effects.items[i];
        if (e->kind == GROUP_EFFECT_REPLY)
            send_reply(c, e);
        else if (e->kind == GROUP_EFFECT_WRITE)
            offsets_topic_write(c->topic, e);
        else
            send_notice(c, &e->notice);
    }
    count(c);
    arm(c);
    if (c->is_draining || c->is_stopping)
        maybe_finish(c);
}

/* Metadata */

static void image_is_new(Coord *c)
{
    c->image_changed = false;
    counter_set(child_row(c->child), COUNTER_APPLIED_INDEX, meta_index(c->image));
    offsets_topic_image(c->topic, c->image);
}

static bool refresh(Coord *c)
{
    uint64_t before = meta_index(c->image);
    int r = c->reader ? meta_reader_refresh(c->reader, c->image) : -ENOENT;
    if (r < 0 && c->reader) {
        jlog_errno(LOG_WARNING, r, "cannot read the metadata; trying again");
        loop_timer_set(c->reader_timer, clock_mono_ns() + READER_RETRY_MS * NS_PER_MS);
    }
    return r == 0 && meta_index(c->image) != before;
}

static void metadata_changed(Coord *c)
{
    if (refresh(c))
        image_is_new(c);
}

/* A commit may name a topic that is newer than our image: look once before it is refused. */
static bool partition_exists(void *userdata, KStr topic, int32_t partition)
{
    Coord *c = userdata;
    if (meta_partition(c->image, topic.ptr, (size_t)topic.len, partition))
        return true;
    if (!refresh(c))
        return false;
    c->image_changed = true;
    return meta_partition(c->image, topic.ptr, (size_t)topic.len, partition) != NULL;
}

static void maybe_ready(Coord *c)
{
    if (c->is_ready || !c->is_up || !c->reader)
        return;
    c->is_ready = true;
    int r = child_ready(c->child);
    if (r < 0)
        jlog_errno(LOG_ERR, r, "cannot tell the supervisor that we are ready");
}

static void on_reader_timer(void *userdata)
{
    Coord *c = userdata;
    if (!c->reader && meta_reader_open(c->meta_dir, &c->reader) < 0) { /* the controller has not made it yet */
        loop_timer_set(c->reader_timer, clock_mono_ns() + READER_RETRY_MS * NS_PER_MS);
        return;
    }
    metadata_changed(c);
    maybe_ready(c);
}

/* The topic's callbacks */

static void on_partitions(void *userdata, int32_t n)
{
    step(userdata, &(GroupEvent){.kind = GROUP_PARTITIONS, .partition = n});
}

static void on_loading(void *userdata, int32_t partition)
{
    step(userdata, &(GroupEvent){.kind = GROUP_LOADING, .partition = partition});
}

static void on_record(void *userdata, int32_t partition, KBytes key, KBytes value)
{
    Coord *c = userdata;
    int r = groups_apply(c->groups, partition, key, value);
    if (r < 0)
        jlog_limited(LOG_WARNING, "a record of %s-%d is not understood and skipped: %s", OFFSETS_TOPIC_NAME, partition, strerror(-r));
}

static void on_loaded(void *userdata, int32_t partition, uint64_t records, int64_t took_ms)
{
    Coord *c = userdata;
    step(c, &(GroupEvent){.kind = GROUP_LOADED, .partition = partition});
    jlog(records ? LOG_INFO : LOG_DEBUG, "%s-%d loaded: %llu records in %lld ms", OFFSETS_TOPIC_NAME, partition, (unsigned long long)records,
         (long long)took_ms);
}

static void on_lost(void *userdata, int32_t partition)
{
    step(userdata, &(GroupEvent){.kind = GROUP_LOST, .partition = partition});
    jlog(LOG_INFO, "%s-%d is led elsewhere now", OFFSETS_TOPIC_NAME, partition);
}

static void on_written(void *userdata, uint64_t id, int16_t error)
{
    Coord *c = userdata;
    step(c, &(GroupEvent){.kind = GROUP_WRITTEN, .write_id = id, .error = error});
}

static const OffsetsTopicOps topic_ops = {.partitions = on_partitions, .loading = on_loading, .record = on_record,
                                          .loaded = on_loaded, .lost = on_lost, .written = on_written};

/* From the broker inwards */

static void run_request(Coord *c, uint64_t tag, const KForwardedRequest *f, Arena *arena)
{
    const KApi *api = k_api_find(f->api_key);
    if (!api || !groups_handles(f->api_key)) {
        jlog_limited(LOG_ERR, "the broker forwarded api %d, which is not ours", f->api_key);
        return;
    }
    void *body = arena_alloc(arena, k_message_struct_size(api->request));
    int r = body ? k_decode(api->request, f->api_version, f->body.ptr, (size_t)MAX(f->body.len, 0), arena, body) : -ENOMEM;
    if (r < 0) {
        jlog_limited(LOG_ERR, "the broker forwarded a %s v%d that cannot be decoded: %s", api->name, f->api_version, strerror(-r));
        return;
    }
    counter_add(child_row(c->child), COUNTER_REQUESTS, 1);
    step(c, &(GroupEvent){
                .kind = GROUP_REQUEST,
                .asker = {.tag = tag, .api_key = f->api_key, .api_version = f->api_version},
                .body = body,
                .client_id = f->client_id,
                .client_host = f->client_host,
                .session_id = f->session_id,
                .local = f->local,
            });
}

static void on_request(Coord *c, const FabDelivery *d)
{
    Arena arena = ARENA_NULL;
    KForwardedRequest f;
    if (k_decode(&k_forwarded_request, 0, d->payload, d->frame.size, &arena, &f) == 0)
        run_request(c, d->frame.tag, &f, &arena);
    else
        jlog_limited(LOG_ERR, "the broker sent a request that cannot be decoded");
    arena_deinit(&arena);
}

static void on_notice(Coord *c, const FabDelivery *d)
{
    Arena arena = ARENA_NULL;
    KCoordinatorEvent e;
    bool is_event = d->frame.inner_type == K_TYPE_COORDINATOR_EVENT &&
                    k_decode(&k_coordinator_event, 0, d->payload, d->frame.size, &arena, &e) == 0;
    if (is_event && e.kind == EVENT_TOPIC_DELETED && e.topic.len > 0)
        step(c, &(GroupEvent){.kind = GROUP_TOPIC_DELETED, .topic = e.topic});
    metadata_changed(c);
    arena_deinit(&arena);
}

static void on_frame(void *userdata, const FabDelivery *d)
{
    Coord *c = userdata;
    if (d->frame.type == FAB_FRAME_REQUEST)
        on_request(c, d);
    else if (d->frame.type == FAB_FRAME_NOTIFY)
        on_notice(c, d);
    else
        offsets_topic_frame(c->topic, d);
}

static void on_completion(void *userdata, const FabCqe *cqe)
{
    Coord *c = userdata;
    offsets_topic_completion(c->topic, cqe);
}

static void on_up(void *userdata, const FabWelcome *welcome)
{
    Coord *c = userdata;
    jlog(LOG_INFO, "session %llu with the broker", (unsigned long long)welcome->session_id);
    c->is_up = true;
    step(c, &(GroupEvent){.kind = GROUP_RESUME});
    offsets_topic_up(c->topic, c->link);
    if (!c->reader)
        on_reader_timer(c);
    else
        metadata_changed(c);
    maybe_ready(c);
}

static void on_down(void *userdata, const char *why)
{
    Coord *c = userdata;
    jlog(LOG_NOTICE, "the session with the broker ended: %s", why);
    c->is_up = false;
    step(c, &(GroupEvent){.kind = GROUP_SUSPEND});
    offsets_topic_down(c->topic);
    if (c->is_stopping)
        loop_quit(c->loop, 0); /* what is in flight cannot come back any more */
}

static void on_refused(void *userdata, int error, const char *why)
{
    (void)userdata;
    jlog_errno(LOG_WARNING, error, "the broker refused the session: %s", why);
}

static const FabLinkOps link_ops = {
    .up = on_up, .down = on_down, .frame = on_frame, .completion = on_completion, .refused = on_refused};

/* Time */

static void on_group_timer(void *userdata)
{
    step(userdata, &(GroupEvent){.kind = GROUP_TICK});
}

static void show_trust(Coord *c)
{
    counter_set(child_row(c->child), COUNTER_CLOCK_DISTRUSTED, !wall_is_trusted(&c->wall));
}

static void arm_expiry(Coord *c, const Conf *conf)
{
    int64_t every_ms = config_i64(conf, "offsets.retention.check.interval.ms");
    loop_timer_set(c->expiry_timer, clock_mono_ns() + MIN(every_ms, INT64_MAX / NS_PER_MS / 2) * NS_PER_MS);
}

static void on_expiry_timer(void *userdata)
{
    Coord *c = userdata;
    (void)wall_look(&c->wall, wall_time()); /* the broker logs it */
    show_trust(c);
    if (wall_is_trusted(&c->wall) && c->is_up)
        step(c, &(GroupEvent){.kind = GROUP_EXPIRE});
    arm_expiry(c, child_conf(c->child));
}

static void on_turn_end(void *userdata)
{
    Coord *c = userdata;
    if (c->image_changed)
        image_is_new(c);
}

/* The supervisor */

static int32_t as_i32(int64_t v)
{
    return (int32_t)MAX(MIN(v, INT32_MAX), 0);
}

static GroupSettings settings_of(const Conf *conf)
{
    return (GroupSettings){
        .session_min_ms = as_i32(config_i64(conf, "group.min.session.timeout.ms")),
        .session_max_ms = as_i32(config_i64(conf, "group.max.session.timeout.ms")),
        .size_max = as_i32(config_i64(conf, "group.max.size")),
        .initial_delay_ms = as_i32(config_i64(conf, "group.initial.rebalance.delay.ms")),
        .metadata_max = as_i32(config_i64(conf, "offset.metadata.max.bytes")),
        .retention_ms = config_i64(conf, "offsets.retention.minutes") * 60000,
    };
}

static int on_reload(void *userdata, const Conf *conf, char *why, size_t why_size)
{
    Coord *c = userdata;
    GroupSettings settings = settings_of(conf);
    (void)why, (void)why_size;
    groups_set_settings(c->groups, &settings);
    offsets_topic_set_write_timeout(c->topic, (uint32_t)as_i32(config_i64(conf, "offsets.commit.timeout.ms")));
    arm_expiry(c, conf);
    return 0;
}

static void on_drain(void *userdata, int64_t timeout_ms)
{
    Coord *c = userdata;
    (void)timeout_ms; /* the supervisor's patience */
    c->is_draining = true;
    maybe_finish(c);
}

static void on_undrain(void *userdata)
{
    Coord *c = userdata;
    c->is_draining = false;
}

static void on_stop_timer(void *userdata)
{
    Coord *c = userdata;
    jlog(LOG_WARNING, "stopping with %zu writes unanswered", offsets_topic_writes(c->topic));
    loop_quit(c->loop, 0);
}

static void on_stop(void *userdata)
{
    Coord *c = userdata;
    c->is_stopping = true;
    loop_timer_set(c->stop_timer, clock_mono_ns() + STOP_MS * NS_PER_MS);
    maybe_finish(c);
}

static int on_accept_clock(void *userdata, char *why, size_t why_size)
{
    Coord *c = userdata;
    (void)why, (void)why_size;
    wall_accept(&c->wall, wall_time());
    show_trust(c);
    return 0;
}

static const ChildOps child_ops = {
    .drain = on_drain, .undrain = on_undrain, .stop = on_stop, .reload = on_reload, .accept_clock = on_accept_clock};

/* Life */

static int new_groups(Coord *c)
{
    uint64_t seed;
    GroupSettings settings = settings_of(child_conf(c->child));
    const GroupsOps ops = {.partition_exists = partition_exists, .userdata = c};
    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        return -EIO;
    int r = groups_new(&settings, &ops, seed, &c->groups);
    if (r == 0) /* nothing runs before the first session */
        group_step(c->groups, &(GroupEvent){.kind = GROUP_SUSPEND}, &c->effects);
    return r;
}

static int add_timers(Coord *c)
{
    int r = loop_add_timer(c->loop, on_group_timer, c, &c->group_timer);
    r = r < 0 ? r : loop_add_timer(c->loop, on_reader_timer, c, &c->reader_timer);
    r = r < 0 ? r : loop_add_timer(c->loop, on_expiry_timer, c, &c->expiry_timer);
    r = r < 0 ? r : loop_add_timer(c->loop, on_stop_timer, c, &c->stop_timer);
    return r < 0 ? r : loop_add_turn_end(c->loop, on_turn_end, c);
}

static int open_link(Coord *c)
{
    const FabClientOptions o = {
        .socket_path = c->socket_path,
        .role = FAB_ROLE_COORDINATOR,
        .client_id = "consumer-coord",
        .build_id = child_build_id(c->child),
        .timeout_ms = 2000,
    };
    return fab_link_new(c->loop, &o, &link_ops, c, &c->link);
}

static int start(Coord *c, int argc, char **argv)
{
    int r = child_init(argc, argv, ROW_COORDINATOR, c->loop, &child_ops, c, &c->child);
    if (r < 0)
        return r;
    const Conf *conf = child_conf(c->child);
    c->node_id = (int32_t)strtol(conf_get(conf, "leat.node.id", "1"), NULL, 10);
    snprintf(c->meta_dir, sizeof(c->meta_dir), "%s/meta", conf_get(conf, "leat.data.dir", "."));
    snprintf(c->socket_path, sizeof(c->socket_path), "%s/client.sock", conf_get(conf, "leat.run.dir", "."));
    r = meta_image_new(&c->image);
    r = r < 0 ? r : add_timers(c);
    r = r < 0 ? r : new_groups(c);
    r = r < 0 ? r : offsets_topic_new(c->loop, c->node_id, &topic_ops, c, &c->topic);
    r = r < 0 ? r : open_link(c);
    if (r < 0)
        return r;
    offsets_topic_set_write_timeout(c->topic, (uint32_t)as_i32(config_i64(conf, "offsets.commit.timeout.ms")));
    (void)wall_start(&c->wall, wall_time(), wall_kept(conf_get(conf, "leat.data.dir", ".")));
    show_trust(c);
    on_reader_timer(c);
    arm_expiry(c, conf);
    return 0;
}

int coord_new(Loop *loop, int argc, char **argv, Coord **ret)
{
    Coord *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->loop = loop;
    int r = start(c, argc, argv);
    if (r < 0) {
        coord_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

Coord *coord_free(Coord *c)
{
    if (!c)
        return NULL;
    c->link = fab_link_free(c->link);
    offsets_topic_free(c->topic);
    groups_free(c->groups);
    group_effects_deinit(&c->effects);
    meta_reader_close(c->reader);
    meta_image_free(c->image);
    loop_timer_free(c->group_timer);
    loop_timer_free(c->reader_timer);
    loop_timer_free(c->expiry_timer);
    loop_timer_free(c->stop_timer);
    child_free(c->child);
    free(c);
    return NULL;
}
