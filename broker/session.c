/*
 * Local sessions: who may open one, and what their descriptors mean. See session.h.
 *
 * Everything in a descriptor's payload belongs to the client and may change while it is read: it is copied first, into the
 * produce stage or a private buffer, and only the copy is looked at.
 */

#include "broker/session.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "broker/agent.h"
#include "broker/apply.h"
#include "broker/daemon.h"
#include "broker/delivery.h"
#include "broker/lease.h"
#include "broker/registration.h"

#define GROUPS_MAX   256
#define SIBLINGS_MAX 8

struct Sessions {
    Broker *broker;
    List all;   /* Session.node */
    List retry; /* Session.retry_node */
    bool wake;  /* what they wait for may have come */
    RightsRules rules;
    ChildSibling siblings[SIBLINGS_MAX];
    size_t siblings_count;
};

/* --- who may open a session --- */

/* Groups of the process itself, which may be more or fewer than its user's. */
static size_t groups_of(const PeerCred *peer, gid_t *ret, size_t max)
{
    char path[64];
    Buf text = BUF_NULL;
    size_t n = 0;
    ret[n++] = peer->gid;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)peer->pid);
    if (fs_read_file(path, 65536, &text) == 0) {
        const char *at = strstr((const char *)text.data, "\nGroups:");
        for (at = at ? at + 8 : ""; n < max;) {
            char *end;
            while (*at == '\t' || *at == ' ')
                at++;
            unsigned long gid = strtoul(at, &end, 10);
            if (end == at)
                break;
            ret[n++] = (gid_t)gid;
            at = end;
        }
    }
    buf_deinit(&text);
    return n;
}

static uint32_t rights_of_peer(const Sessions *s, const PeerCred *peer)
{
    gid_t groups[GROUPS_MAX];
    RightsPeer p = {.uid = peer->uid, .groups = groups, .n_groups = groups_of(peer, groups, GROUPS_MAX)};
    return rights_of_local(&s->rules, &p);
}

static bool is_sibling(const Sessions *s, CountersRole role, pid_t pid)
{
    for (size_t i = 0; i < s->siblings_count; i++) {
        if (s->siblings[i].role == role && s->siblings[i].pid == pid)
            return true;
    }
    return false;
}

/* The announcement may still be under way when the daemon connects. Whoever the supervisor started is its child, and it
 * starts nothing but daemons. */
static bool is_child_of_supervisor(pid_t pid)
{
    char path[64];
    Buf text = BUF_NULL;
    long parent = -1;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    if (fs_read_file(path, 65536, &text) == 0) {
        const char *at = strstr((const char *)text.data, "\nPPid:");
        parent = at ? strtol(at + 6, NULL, 10) : -1;
    }
    buf_deinit(&text);
    return parent > 1 && parent == (long)getppid();
}

static int authorize(void *userdata, const PeerCred *peer, const FabHello *hello, char *why, size_t why_size)
{
    Sessions *s = userdata;
    if (hello->role == FAB_ROLE_CONTROLLER || hello->role == FAB_ROLE_COORDINATOR) {
        CountersRole role = hello->role == FAB_ROLE_CONTROLLER ? ROW_CONTROLLER : ROW_COORDINATOR;
        if (is_sibling(s, role, peer->pid) || (peer->uid == s->rules.daemon_uid && is_child_of_supervisor(peer->pid)))
            return 0;
        snprintf(why, why_size, "process %d is not the one that the supervisor started for this role", (int)peer->pid);
        return -EACCES;
    }
    if (hello->role != FAB_ROLE_CLIENT) {
        snprintf(why, why_size, "unknown role %u", (unsigned)hello->role);
        return -EPROTO;
    }
    if (s->broker->phase >= BROKER_DRAINING) {
        snprintf(why, why_size, "the broker is draining and takes no new sessions");
        return -ESHUTDOWN;
    }
    if (rights_of_peer(s, peer) == 0) {
        snprintf(why, why_size, "user %u may not use this broker; add it to group leat-clients", (unsigned)peer->uid);
        return -EACCES;
    }
    return 0;
}

/* --- life --- */

