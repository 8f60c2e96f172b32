/* See server.h. */

#include "controller/server.h"

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "meta/config_describe.h"
#include "shm/fab_link.h"
#include "wire/messages.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWERS_MAX 65536 /* waiting for a commit; the broker's own bound is the same */

typedef struct Answer { /* waits for its cookie */
    List node;
    uint64_t cookie, tag;
    uint64_t link_generation; /* of another session: nobody waits any more */
    int16_t api_key, api_version;
    Buf body;
} Answer;

struct Server {
    Loop *loop;
    Child *child;
    Ctl *ctl;
    MetaLog *log;
    FabLink *link;
    LoopTimer *tick;
    List answers; /* in cookie order */
    size_t answers_count;
    uint64_t next_cookie, link_generation, committed;
    int32_t node_id;
    CtlOut out; /* reused */
    char socket_path[512];
};

static void send_notice(Server *s)
{
    Buf body = BUF_NULL;
    KMetadataChanged m = {.index = (int64_t)s->committed};
    FabSqe sqe = {.op = FAB_OP_NOTIFY};
    if (!fab_link_is_up(s->link))
        return;
    int r = k_encode(&k_metadata_changed, 0, &m, &body);
    if (r == 0)
        r = fab_link_send(s->link, &sqe, body.data, body.size);
    if (r < 0)
        jlog_errno(LOG_WARNING, r, "the broker was not told of metadata index %llu", (unsigned long long)s->committed);
    buf_deinit(&body);
}

static void send_answer(Server *s, uint64_t tag, const Buf *body)
{
    FabSqe sqe = {.op = FAB_OP_RESPONSE, .user_data = tag};
    int r = fab_link_send(s->link, &sqe, body->data, body->size);
    if (r < 0)
        jlog_errno(LOG_WARNING, r, "an answer to the broker was lost");
}

static void count(Server *s)
{
    CountersRow *row = child_row(s->child);
    counter_set(row, COUNTER_APPLIED_INDEX, s->committed);
    counter_set(row, COUNTER_BROKERS, (uint64_t)config_live_brokers(ctl_image(s->ctl)));
    counter_set(row, COUNTER_TOPICS, (uint64_t)meta_topics(ctl_image(s->ctl)));
}

static void arm_tick(Server *s)
{
    int64_t at_ms = ctl_deadline_ms(s->ctl);
    loop_timer_set(s->tick, at_ms >= INT64_MAX / NS_PER_MS ? INT64_MAX : at_ms * NS_PER_MS);
}

/* --- from the core to the log --- */

/* Records of s->out: applied here, proposed there. Return: 0, or negative errno with nothing changed. */
static int propose(Server *s, uint64_t cookie)
{
    static_assert(sizeof(CtlRecord) == sizeof(struct MetaProposalRecord), "same shape");
    MetaProposal p = {.bytes = s->out.bytes.data,
                      .size = s->out.bytes.size,
                      .records = (const struct MetaProposalRecord *)(const void *)s->out.records,
                      .n_records = s->out.n_records,
                      .cookie = cookie};
    uint64_t first;
    int r = meta_log_propose(s->log, &p, &first);
    for (size_t i = 0; r == 0 && i < s->out.n_records; i++) {
        const CtlRecord *one = &s->out.records[i];
        int e = ctl_apply(s->ctl, first + i, s->out.bytes.data + one->offset, one->size);
        assert(e == 0); /* we made it */
    }
    return r;
}

static int propose_own(Server *s)
{
    if (s->out.n_records == 0)
        return 0;
    int r = propose(s, ++s->next_cookie);
    if (r < 0)
        jlog_errno(LOG_ERR, r, "a change of the controller's own could not be proposed");
    return r;
}

static void on_committed(void *userdata, uint64_t index)
{
    Server *s = userdata;
    bool news = index > s->committed;
    s->committed = index;
    count(s);
    if (news)
        send_notice(s);
}

static void on_resolved(void *userdata, uint64_t cookie, bool ok)
{
    Server *s = userdata;
    if (list_is_empty(&s->answers))
        return;
    Answer *a = CONTAINER_OF(s->answers.next, Answer, node);
    if (a->cookie != cookie)
        return; /* one of our own proposals */
    list_remove(&a->node);
    s->answers_count--;
    if (!ok)
        ok = ctl_refuse(a->api_key, a->api_version, K_KAFKA_STORAGE_ERROR, "the controller's metadata store is full", &a->body) == 0;
    if (ok && a->link_generation == s->link_generation && fab_link_is_up(s->link))
        send_answer(s, a->tag, &a->body);
    buf_deinit(&a->body);
    free(a);
}

