/*
 * packages: the main job of ./quickstart, through libleat's public API alone.
 *
 *   packages run BOOTSTRAP TOPIC FILE     sends every stanza of a Debian package index, keyed by package name, and has a
 *                                         consumer group of two processes read it; checks that every record arrived once,
 *                                         in order per key, byte for byte; prints the rates
 *   packages receive BOOTSTRAP TOPIC GROUP   one member: writes what it gets to standard output, framed
 *
 * The runner keeps the file in memory. For each key it remembers which stanzas are still to come, in order; a record that is
 * not exactly the next one of its key is a failure: lost, doubled, reordered and damaged all show as that.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <leat/leat.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MEMBERS 2

typedef struct Stanza {
    const char *text, *key;
    uint32_t size, key_size;
    uint32_t next; /* same key, later in the file; 0 = none (index + 1) */
} Stanza;

typedef struct Source {
    Stanza *stanzas;
    uint32_t n;
    uint32_t *buckets; /* hash of key -> first stanza still to come of some key; index + 1 */
    uint32_t *chain;   /* next key in the bucket, indexed by the key's first stanza */
    uint32_t *due;     /* per key (its first stanza): the next one expected; index + 1 */
    uint32_t mask;
} Source;

static volatile sig_atomic_t stopping;

static void on_term(int sig)
{
    (void)sig;
    stopping = 1;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "packages: %s: %s\n", what, why);
    exit(1);
}

static uint32_t hash(const char *s, size_t n)
{
    uint32_t h = 2166136261u;
    while (n--)
        h = (h ^ (uint8_t)*s++) * 16777619u;
    return h;
}

/* The key's first stanza (index + 1), or 0. */
static uint32_t find_key(const Source *s, const char *key, size_t size)
{
    for (uint32_t i = s->buckets[hash(key, size) & s->mask]; i; i = s->chain[i - 1])
        if (s->stanzas[i - 1].key_size == size && memcmp(s->stanzas[i - 1].key, key, size) == 0)
            return i;
    return 0;
}

static void add_stanza(Source *s, const char *text, size_t size)
{
    const char *key = text, *line_end;
    while (strncmp(key, "Package: ", 9) != 0) {
        key = memchr(key, '\n', (size_t)(text + size - key));
        if (!key || ++key >= text + size)
            return; /* not a stanza of a package */
    }
    key += 9;
    line_end = memchr(key, '\n', (size_t)(text + size - key));
    size_t key_size = (size_t)((line_end ? line_end : text + size) - key);
    s->stanzas[s->n] = (Stanza){.text = text, .size = (uint32_t)size, .key = key, .key_size = (uint32_t)key_size};
    uint32_t first = find_key(s, key, key_size), self = ++s->n;
    if (!first) {
        uint32_t *bucket = &s->buckets[hash(key, key_size) & s->mask];
        s->chain[self - 1] = *bucket;
        *bucket = self;
        s->due[self - 1] = self; /* due[first] is the next expected; until reading starts it is the first */
    } else {
        uint32_t last = first;
        while (s->stanzas[last - 1].next)
            last = s->stanzas[last - 1].next;
        s->stanzas[last - 1].next = self;
    }
}

static void read_source(Source *s, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0)
        fail(path, fd < 0 ? strerror(errno) : "empty");
    const char *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        fail(path, strerror(errno));
    const char *end = data + st.st_size;
    size_t n = 1;
    for (const char *p = data; (p = memmem(p, (size_t)(end - p), "\n\n", 2)); p += 2)
        n++;
    s->mask = 1;
    while (s->mask < 2 * n)
        s->mask *= 2;
    s->mask--;
    s->stanzas = calloc(n, sizeof(Stanza));
    s->buckets = calloc(s->mask + 1u, sizeof(uint32_t));
    s->chain = calloc(n, sizeof(uint32_t));
    s->due = calloc(n, sizeof(uint32_t));
    if (!s->stanzas || !s->buckets || !s->chain || !s->due)
        fail("memory", strerror(ENOMEM));
    for (const char *p = data, *q; p < end; p = q + 2) {
        q = memmem(p, (size_t)(end - p), "\n\n", 2);
        if (!q)
            q = end;
        if (q > p)
            add_stanza(s, p, (size_t)(q - p));
    }
    if (!s->n)
        fail(path, "holds no package");
}