static void opened(void *userdata, FabSession *fab)
{
    Sessions *all = userdata;
    Broker *b = all->broker;
    const PeerCred *peer = fab_session_peer(fab);
    FabRole role = fab_session_role(fab);
    Session *s = calloc(1, sizeof(*s));
    if (!s) {
        fab_session_close(fab, "out of memory");
        return;
    }
    s->broker = b;
    s->fab = fab;
    s->who = (Principal){.rights = role == FAB_ROLE_CLIENT ? rights_of_peer(all, peer) : RIGHT_ALL_CLIENT | RIGHT_INTERNAL,
                         .uid = peer->uid,
                         .session_id = fab_session_id(fab),
                         .local = true,
                         .client_host = "/local"};
    List *lists[] = {&s->requests, &s->produces, &s->node, &s->ready_node, &s->subscriptions, &s->ready, &s->retry_node, &s->leases};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        list_init(lists[i]);
    list_append(&all->all, &s->node);
    fab_session_set_userdata(fab, s);
    if (role == FAB_ROLE_CONTROLLER) {
        daemon_opened(b->controller, fab);
        registration_controller_up(b->registration);
    } else if (role == FAB_ROLE_COORDINATOR) {
        daemon_opened(b->coordinator, fab);
        apply_greet_coordinator(b);
        agent_coordinator_up(b->agent);
    }
}

static void closed(void *userdata, FabSession *fab, const char *why)
{
    Sessions *all = userdata;
    Broker *b = all->broker;
    Session *s = fab_session_userdata(fab);
    FabRole role = fab_session_role(fab);
    if (!s)
        return;
    jlog(LOG_DEBUG, "session %llu closed: %s", (unsigned long long)s->who.session_id, why);
    while (!list_is_empty(&s->requests))
        request_orphan(CONTAINER_OF(s->requests.next, Request, source_node));
    for (List *l; (l = list_pop(&s->produces)) != NULL;)
        CONTAINER_OF(l, Produce, owner_node)->done = NULL;
    delivery_session_closed(s);
    lease_session_closed(s);
    for (uint32_t i = 0; i < s->handles_count; i++)
        topic_unref(s->handles[i].topic);
    free(s->handles);
    list_remove(&s->retry_node);
    list_remove(&s->node);
    if (role == FAB_ROLE_CONTROLLER) {
        daemon_closed(b->controller, fab);
        registration_controller_down(b->registration);
    } else if (role == FAB_ROLE_COORDINATOR) {
        daemon_closed(b->coordinator, fab);
    } else {
        agent_session_closed(b->agent, s->who.session_id);
    }
    fab_session_set_userdata(fab, NULL);
    free(s);
}

/* --- requests --- */

static void request_ended(Request *r)
{
    Session *s = r->source_data;
    assert(s->requests_count > 0);
    s->requests_count--;
    sessions_wake(s->broker->sessions);
}

static void reply(Request *r, const ReplyPiece *pieces, size_t n)
{
    Session *s = r->source_data;
    FabFrame frame = {.type = FAB_FRAME_RESPONSE, .tag = r->tag};
    request_ended(r);
    if (n == 1 && pieces[0].data) {
        frame.size = (uint32_t)pieces[0].size;
        (void)fab_session_send(s->fab, &frame, pieces[0].data); /* failing closes the session */
        return;
    }
    Buf flat = BUF_NULL;
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        size_t got = pieces[i].size;
        ok = ok && buf_reserve(&flat, pieces[i].size) == 0;
        if (ok && pieces[i].data)
            memcpy(flat.data + flat.size, pieces[i].data, pieces[i].size);
        else if (ok)
            ok = fs_pread_all(pieces[i].fd, flat.data + flat.size, pieces[i].size, pieces[i].position, &got) == 0;
        ok = ok && got == pieces[i].size;
        if (ok)
            flat.size += pieces[i].size;
        if (!pieces[i].data)
            close(pieces[i].fd);
    }
    frame.size = ok ? (uint32_t)flat.size : 0;
    frame.kafka_error = ok ? K_NONE : K_KAFKA_STORAGE_ERROR;
    (void)fab_session_send(s->fab, &frame, flat.data);
    buf_deinit(&flat);
}

static void abandon(Request *r, const char *why)
{
    Session *s = r->source_data;
    FabFrame frame = {.type = FAB_FRAME_RESPONSE, .tag = r->tag, .kafka_error = K_UNSUPPORTED_VERSION};
    jlog(LOG_DEBUG, "session %llu: request refused: %s", (unsigned long long)s->who.session_id, why);
    request_ended(r);
    (void)fab_session_send(s->fab, &frame, NULL);
}

