/* See rig.h. The stand-in runs on a loop of its own thread; the test thread talks to it through loop_post() and a flag. */

#include "tests/broker/rig.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/loop.h"
#include "meta/child.h"
#include "meta/store.h"
#include "shm/fab_link.h"
#include "wire/batch.h"
#include "wire/error.h"
#include "wire/messages.h"

#define WAIT_MS 10000

struct Rig {
    char dir[64], socket[96];
    RigOptions o;
    int client_fd, kafka_fd;
    uint16_t port;
    Counters *counters;
    pid_t pid;
    int super_fd;
    /* the stand-in's thread */
    pthread_t thread;
    Loop *loop;
    LoopFd *super_source;
    FabLink *link;
    MetaStore *store;
    MetaImage *image;
    uint64_t next_uuid;
    int64_t next_producer;
    atomic_bool ready, jobs_done;
};

/* check is not for two threads: the stand-in's own failures end the test at once */
#define SURE(x)                                                                                    \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "stand-in, line %d: %s\n", __LINE__, #x);                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
#define MUST(x) ck_assert_msg((x) >= 0, "%s: %s", #x, strerror(errno))

/* --- metadata --- */

static void commit(Rig *r, const KMessage *m, const void *message)
{
    Buf b = BUF_NULL;
    uint64_t index = meta_index(r->image) + 1;
    SURE((k_pack(m, 0, message, &b)) == 0);
    SURE((meta_apply(r->image, index, b.data, b.size)) == 0);
    MetaEntry e = {.index = index, .term = 1, .record = b.data, .size = b.size};
    MetaHardState hard = {.term = 1, .vote = 1, .commit = index};
    SURE((meta_store_append(r->store, &hard, &e, 1, r->image)) == 0);
    buf_deinit(&b);
}

static void notify(Rig *r)
{
    KMetadataChanged m = {.index = (int64_t)meta_index(r->image)};
    Buf b = BUF_NULL;
    SURE((k_encode(&k_metadata_changed, 0, &m, &b)) == 0);
    if (fab_link_is_up(r->link))
        fab_link_send(r->link, &(FabSqe){.op = FAB_OP_NOTIFY}, b.data, b.size);
    buf_deinit(&b);
}

static Uuid new_uuid(Rig *r)
{
    Uuid u = {{0xbb}};
    r->next_uuid++;
    memcpy(u.b + 8, &r->next_uuid, 8);
    return u;
}

static void create_topic(Rig *r, KStr name, int32_t partitions, const char *config, Uuid *ret_id)
{
    KMetaTopicRecord t = {.name = name, .topic_id = new_uuid(r)};
    int32_t me[] = {1};
    commit(r, &k_meta_topic_record, &t);
    for (int32_t i = 0; i < partitions; i++) {
        KMetaPartitionRecord p = {.topic_id = t.topic_id, .partition = i, .replicas = {me, 1}, .isr = {me, 1}, .leader = 1};
        commit(r, &k_meta_partition_record, &p);
    }
    const char *equals = config ? strchr(config, '=') : NULL;
    if (equals) {
        KMetaConfigRecord c = {.resource_type = 2,
                               .resource_name = name,
                               .name = {config, (int32_t)(equals - config)},
                               .value = k_str(equals + 1)};
        commit(r, &k_meta_config_record, &c);
    }
    *ret_id = t.topic_id;
}

/* --- answers --- */

static void reply(Rig *r, uint64_t tag, const KMessage *m, int16_t version, const void *message)
{
    Buf b = BUF_NULL;
    SURE((k_encode(m, version, message, &b)) == 0);
    SURE((fab_link_send(r->link, &(FabSqe){.op = FAB_OP_RESPONSE, .user_data = tag}, b.data, b.size)) == 0);
    buf_deinit(&b);
}

static void on_register(Rig *r, uint64_t tag, const KRegisterBrokerRequest *q)
{
    KMetaRegisterBrokerRecordLogDirs dir = {.id = q->log_dirs.items[0].id, .state = q->log_dirs.items[0].state};
    KMetaRegisterBrokerRecordEndpoints end = {
        .name = q->listeners.items[0].name, .host = q->listeners.items[0].host, .port = q->listeners.items[0].port};
    KMetaRegisterBrokerRecord m = {.broker_id = q->broker_id, .incarnation_id = q->incarnation_id, .rack = K_STR_NULL};
    m.log_dirs.items = &dir;
    m.log_dirs.n = 1;
    m.endpoints.items = &end;
    m.endpoints.n = 1;
    commit(r, &k_meta_register_broker_record, &m);
    KRegisterBrokerResponse a = {.broker_epoch = (int64_t)meta_index(r->image),
                                 .metadata_index = (int64_t)meta_index(r->image),
                                 .error_message = K_STR_NULL};
    notify(r);
    reply(r, tag, &k_register_broker_response, 0, &a);
}