/* ---- a member of the group ----------------------------------------------------------------------------------------- */

static int receive(const char *bootstrap, const char *topic, const char *group)
{
    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "bootstrap.servers", bootstrap);
    leat_conf_set(conf, "group.id", group);
    leat_conf_set(conf, "auto.offset.reset", "earliest");
    leat_consumer *consumer = NULL;
    int r = leat_consumer_new(conf, &consumer);
    if (r == 0)
        r = leat_subscribe(consumer, &topic, 1);
    if (r < 0)
        fail("receive", consumer ? leat_error_text(leat_consumer_client(consumer)) : leat_strerror(r));
    static leat_record records[512];
    while (!stopping) {
        int n = leat_poll(consumer, 20, records, 512);
        if (n < 0)
            fail("receive", leat_error_text(leat_consumer_client(consumer)));
        for (int i = 0; i < n; i++) {
            uint32_t head[2] = {(uint32_t)records[i].key_size, (uint32_t)records[i].value_size};
            fwrite(head, sizeof head, 1, stdout);
            fwrite(records[i].key, 1, head[0], stdout);
            fwrite(records[i].value, 1, head[1], stdout);
        }
        if (n)
            fflush(stdout);
    }
    leat_consumer_close(consumer);
    leat_conf_free(conf);
    return 0;
}

/* ---- the runner ---------------------------------------------------------------------------------------------------- */

typedef struct Member {
    pid_t pid;
    int fd;
    char *data;
    size_t size, capacity;
    uint32_t records;
} Member;

static void start_member(Member *m, const char *self, const char *bootstrap, const char *topic, const char *group)
{
    int p[2];
    if (pipe2(p, O_CLOEXEC) < 0)
        fail("pipe", strerror(errno));
    fcntl(p[0], F_SETPIPE_SZ, 1 << 20);
    m->pid = fork();
    if (m->pid == 0) {
        dup2(p[1], 1);
        execl(self, self, "receive", bootstrap, topic, group, (char *)NULL);
        _exit(127);
    }
    if (m->pid < 0)
        fail("fork", strerror(errno));
    close(p[1]);
    m->fd = p[0];
    m->capacity = 4 << 20;
    m->data = malloc(m->capacity);
    if (!m->data)
        fail("memory", strerror(ENOMEM));
}

/* Takes whole frames of what a member wrote. */
static void take(Source *s, Member *m)
{
    size_t at = 0;
    while (m->size - at >= 8) {
        uint32_t head[2];
        memcpy(head, m->data + at, 8);
        size_t total = 8 + (size_t)head[0] + head[1];
        if (total > m->capacity)
            fail("check", "a record of impossible size arrived");
        if (m->size - at < total)
            break;
        const char *key = m->data + at + 8, *value = key + head[0];
        uint32_t first = find_key(s, key, head[0]), due = first ? s->due[first - 1] : 0;
        if (!due || s->stanzas[due - 1].size != head[1] || memcmp(s->stanzas[due - 1].text, value, head[1]) != 0) {
            fprintf(stderr, "packages: key %.*s: not the record that was due (lost, doubled, out of order or damaged)\n",
                    (int)head[0], key);
            exit(1);
        }
        s->due[first - 1] = s->stanzas[due - 1].next;
        m->records++;
        at += total;
    }
    memmove(m->data, m->data + at, m->size - at);
    m->size -= at;
}

static void pump(Source *s, Member members[MEMBERS], int timeout_ms)
{
    struct pollfd p[MEMBERS];
    for (int i = 0; i < MEMBERS; i++)
        p[i] = (struct pollfd){.fd = members[i].fd, .events = POLLIN};
    if (poll(p, MEMBERS, timeout_ms) <= 0)
        return;
    for (int i = 0; i < MEMBERS; i++) {
        if (!p[i].revents)
            continue;
        Member *m = &members[i];
        ssize_t n = read(m->fd, m->data + m->size, m->capacity - m->size);
        if (n <= 0)
            fail("receive", "a member of the group ended");
        m->size += (size_t)n;
        take(s, m);
    }
}