static void silent(Request *r)
{
    Session *s = r->source_data;
    FabFrame frame = {.type = FAB_FRAME_RESPONSE, .tag = r->tag};
    request_ended(r);
    (void)fab_session_send(s->fab, &frame, NULL);
}

static const RequestSource request_source = {.reply = reply, .abandon = abandon, .silent = silent};

static void done(Session *s, const FabSqe *sqe, KafkaError error, int64_t value, int32_t partitions)
{
    fab_session_complete(s->fab, &(FabCqe){.user_data = sqe->user_data,
                                           .kind = FAB_CQE_DONE,
                                           .kafka_error = error,
                                           .base_offset = value,
                                           .partitions = partitions});
}

static int retry(Session *s)
{
    Sessions *all = s->broker->sessions;
    if (list_is_empty(&s->retry_node))
        list_append(&all->retry, &s->retry_node);
    return FAB_RETRY;
}

static int copy_payload(const FabSqe *sqe, const void *payload, Buf *ret)
{
    return buf_append(ret, payload, sqe->len);
}

static int on_request(Session *s, const FabSqe *sqe, const void *payload)
{
    if (s->requests_count >= SESSION_REQUESTS_MAX)
        return retry(s);
    Buf frame = BUF_NULL;
    if (copy_payload(sqe, payload, &frame) < 0)
        return retry(s);
    Request *r = request_new(s->broker, &frame, &s->who);
    if (!r)
        return -EBADMSG;
    r->source = &request_source;
    r->source_data = s;
    r->tag = sqe->user_data;
    list_append(&s->requests, &r->source_node);
    s->requests_count++;
    request_start(r);
    return 0;
}

/* --- produce --- */

static void consumed(Session *s, const FabSqe *sqe)
{
    fab_session_complete(s->fab, &(FabCqe){.user_data = sqe->user_data, .kind = FAB_CQE_CONSUMED});
}

static void acked(Session *s, uint64_t user_data, const Produce *item, KafkaError error)
{
    FabCqe cqe = {.user_data = user_data, .kind = FAB_CQE_ACKED, .kafka_error = error, .base_offset = -1, .log_append_ms = -1};
    if (item && error == K_NONE) {
        cqe.base_offset = item->base_offset;
        cqe.log_append_ms = item->log_append_ms;
        cqe.flags = item->duplicate ? FAB_CQE_DUPLICATE : 0;
        cqe.log_start = item->partition ? plog_start(item->partition->log) : 0;
        cqe.leader_epoch = item->partition ? (uint32_t)item->partition->replica.leader_epoch : 0;
    }
    fab_session_complete(s->fab, &cqe);
}

static void on_produced(Produce *item)
{
    if (item->acks != 0) /* a refusal of acks=0 is never told */
        acked(item->owner, item->tag, item, item->error);
}

static SessionTopic *topic_of_handle(Session *s, uint32_t handle)
{
    return handle < s->handles_count ? &s->handles[handle] : NULL;
}

static KafkaError may_produce(const SessionTopic *t, const FabSqe *sqe)
{
    if (!t || t->topic->deleted)
        return K_UNKNOWN_TOPIC_OR_PARTITION;
    if (!t->may_write)
        return t->topic->internal ? K_INVALID_TOPIC_EXCEPTION : K_TOPIC_AUTHORIZATION_FAILED;
    return sqe->len > (uint32_t)t->topic->rules.max_message_bytes ? K_MESSAGE_TOO_LARGE : K_NONE;
}

static int on_produce(Session *s, const FabSqe *sqe, const void *payload)
{
    Broker *b = s->broker;
    SessionTopic *t = topic_of_handle(s, sqe->handle);
    KafkaError e = may_produce(t, sqe);
    if (e != K_NONE) {
        consumed(s, sqe);
        if (sqe->acks != 0)
            acked(s, sqe->user_data, NULL, e);
        return 0;
    }
    Produce *item = produce_begin(b, partition_of(t->topic, sqe->partition), sqe->len, NULL);
    if (!item)
        return retry(s);
    if (sqe->len > 0)
        memcpy(item->batch, payload, sqe->len); /* copy first, then look */
    consumed(s, sqe);
    counter_add(b->row, COUNTER_BYTES_IN_SHM, sqe->len);
    item->acks = sqe->acks;
    item->privileged = (s->who.rights & RIGHT_INTERNAL) != 0;
    item->owner = s;
    item->tag = sqe->user_data;
    item->done = on_produced;
    if (sqe->timeout_ms > 0)
        item->deadline_ns = broker_now_ns(b) + (int64_t)sqe->timeout_ms * NS_PER_MS;
    list_append(&s->produces, &item->owner_node);
    produce_submit(item);
    return 0;
}