static void on_create(Rig *r, uint64_t tag, int16_t version, const KCreateTopicsRequest *q)
{
    if (q->topics.n == 1 && k_str_equal(q->topics.items[0].name, RIG_UNANSWERED))
        return;
    KCreateTopicsResponseTopics topics[16] = {0};
    KCreateTopicsResponse a = {.topics = {topics, MIN(q->topics.n, 16)}};
    for (int32_t i = 0; i < a.topics.n; i++) {
        bool exists = meta_topic(r->image, q->topics.items[i].name.ptr, (size_t)q->topics.items[i].name.len);
        topics[i].name = q->topics.items[i].name;
        topics[i].error_code = exists ? 36 : 0;
        topics[i].error_message = K_STR_NULL;
        int32_t n = q->topics.items[i].num_partitions;
        if (!exists)
            create_topic(r, topics[i].name, n > 0 ? n : 1, NULL, &topics[i].topic_id);
    }
    notify(r);
    reply(r, tag, &k_create_topics_response, version, &a);
}

static void on_request(Rig *r, uint64_t tag, const KForwardedRequest *f)
{
    const KApi *api = k_api_find(f->api_key);
    Arena arena = ARENA_NULL;
    void *body = arena_alloc(&arena, k_message_struct_size(api->request));
    SURE((k_decode(api->request, f->api_version, f->body.ptr, (size_t)f->body.len, &arena, body)) == 0);
    if (f->api_key == 1001) {
        on_register(r, tag, body);
    } else if (f->api_key == 1002) {
        KBrokerHeartbeatResponse a = {.is_caught_up = true, .should_shutdown = ((KBrokerHeartbeatRequest *)body)->want_shutdown};
        reply(r, tag, &k_broker_heartbeat_response, 0, &a);
    } else if (f->api_key == 1003) {
        KAllocateProducerIdsResponse a = {.first_id = r->next_producer, .count = 2};
        r->next_producer += 2;
        reply(r, tag, &k_allocate_producer_ids_response, 0, &a);
    } else if (f->api_key == 19) {
        on_create(r, tag, f->api_version, body);
    }
    arena_deinit(&arena);
}

static void link_up(void *userdata, const FabWelcome *welcome)
{
    (void)userdata;
    (void)welcome;
}

static void link_down(void *userdata, const char *why)
{
    (void)userdata;
    (void)why;
}

static void link_frame(void *userdata, const FabDelivery *d)
{
    Arena arena = ARENA_NULL;
    KForwardedRequest f;
    if (d->frame.type != FAB_FRAME_REQUEST)
        return;
    SURE((k_decode(&k_forwarded_request, 0, d->payload, d->frame.size, &arena, &f)) == 0);
    on_request(userdata, d->frame.tag, &f);
    arena_deinit(&arena);
}

static void link_completion(void *userdata, const FabCqe *cqe)
{
    (void)userdata;
    (void)cqe;
}

static void on_super(void *userdata, uint32_t events)
{
    Rig *r = userdata;
    uint8_t data[8192];
    int16_t type, version;
    (void)events;
    ssize_t n = recv(r->super_fd, data, sizeof(data), MSG_DONTWAIT);
    if (n > 0 && k_unpack_type(data, (size_t)n, &type, &version) == 0 && type == 120)
        atomic_store(&r->ready, true);
    if (n == 0) {
        r->super_source = loop_fd_free(r->super_source);
        close(r->super_fd);
        r->super_fd = -1;
    }
}

/* --- the thread --- */

static void *run(void *userdata)
{
    loop_run(((Rig *)userdata)->loop);
    return NULL;
}

typedef struct Job {
    Rig *rig;
    void (*fn)(struct Job *job);
    const char *name, *config;
    int32_t n;
} Job;

static void run_job(void *userdata)
{
    Job *job = userdata;
    job->fn(job);
    atomic_store(&job->rig->jobs_done, true);
}

static void wait_for(atomic_bool *flag, const char *what)
{
    int64_t until = clock_mono_ms() + WAIT_MS;
    while (!atomic_load(flag)) {
        ck_assert_msg(clock_mono_ms() < until, "timed out: %s", what);
        poll(NULL, 0, 1);
    }
}