static void on_refused(void *userdata, MetaImage *image)
{
    Server *s = userdata;
    jlog(LOG_ERR, "the metadata store is full and its file system has no room for it to grow: changes are refused (free space "
                  "below leat.data.dir)");
    ctl_reset(s->ctl, image, clock_mono_ms());
    arm_tick(s);
}

static void on_map_used(void *userdata, uint32_t permille)
{
    Server *s = userdata;
    counter_set(child_row(s->child), COUNTER_META_MAP_USED, permille);
    if (permille >= 800)
        jlog(LOG_WARNING, "the metadata map is %u.%u %% full", permille / 10, permille % 10);
}

static void on_failed(void *userdata, int error, const char *what)
{
    const Server *s = userdata;
    child_fail(s->child, 74, "%s: %s", what, strerror(-error));
}

static const MetaLogOps log_ops = {.committed = on_committed,
                                   .resolved = on_resolved,
                                   .refused = on_refused,
                                   .map_used = on_map_used,
                                   .failed = on_failed};

/* --- requests --- */

static void answer_later(Server *s, uint64_t tag, const CtlRequest *q)
{
    Answer *a = s->answers_count < ANSWERS_MAX ? calloc(1, sizeof(*a)) : NULL;
    if (!a)
        return; /* the broker's deadline answers */
    *a = (Answer){.cookie = ++s->next_cookie, .tag = tag, .link_generation = s->link_generation, .api_key = q->api_key,
                  .api_version = q->api_version, .body = s->out.response};
    s->out.response = BUF_NULL;
    if (propose(s, a->cookie) < 0) {
        jlog_limited(LOG_ERR, "a request was refused: the metadata log takes no more for now");
        if (ctl_refuse(a->api_key, a->api_version, K_REQUEST_TIMED_OUT, "the controller is overloaded", &a->body) == 0)
            send_answer(s, tag, &a->body);
        buf_deinit(&a->body);
        free(a);
        return;
    }
    list_append(&s->answers, &a->node);
    s->answers_count++;
}

static void on_request(Server *s, const FabDelivery *d)
{
    Arena arena = ARENA_NULL;
    KForwardedRequest f;
    if (k_decode(&k_forwarded_request, 0, d->payload, d->frame.size, &arena, &f) < 0) {
        jlog_limited(LOG_ERR, "the broker sent a request that cannot be decoded");
        return;
    }
    const CtlRequest q = {.api_key = f.api_key,
                          .api_version = f.api_version,
                          .rights = f.rights,
                          .sender = f.sender,
                          .call = f.call,
                          .own_host = true,
                          .body = f.body.ptr,
                          .size = (size_t)MAX(f.body.len, 0),
                          .now_ms = clock_mono_ms()};
    ctl_out_clear(&s->out);
    int r = ctl_decide(s->ctl, &q, &s->out);
    if (r == 0)
        answer_later(s, d->frame.tag, &q);
    else
        jlog_limited(LOG_WARNING, "request of api %d v%d not answered: %s", (int)f.api_key, (int)f.api_version, strerror(-r));
    arena_deinit(&arena);
    arm_tick(s);
}

static void on_frame(void *userdata, const FabDelivery *d)
{
    Server *s = userdata;
    if (d->frame.type == FAB_FRAME_REQUEST)
        on_request(s, d);
}

static void on_up(void *userdata, const FabWelcome *welcome)
{
    Server *s = userdata;
    jlog(LOG_INFO, "session %llu with the broker", (unsigned long long)welcome->session_id);
    s->link_generation++;
    send_notice(s);
}

static void on_down(void *userdata, const char *why)
{
    Server *s = userdata;
    jlog(LOG_NOTICE, "the session with the broker ended: %s", why);
    s->link_generation++;
}

static void on_link_refused(void *userdata, int error, const char *why)
{
    (void)userdata;
    jlog_errno(LOG_WARNING, error, "the broker refused the session: %s", why);
}

static void on_completion(void *userdata, const FabCqe *cqe)
{
    (void)userdata, (void)cqe; /* blocks are the link's, answers have no other completion */
}

static const FabLinkOps link_ops = {
    .up = on_up, .down = on_down, .frame = on_frame, .completion = on_completion, .refused = on_link_refused};

/* --- time, siblings, the supervisor --- */

static void on_tick(void *userdata)
{
    Server *s = userdata;
    do {
        ctl_out_clear(&s->out);
        if (ctl_tick(s->ctl, clock_mono_ms(), &s->out) < 0)
            break;
    } while (propose_own(s) == 0 && s->out.n_records > 0);
    arm_tick(s);
}