/* --- topics --- */

static int handle_for(Session *s, Topic *topic, uint32_t *ret)
{
    for (uint32_t i = 0; i < s->handles_count; i++) {
        if (s->handles[i].topic == topic) {
            *ret = i;
            return 0;
        }
    }
    if (s->handles_count == s->handles_capacity) {
        uint32_t capacity = s->handles_capacity ? 2 * s->handles_capacity : 8;
        if (capacity > SESSION_HANDLES_MAX)
            return -ENOBUFS;
        SessionTopic *handles = realloc(s->handles, capacity * sizeof(*handles));
        if (!handles)
            return -ENOMEM;
        s->handles = handles;
        s->handles_capacity = capacity;
    }
    bool ours = (s->who.rights & RIGHT_INTERNAL) != 0;
    s->handles[s->handles_count] =
        (SessionTopic){.topic = topic_ref(topic),
                       .may_write = (s->who.rights & RIGHT_USE) && (!topic->internal || ours),
                       .may_read = (s->who.rights & RIGHT_USE) && (!topic->internal || ours || (s->who.rights & RIGHT_ADMIN))};
    *ret = s->handles_count++;
    return 0;
}

static int on_open(Session *s, const FabSqe *sqe, const void *payload)
{
    char name[250];
    uint32_t handle;
    Topic *topic = NULL;
    if (sqe->len > 0 && sqe->len < sizeof(name)) {
        memcpy(name, payload, sqe->len);
        topic = topic_find(&s->broker->partitions, name, sqe->len);
    }
    if (!topic)
        done(s, sqe, K_UNKNOWN_TOPIC_OR_PARTITION, -1, 0);
    else if (handle_for(s, topic, &handle) < 0)
        done(s, sqe, K_POLICY_VIOLATION, -1, 0);
    else
        done(s, sqe, K_NONE, handle, topic->partitions_count);
    return 0;
}

static int on_subscribe(Session *s, const FabSqe *sqe, const void *payload)
{
    FabSubscribe sub;
    if (sqe->len < sizeof(sub))
        return -EBADMSG;
    memcpy(&sub, payload, sizeof(sub));
    const SessionTopic *t = topic_of_handle(s, sqe->handle);
    KafkaError e = !t || t->topic->deleted ? K_UNKNOWN_TOPIC_OR_PARTITION
                   : t->may_read           ? delivery_subscribe(s, sqe->handle, sqe->partition, &sub)
                                           : K_TOPIC_AUTHORIZATION_FAILED;
    done(s, sqe, e, -1, 0);
    return 0;
}

/* --- our own daemons --- */

static int on_response(Session *s, const FabSqe *sqe, const void *payload)
{
    FabRole role = fab_session_role(s->fab);
    Buf body = BUF_NULL;
    if (role == FAB_ROLE_CLIENT)
        return -EPERM;
    if (copy_payload(sqe, payload, &body) < 0)
        return retry(s);
    Daemon *d = role == FAB_ROLE_CONTROLLER ? s->broker->controller : s->broker->coordinator;
    daemon_answered(d, sqe->user_data, body.data ? body.data : (const uint8_t *)"", body.size);
    buf_deinit(&body);
    return 0;
}

static int on_notify(Session *s, const FabSqe *sqe, const void *payload)
{
    FabRole role = fab_session_role(s->fab);
    Buf body = BUF_NULL;
    if (role == FAB_ROLE_CLIENT)
        return -EPERM;
    if (copy_payload(sqe, payload, &body) < 0)
        return retry(s);
    if (role == FAB_ROLE_CONTROLLER)
        apply_changed(s->broker->apply); /* MetadataChanged is all that the controller says unasked */
    else
        agent_notified(s->broker->agent, body.data, body.size);
    buf_deinit(&body);
    return 0;
}