static void on_thread(Job *job)
{
    atomic_store(&job->rig->jobs_done, false);
    ck_assert_int_eq(loop_post(job->rig->loop, run_job, job), 0);
    wait_for(&job->rig->jobs_done, "the stand-in");
}

/* --- the process --- */

static int config_memfd(const Rig *r)
{
    Buf b = BUF_NULL;
    buf_printf(&b, "leat.instance = test\nleat.data.dir = %s\nleat.run.dir = %s\nleat.node.id = 1\nnode.id = 1\n", r->dir, r->dir);
    buf_printf(&b, "leat.cluster.id = dGVzdC1jbHVzdGVyLTEyMw\nleat.build.id = %s\nleat.log.file = %s/broker.log\n", build_id(), r->dir);
    buf_printf(&b, "listeners = PLAINTEXT://127.0.0.1:%u\nbroker.heartbeat.interval.ms = 50\n%s", r->port,
               r->o.conf ? r->o.conf : "");
    int fd = memfd_create("conf", MFD_ALLOW_SEALING);
    MUST(fd);
    ck_assert_int_eq(fs_pwrite_all(fd, b.data, b.size, 0), 0);
    MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
    buf_deinit(&b);
    return fd;
}

static void exec_broker(Rig *r, int super_fd, int config_fd)
{
    char s[12], c[12], n[12], l[12], k[32];
    int counters_fd_ = fcntl(counters_fd(r->counters), F_DUPFD, 3);
    int keep[] = {super_fd, config_fd, counters_fd_, r->client_fd, r->kafka_fd};
    for (size_t i = 0; i < ARRAY_SIZE(keep); i++)
        fs_set_cloexec(keep[i], false);
    snprintf(s, sizeof(s), "%d", super_fd);
    snprintf(c, sizeof(c), "%d", config_fd);
    snprintf(n, sizeof(n), "%d", counters_fd_);
    snprintf(l, sizeof(l), "%d", r->client_fd);
    snprintf(k, sizeof(k), "PLAINTEXT=%d", r->kafka_fd);
    execl(r->o.exe, "leat-broker", "--super-fd", s, "--config-fd", c, "--counters-fd", n, "--client-fd", l, "--kafka-fd", k, NULL);
    _exit(127);
}

static void attach(Job *job)
{
    Rig *r = job->rig;
    r->super_fd = job->n;
    SURE(loop_add_fd(r->loop, r->super_fd, EPOLLIN, on_super, r, &r->super_source) == 0);
}

void rig_respawn(Rig *r)
{
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    int config_fd = config_memfd(r);
    atomic_store(&r->ready, false);
    r->pid = fork();
    MUST(r->pid);
    if (r->pid == 0)
        exec_broker(r, pair[1], config_fd);
    close(pair[1]);
    close(config_fd);
    KSiblingsChildren me = {.role = ROW_CONTROLLER, .pid = getpid(), .ready = true};
    KSiblings siblings = {.children = {&me, 1}};
    Buf b = BUF_NULL;
    ck_assert_int_eq(k_pack(&k_siblings, 0, &siblings, &b), 0);
    MUST(send(pair[0], b.data, b.size, 0));
    buf_deinit(&b);
    Job job = {.rig = r, .fn = attach, .n = pair[0]};
    on_thread(&job);
    wait_for(&r->ready, "broker ready");
}

static void reap(Rig *r, int *ret_status)
{
    int64_t until = clock_mono_ms() + WAIT_MS;
    while (waitpid(r->pid, ret_status, WNOHANG) == 0) {
        ck_assert_msg(clock_mono_ms() < until, "the broker does not end");
        poll(NULL, 0, 2);
    }
}

void rig_kill(Rig *r)
{
    int status;
    kill(r->pid, SIGKILL);
    reap(r, &status);
}