static void send_all(Source *s, Member members[MEMBERS], leat_producer *producer, leat_topic *topic)
{
    for (uint32_t i = 0; i < s->n; i++) {
        const Stanza *z = &s->stanzas[i];
        leat_message m = LEAT_MESSAGE_INIT;
        m.topic = topic;
        m.key = z->key;
        m.key_size = z->key_size;
        m.value = z->text;
        m.value_size = z->size;
        int r;
        while ((r = leat_produce(producer, &m)) == -EAGAIN) {
            leat_wait(leat_producer_client(producer), 1);
            pump(s, members, 0);
        }
        if (r < 0)
            fail("produce", leat_error_text(leat_producer_client(producer)));
        if (i % 256 == 0)
            pump(s, members, 0);
    }
}

static int job(const char *self, const char *bootstrap, const char *topic_name, const char *path)
{
    Source s = {0};
    read_source(&s, path);
    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "bootstrap.servers", bootstrap);
    leat_producer *producer = NULL;
    leat_topic *topic = NULL;
    if (leat_producer_new(conf, &producer) < 0)
        fail(bootstrap, "no connection");
    leat_client *client = leat_producer_client(producer);
    int r = leat_topic_delete(client, topic_name, 10000); /* of an earlier run */
    if (r < 0 && r != -ENOENT)
        fail("delete topic", leat_error_text(client));
    r = leat_topic_create(client, topic_name, 4, -1, NULL, 0, 10000);
    if (r < 0 || (r = leat_topic_open(client, topic_name, &topic)) < 0)
        fail("create topic", leat_error_text(client));
    char group[64];
    snprintf(group, sizeof group, "quickstart-%d", (int)getpid());
    Member members[MEMBERS] = {{0}};
    for (int i = 0; i < MEMBERS; i++)
        start_member(&members[i], self, bootstrap, topic_name, group);

    double start = now_s();
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s.n; i++)
        bytes += s.stanzas[i].size + s.stanzas[i].key_size;
    send_all(&s, members, producer, topic);
    if (leat_flush(producer, 30000) < 0)
        fail("flush", leat_error_text(client));
    double sent = now_s();
    uint32_t got = 0;
    while (got < s.n) {
        if (now_s() - sent > 30)
            fail("check", "records are missing after 30 s");
        pump(&s, members, 100);
        got = 0;
        for (int i = 0; i < MEMBERS; i++)
            got += members[i].records;
    }
    double done = now_s();
    for (int i = 0; i < MEMBERS; i++)
        kill(members[i].pid, SIGTERM);
    for (int i = 0; i < MEMBERS; i++) {
        int status = 0;
        waitpid(members[i].pid, &status, 0);
        if (status != 0)
            fail("receive", "a member of the group failed at its end");
    }
    printf("sent      %u records, %.1f MB, 4 partitions, every one on stable storage: %.0f records/s, %.0f MB/s\n", s.n,
           (double)bytes / 1e6, s.n / (sent - start), (double)bytes / 1e6 / (sent - start));
    printf("received  %u + %u records by a group of two processes, from the first send to the last record: %.0f records/s\n",
           members[0].records, members[1].records, s.n / (done - start));
    printf("checked   every record once, in order for its key, byte for byte\n");
    leat_producer_close(producer, NULL);
    leat_conf_free(conf);
    return 0;
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_handler = on_term};
    sigaction(SIGTERM, &sa, NULL);
    if (argc == 5 && strcmp(argv[1], "run") == 0)
        return job("/proc/self/exe", argv[2], argv[3], argv[4]);
    if (argc == 5 && strcmp(argv[1], "receive") == 0)
        return receive(argv[2], argv[3], argv[4]);
    fprintf(stderr, "usage: packages run BOOTSTRAP TOPIC FILE | packages receive BOOTSTRAP TOPIC GROUP\n");
    return 64;
}