static int on_sqe(void *userdata, FabSession *fab, const FabSqe *sqe, const void *payload)
{
    (void)userdata;
    Session *s = fab_session_userdata(fab);
    if (!s)
        return -ENOMEM;
    if (s->broker->phase == BROKER_STARTING && fab_session_role(fab) == FAB_ROLE_CLIENT)
        return retry(s); /* "no such topic" would be a lie before the image is here */
    switch (sqe->op) {
    case FAB_OP_NOP:
        return 0;
    case FAB_OP_PRODUCE:
        return on_produce(s, sqe, payload);
    case FAB_OP_REQUEST:
        return on_request(s, sqe, payload);
    case FAB_OP_RESPONSE:
        return on_response(s, sqe, payload);
    case FAB_OP_NOTIFY:
        return on_notify(s, sqe, payload);
    case FAB_OP_OPEN:
        return on_open(s, sqe, payload);
    case FAB_OP_SUBSCRIBE:
        return on_subscribe(s, sqe, payload);
    case FAB_OP_UNSUBSCRIBE:
        done(s, sqe, delivery_unsubscribe(s, sqe->handle, sqe->partition), -1, 0);
        return 0;
    case FAB_OP_LEASE:
        return lease_grant(s, sqe, payload);
    case FAB_OP_LEASE_RELEASE:
        done(s, sqe, lease_release(s, sqe->user_data), -1, 0);
        return 0;
    default:
        return -EPROTO;
    }
}

static void on_space(void *userdata, FabSession *fab)
{
    (void)userdata;
    Session *s = fab_session_userdata(fab);
    if (s)
        delivery_space(s);
}

/* --- the table --- */

static gid_t gid_of(const char *group)
{
    struct group entry, *found = NULL;
    char text[4096];
    return getgrnam_r(group, &entry, text, sizeof(text), &found) == 0 && found ? entry.gr_gid : (gid_t)-1;
}

int sessions_new(Broker *b, Sessions **ret)
{
    Sessions *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->broker = b;
    list_init(&s->all);
    list_init(&s->retry);
    s->rules = (RightsRules){.daemon_uid = geteuid(), .admin_gid = gid_of("leat-admin"), .clients_gid = gid_of("leat-clients")};
    *ret = s;
    return 0;
}

Sessions *sessions_free(Sessions *s)
{
    if (!s)
        return NULL;
    assert(list_is_empty(&s->all)); /* the fabric closed them */
    free(s);
    return NULL;
}

int sessions_listen(Sessions *s, int listen_fd)
{
    static const FabServerOps ops = {
        .authorize = authorize, .opened = opened, .closed = closed, .on_sqe = on_sqe, .on_space = on_space};
    Broker *b = s->broker;
    FabServerOptions o = {.listen_fd = listen_fd,
                          .broker_epoch = b->session_epoch,
                          .node_id = b->node_id,
                          .memory_max = b->settings.session_memory_max,
                          .sessions_max = b->settings.sessions_max,
                          .message_max_bytes = FAB_BATCH_MAX, /* each topic has a bound of its own */
                          .hello_timeout_ms = 5000};
    memcpy(o.cluster_id, b->cluster_id, sizeof(o.cluster_id));
    snprintf(o.build_id, sizeof(o.build_id), "%s", child_build_id(b->child));
    return fab_server_new(b->loop, &o, &ops, s, &b->fabric);
}

Session *session_by_id(const Broker *b, uint64_t session_id)
{
    list_for_each(l, &b->sessions->all) {
        Session *s = CONTAINER_OF(l, Session, node);
        if (s->who.session_id == session_id)
            return s;
    }
    return NULL;
}

void sessions_set_siblings(Sessions *s, const ChildSibling *children, size_t n)
{
    s->siblings_count = MIN(n, (size_t)SIBLINGS_MAX);
    memcpy(s->siblings, children, s->siblings_count * sizeof(*children));
}

void session_notify(Session *s, int16_t type, const void *message, size_t size)
{
    FabFrame frame = {.type = FAB_FRAME_NOTIFY, .inner_type = (uint16_t)type, .size = (uint32_t)size};
    (void)fab_session_send(s->fab, &frame, message);
}

void sessions_wake(Sessions *s)
{
    s->wake = true;
}

void sessions_run(Sessions *s)
{
    List now;
    if (!s->wake)
        return;
    s->wake = false;
    list_init(&now);
    for (List *l; (l = list_pop(&s->retry)) != NULL;)
        list_append(&now, l);
    for (List *l; (l = list_pop(&now)) != NULL;)
        fab_session_resume(CONTAINER_OF(l, Session, retry_node)->fab);
}