Rig *rig_start(const RigOptions *o)
{
    Rig *r = calloc(1, sizeof(*r));
    char why[256], path[128];
    r->o = *o;
    r->super_fd = -1;
    r->next_producer = 1000;
    snprintf(r->dir, sizeof(r->dir), "/tmp/leat-broker-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(r->dir));
    snprintf(r->socket, sizeof(r->socket), "%s/client.sock", r->dir);
    r->client_fd = sock_listen_unix(r->socket, SOCK_SEQPACKET, 0660, 64);
    MUST(r->client_fd);
    r->kafka_fd = sock_listen_tcp("127.0.0.1", 0, 256, &r->port);
    MUST(r->kafka_fd);
    snprintf(path, sizeof(path), "%s/counters", r->dir);
    ck_assert_int_eq(counters_create(path, build_id(), &r->counters), 0);
    snprintf(path, sizeof(path), "%s/meta", r->dir);
    ck_assert_int_eq(fs_mkdir_p(path, 0700), 0);
    ck_assert_msg(meta_store_open(path, 16 << 20, &r->store, why, sizeof(why)) == 0, "%s", why);
    ck_assert_int_eq(meta_image_new(&r->image), 0);
    KMetaClusterRecord cluster = {.cluster_id = k_str("dGVzdC1jbHVzdGVyLTEyMw"), .created_ms = 1};
    commit(r, &k_meta_cluster_record, &cluster);

    static const FabLinkOps ops = {.up = link_up, .down = link_down, .frame = link_frame, .completion = link_completion};
    FabClientOptions client = {
        .socket_path = r->socket, .role = FAB_ROLE_CONTROLLER, .client_id = "stand-in", .build_id = build_id(), .timeout_ms = 1000};
    ck_assert_int_eq(loop_new(&r->loop), 0);
    ck_assert_int_eq(fab_link_new(r->loop, &client, &ops, r, &r->link), 0);
    ck_assert_int_eq(pthread_create(&r->thread, NULL, run, r), 0);
    rig_respawn(r);
    return r;
}

static void quit(Job *job)
{
    loop_quit(job->rig->loop, 0);
}

void rig_stop(Rig *r)
{
    KStop stop = {0};
    Buf b = BUF_NULL;
    int status;
    ck_assert_int_eq(k_pack(&k_stop, 0, &stop, &b), 0);
    MUST(send(r->super_fd, b.data, b.size, 0));
    buf_deinit(&b);
    reap(r, &status);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    Job job = {.rig = r, .fn = quit};
    on_thread(&job);
    pthread_join(r->thread, NULL);
    fab_link_free(r->link);
    loop_free(r->loop);
    meta_store_close(r->store);
    meta_image_free(r->image);
    counters_close(r->counters);
    close(r->client_fd);
    close(r->kafka_fd);
    base_closep(&r->super_fd);
    fs_remove_tree(r->dir);
    free(r);
}

pid_t rig_pid(const Rig *r)
{
    return r->pid;
}

const char *rig_dir(const Rig *r)
{
    return r->dir;
}

const char *rig_socket(const Rig *r)
{
    return r->socket;
}

uint64_t rig_counter(const Rig *r, int counter_id)
{
    return counter_get(counters_row(r->counters, ROW_BROKER), (CounterId)counter_id);
}

static void do_create(Job *job)
{
    Uuid id;
    create_topic(job->rig, k_str(job->name), job->n, job->config, &id);
    notify(job->rig);
}

static void do_delete(Job *job)
{
    KMetaRemoveTopicRecord m = {.topic_id = meta_topic(job->rig->image, job->name, strlen(job->name))->id};
    commit(job->rig, &k_meta_remove_topic_record, &m);
    notify(job->rig);
}

static void do_replace(Job *job)
{
    do_delete(job);
    do_create(job);
}

void rig_replace_topic(Rig *r, const char *name)
{
    Job job = {.rig = r, .fn = do_replace, .name = name, .n = 1};
    on_thread(&job);
}

/* Until the broker's own answers show it. */
static void wait_shown(Rig *r, const char *name, bool there)
{
    int64_t until = clock_mono_ms() + WAIT_MS;
    int fd = rig_connect(r);
    for (bool shown = !there; shown != there;) {
        Arena arena = ARENA_NULL;
        KMetadataRequestTopics t = {.name = k_str(name)};
        KMetadataRequest q = {.topics = {&t, 1}};
        KMetadataResponse a;
        rig_ask(fd, 3, 9, &q, &arena, &a);
        shown = a.topics.items[0].error_code == 0;
        arena_deinit(&arena);
        ck_assert_msg(clock_mono_ms() < until, "%s does not %s", name, there ? "appear" : "go");
        poll(NULL, 0, 1);
    }
    close(fd);
}

/* Until its log is open, which a worker makes after Metadata shows the topic. */
static void wait_open(Rig *r, const char *name, int32_t partition)
{
    int64_t until = clock_mono_ms() + WAIT_MS;
    int fd = rig_connect(r);
    KafkaError error;
    do {
        Arena arena = ARENA_NULL;
        KListOffsetsRequestTopicsPartitions p = {.partition_index = partition, .current_leader_epoch = -1, .timestamp = -1};
        KListOffsetsRequestTopics t = {.name = k_str(name), .partitions = {.items = &p, .n = 1}};
        KListOffsetsRequest q = {.replica_id = -1, .topics = {.items = &t, .n = 1}};
        KListOffsetsResponse a;
        rig_ask(fd, 2, 5, &q, &arena, &a);
        error = a.topics.items[0].partitions.items[0].error_code;
        arena_deinit(&arena);
        ck_assert_msg(clock_mono_ms() < until, "%s-%d does not open: %s", name, partition, k_error_name(error));
        poll(NULL, 0, error != K_NONE);
    } while (error != K_NONE);
    close(fd);
}

void rig_create_topic(Rig *r, const char *name, int32_t partitions, const char *config)
{
    Job job = {.rig = r, .fn = do_create, .name = name, .n = partitions, .config = config};
    on_thread(&job);
    wait_shown(r, name, true);
    for (int32_t p = 0; p < partitions; p++)
        wait_open(r, name, p);
}

void rig_delete_topic(Rig *r, const char *name)
{
    Job job = {.rig = r, .fn = do_delete, .name = name};
    on_thread(&job);
    wait_shown(r, name, false);
}

/* --- clients --- */

int rig_connect(const Rig *r)
{
    struct timeval limit = {.tv_sec = 5};
    int fd = sock_connect_tcp("127.0.0.1", r->port, 5000);
    MUST(fd);
    int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    return fd;
}

void rig_send(int fd, int16_t api_key, int16_t version, const void *request)
{
    KRequestHeader h = {.api_key = api_key, .api_version = version, .correlation_id = 7, .client_id = k_str("test")};
    Buf b = BUF_NULL;
    uint32_t size = 0;
    buf_append(&b, &size, 4);
    ck_assert_int_eq(k_request_header_encode(&h, &b), 0);
    ck_assert_int_eq(k_encode(k_api_find(api_key)->request, version, request, &b), 0);
    size = htonl((uint32_t)b.size - 4);
    memcpy(b.data, &size, 4);
    ck_assert_int_eq(send(fd, b.data, b.size, MSG_NOSIGNAL), (ssize_t)b.size);
    buf_deinit(&b);
}

static void receive(int fd, void *data, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t n = recv(fd, (char *)data + got, size - got, 0);
        ck_assert_msg(n > 0, "no answer: %s", n < 0 ? strerror(errno) : "closed");
        got += (size_t)n;
    }
}