static void on_sibling_died(void *userdata, CountersRole role, pid_t pid)
{
    Server *s = userdata;
    if (role != ROW_BROKER)
        return;
    ctl_out_clear(&s->out);
    if (ctl_broker_died(s->ctl, s->node_id, &s->out) == 0 && s->out.n_records > 0) {
        jlog(LOG_NOTICE, "broker %d (pid %d) died: fenced", s->node_id, (int)pid);
        (void)propose_own(s); /* refused: its next registration, or its silence, fences it */
    }
    arm_tick(s);
}

static void on_stop(void *userdata)
{
    Server *s = userdata;
    loop_quit(s->loop, 0);
}

static void on_drain(void *userdata, int64_t timeout_ms)
{
    Server *s = userdata;
    (void)timeout_ms;
    (void)child_drained(s->child, true); /* holds no client work */
}

/* The core looks into child_conf(), which is the new one when this returns. */
static int on_reload(void *userdata, const Conf *conf, char *why, size_t why_size)
{
    (void)userdata, (void)conf, (void)why, (void)why_size;
    return 0;
}

static const ChildOps child_ops = {
    .sibling_died = on_sibling_died, .drain = on_drain, .stop = on_stop, .reload = on_reload};

/* --- start --- */

static int open_log(Server *s)
{
    char meta_dir[600], why[256] = "";
    MetaImage *image = NULL;
    const Conf *conf = child_conf(s->child);
    snprintf(meta_dir, sizeof(meta_dir), "%s/meta", conf_get(conf, "leat.data.dir", "."));
    const MetaLogOptions o = {
        .loop = s->loop, .meta_dir = meta_dir, .map_size = META_MAP_SIZE_DEFAULT, .ops = &log_ops, .userdata = s};
    int r = meta_log_open(&o, &s->log, &image, why, sizeof(why));
    if (r < 0)
        child_fail(s->child, r == -EBADMSG || r == -EPROTO ? 65 : 74, "metadata in %s: %s %s", meta_dir, strerror(-r), why);
    uint64_t seed = (uint64_t)clock_wall_ms() ^ (uint64_t)clock_mono_ns() << 20;
    const CtlOptions co = {.conf = conf, .node_id = s->node_id, .seed = seed, .now_ms = clock_mono_ms()};
    s->committed = meta_index(image);
    r = ctl_new(&co, image, &s->ctl);
    if (r < 0)
        return r;
    ctl_out_clear(&s->out);
    r = ctl_bootstrap(s->ctl, conf_get(conf, "leat.cluster.id", ""), clock_wall_ms(), &s->out);
    return r < 0 ? r : propose_own(s);
}

static int open_link(Server *s)
{
    const Conf *conf = child_conf(s->child);
    snprintf(s->socket_path, sizeof(s->socket_path), "%s/client.sock", conf_get(conf, "leat.run.dir", "."));
    const FabClientOptions o = {.socket_path = s->socket_path,
                                .role = FAB_ROLE_CONTROLLER,
                                .client_id = "controller",
                                .build_id = child_build_id(s->child),
                                .timeout_ms = 2000};
    return fab_link_new(s->loop, &o, &link_ops, s, &s->link);
}

int server_new(Loop *loop, int argc, char **argv, Server **ret)
{
    Server *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->loop = loop;
    list_init(&s->answers);
    int r = child_init(argc, argv, ROW_CONTROLLER, loop, &child_ops, s, &s->child);
    if (r == 0) {
        s->node_id = (int32_t)strtol(conf_get(child_conf(s->child), "leat.node.id", "1"), NULL, 10);
        r = loop_add_timer(loop, on_tick, s, &s->tick);
    }
    if (r == 0)
        r = open_log(s);
    if (r == 0)
        r = open_link(s);
    if (r == 0) {
        count(s);
        arm_tick(s);
        r = child_ready(s->child);
    }
    if (r < 0) {
        server_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

Server *server_free(Server *s)
{
    if (!s)
        return NULL;
    s->link = fab_link_free(s->link);
    s->log = meta_log_close(s->log);
    for (List *l; (l = list_pop(&s->answers)) != NULL;) {
        Answer *a = CONTAINER_OF(l, Answer, node);
        buf_deinit(&a->body);
        free(a);
    }
    ctl_out_deinit(&s->out);
    ctl_free(s->ctl);
    loop_timer_free(s->tick);
    child_free(s->child);
    free(s);
    return NULL;
}