void rig_ask(int fd, int16_t api_key, int16_t version, const void *request, Arena *arena, void *ret_response)
{
    uint32_t size;
    int32_t correlation_id;
    size_t header;
    rig_send(fd, api_key, version, request);
    receive(fd, &size, 4);
    size = ntohl(size);
    uint8_t *answer = arena_alloc(arena, size);
    receive(fd, answer, size);
    ck_assert_int_eq(k_response_header_decode(api_key, version, answer, size, &correlation_id, &header), 0);
    ck_assert_int_eq(correlation_id, 7);
    ck_assert_int_eq(k_decode(k_api_find(api_key)->response, version, answer + header, size - header, arena, ret_response), 0);
}

bool rig_is_closed(int fd, int64_t timeout_ms)
{
    char byte;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, (int)timeout_ms) <= 0)
        return false;
    return recv(fd, &byte, 1, MSG_DONTWAIT) <= 0;
}

Buf rig_batch(int count, int first, int64_t producer_id, int32_t base_sequence)
{
    Buf b = BUF_NULL;
    BatchBuilder builder;
    BatchStamp stamp = {.producer_id = producer_id, .producer_epoch = producer_id < 0 ? -1 : 0, .base_sequence = base_sequence};
    ck_assert_int_eq(buf_reserve(&b, (size_t)count * 64 + 128), 0);
    batch_builder_init(&builder, b.data, b.capacity);
    for (int i = 0; i < count; i++) {
        char key[24], value[24];
        RecordView v = {.timestamp = clock_wall_ms(), .key = key, .value = value};
        v.key_size = snprintf(key, sizeof(key), "k%d", first + i);
        v.value_size = snprintf(value, sizeof(value), "v%d", first + i);
        ck_assert_int_eq(batch_builder_append(&builder, &v), 0);
    }
    b.size = batch_builder_finish(&builder, &stamp);
    return b;
}
