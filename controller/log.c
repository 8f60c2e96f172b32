/*
 * See log.h. The loop appends to `queue` under the lock; the commit thread takes the whole queue, applies it to its own image
 * (the committed state, which the store writes its rows from), commits, and posts a result. Nothing else is shared.
 */

#include "controller/log.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/list.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct Batch {
    Buf bytes;
    MetaEntry *entries; /* record: offset in bytes until sealed */
    size_t n, capacity;
    uint64_t *cookies;
    size_t n_cookies, cookies_capacity;
} Batch;

typedef struct Outcome { /* commit thread to loop */
    List node;               /* MetaLog.outcomes */
    Batch batch;
    int error;
    uint64_t index;
    MetaImage *image; /* when refused */
} Outcome;

struct MetaLog {
    Loop *loop;
    const MetaLogOps *ops;
    void *userdata;
    MetaStore *store;
    MetaImage *committed; /* the commit thread's */
    MetaHardState hard;
    uint64_t next_index;  /* the loop's */
    uint64_t last_index, trimmed; /* the commit thread's */

    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    Batch queue;
    List outcomes;
    bool stop, refusing, posted; /* posted: on_outcomes() will run */
    uint32_t map_permille;
};

static void batch_deinit(Batch *b)
{
    buf_deinit(&b->bytes);
    free(b->entries);
    free(b->cookies);
    *b = (Batch){0};
}

static int grow(void **items, size_t *capacity, size_t n, size_t size)
{
    if (n <= *capacity)
        return 0;
    size_t more = MAX(n, MAX(*capacity * 2, (size_t)64));
    void *p = reallocarray(*items, more, size);
    if (!p)
        return -ENOMEM;
    *items = p;
    *capacity = more;
    return 0;
}

/* --- the commit thread --- */

static void fail(MetaLog *log, int error, const char *what)
{
    log->ops->failed(log->userdata, error, what);
    abort(); /* failed() does not return */
}

static int load_image(MetaLog *log, MetaImage **ret, uint64_t *ret_last)
{
    MetaImage *image = NULL;
    MetaHardState hard;
    uint64_t term;
    int r = meta_image_new(&image);
    if (r == 0)
        r = meta_store_load(log->store, image, &hard, ret_last, &term);
    if (r < 0) {
        meta_image_free(image);
        return r;
    }
    *ret = image;
    return 0;
}

static int commit(MetaLog *log, Batch *b)
{
    MetaHardState hard = log->hard;
    for (size_t i = 0; i < b->n; i++) {
        int r = meta_apply(log->committed, b->entries[i].index, b->entries[i].record, b->entries[i].size);
        if (r < 0)
            fail(log, r, "a record that was decided does not apply");
    }
    hard.commit = b->entries[b->n - 1].index;
    size_t map_size;
    int r;
    do {
        map_size = meta_store_map_size(log->store);
        r = meta_store_append(log->store, &hard, b->entries, b->n, log->committed);
    } while (r == -ENOSPC && meta_store_map_size(log->store) > map_size); /* the map has grown */
    if (r < 0 && r != -ENOSPC)
        fail(log, r, "the metadata store refused a commit");
    if (r == 0) {
        log->hard.commit = hard.commit; /* the term is read by the loop and never moves */
        log->last_index = hard.commit;
    }
    return r;
}

static void trim(MetaLog *log)
{
    /* Large entries fill the map before there are many: keep fewer, rather than let it grow for the log's sake. */
    uint64_t keep = log->map_permille < META_LOG_TIGHT_PERMILLE ? META_LOG_KEEP : META_LOG_KEEP_TIGHT;
    if (log->last_index < log->trimmed + 2 * keep)
        return;
    int r = meta_store_trim(log->store, log->last_index - keep);
    if (r < 0 && r != -ENOSPC) /* a full map: the next commit tries again */
        fail(log, r, "the metadata log cannot be trimmed");
    if (r == 0)
        log->trimmed = log->last_index - keep;
}

static void outcome_free(Outcome *o)
{
    meta_image_free(o->image);
    batch_deinit(&o->batch);
    free(o);
}

static void tell_one(MetaLog *log, Outcome *o)
{
    if (o->error < 0) {
        log->next_index = o->index + 1;
        pthread_mutex_lock(&log->lock);
        log->refusing = false;
        pthread_mutex_unlock(&log->lock);
        MetaImage *image = o->image;
        o->image = NULL;
        log->ops->refused(log->userdata, image);
    } else {
        log->ops->committed(log->userdata, o->index);
    }
    for (size_t i = 0; i < o->batch.n_cookies; i++)
        log->ops->resolved(log->userdata, o->batch.cookies[i], o->error == 0);
}

static void on_outcomes(void *userdata)
{
    MetaLog *log = userdata;
    List all;
    list_init(&all);
    pthread_mutex_lock(&log->lock);
    log->posted = false;
    for (List *n; (n = list_pop(&log->outcomes));)
        list_append(&all, n);
    pthread_mutex_unlock(&log->lock);
    for (List *n; (n = list_pop(&all));) {
        Outcome *o = CONTAINER_OF(n, Outcome, node);
        tell_one(log, o);
        outcome_free(o);
    }
}

static void on_map_used(void *userdata)
{
    MetaLog *log = userdata;
    log->ops->map_used(log->userdata, log->map_permille);
}

static void tell(MetaLog *log, Batch *b, int error)
{
    Outcome *o = calloc(1, sizeof(*o));
    if (!o)
        fail(log, -ENOMEM, "no memory to report a commit");
    *o = (Outcome){.batch = *b, .error = error, .index = log->last_index};
    list_init(&o->node);
    *b = (Batch){0};
    if (error < 0) { /* what was applied here goes; both sides begin again from the store */
        uint64_t last;
        meta_image_free(log->committed);
        log->committed = NULL;
        int r = load_image(log, &log->committed, &last);
        if (r == 0)
            r = load_image(log, &o->image, &last);
        if (r < 0)
            fail(log, r, "the metadata store cannot be read");
        log->last_index = o->index = last;
    }
    pthread_mutex_lock(&log->lock);
    list_append(&log->outcomes, &o->node);
    bool post = !log->posted;
    log->posted = true;
    pthread_mutex_unlock(&log->lock);
    if (post && loop_post(log->loop, on_outcomes, log) < 0)
        fail(log, -ENOMEM, "no memory to report a commit");
}

static void housekeep(MetaLog *log)
{
    uint32_t permille = 0;
    int r = meta_store_housekeep(log->store, &permille);
    if (r < 0 && r != -ENOSPC)
        fail(log, r, "the metadata store cannot be kept");
    if (permille != log->map_permille) {
        log->map_permille = permille;
        (void)loop_post(log->loop, on_map_used, log);
    }
}

/* Waits for proposals; false when it is time to end. */
static bool next_batch(MetaLog *log, Batch *ret)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    pthread_mutex_lock(&log->lock);
    while (log->queue.n == 0 && log->queue.n_cookies == 0 && !log->stop) {
        if (pthread_cond_timedwait(&log->wake, &log->lock, &until) == ETIMEDOUT)
            break;
    }
    *ret = log->queue;
    log->queue = (Batch){0};
    bool go_on = !log->stop || ret->n > 0;
    pthread_mutex_unlock(&log->lock);
    return go_on;
}

static void *commit_thread(void *arg)
{
    MetaLog *log = arg;
    Batch b;
    int64_t kept_ns = clock_mono_ns();
    while (next_batch(log, &b)) {
        int r = 0;
        for (size_t i = 0; i < b.n; i++)
            b.entries[i].record = b.bytes.data + (uintptr_t)b.entries[i].record;
        if (b.n > 0)
            r = commit(log, &b);
        if (r < 0) { /* what was decided on top of the refused is refused with it */
            pthread_mutex_lock(&log->lock);
            log->refusing = true;
            Batch late = log->queue;
            log->queue = (Batch){0};
            pthread_mutex_unlock(&log->lock);
            for (size_t i = 0; i < late.n_cookies; i++) {
                if (grow((void **)&b.cookies, &b.cookies_capacity, b.n_cookies + 1, sizeof(*b.cookies)) == 0)
                    b.cookies[b.n_cookies++] = late.cookies[i];
            }
            batch_deinit(&late);
        }
        if (b.n > 0 || b.n_cookies > 0)
            tell(log, &b, r);
        batch_deinit(&b);
        trim(log);
        if (clock_mono_ns() - kept_ns > NS_PER_S) {
            housekeep(log);
            kept_ns = clock_mono_ns();
        }
    }
    return NULL;
}

/* --- the loop's side --- */

uint64_t meta_log_next_index(const MetaLog *log)
{
    return log->next_index;
}

static int enqueue(MetaLog *log, const MetaProposal *p)
{
    Batch *q = &log->queue;
    if (log->refusing || q->bytes.size + p->size > META_LOG_QUEUE_BYTES)
        return -ENOBUFS;
    int r = grow((void **)&q->entries, &q->capacity, q->n + p->n_records, sizeof(*q->entries));
    if (r == 0)
        r = grow((void **)&q->cookies, &q->cookies_capacity, q->n_cookies + 1, sizeof(*q->cookies));
    uintptr_t at = q->bytes.size;
    if (r == 0 && p->size > 0)
        r = buf_append(&q->bytes, p->bytes, p->size);
    if (r < 0)
        return r;
    for (size_t i = 0; i < p->n_records; i++) {
        q->entries[q->n++] = (MetaEntry){.index = log->next_index + i,
                                         .term = log->hard.term,
                                         .record = (const void *)(at + p->records[i].offset),
                                         .size = p->records[i].size};
    }
    q->cookies[q->n_cookies++] = p->cookie;
    return 0;
}

int meta_log_propose(MetaLog *log, const MetaProposal *p, uint64_t *ret_first)
{
    pthread_mutex_lock(&log->lock);
    int r = enqueue(log, p);
    if (r == 0)
        pthread_cond_signal(&log->wake);
    pthread_mutex_unlock(&log->lock);
    if (r < 0)
        return r;
    *ret_first = log->next_index;
    log->next_index += p->n_records;
    return 0;
}

static int start_thread(MetaLog *log)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&log->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&log->lock, NULL);
    int e = pthread_create(&log->thread, NULL, commit_thread, log);
    log->has_thread = e == 0;
    return -e;
}

int meta_log_open(const MetaLogOptions *o, MetaLog **ret, MetaImage **ret_image, char *ret_why, size_t why_size)
{
    MetaLog *log = calloc(1, sizeof(*log));
    uint64_t term = 0;
    if (!log)
        return -ENOMEM;
    log->loop = o->loop;
    log->ops = o->ops;
    log->userdata = o->userdata;
    list_init(&log->outcomes);
    MetaImage *image = NULL;
    int r = meta_store_open(o->meta_dir, o->map_size, &log->store, ret_why, why_size);
    if (r == 0)
        r = meta_image_new(&log->committed);
    if (r == 0)
        r = meta_store_load(log->store, log->committed, &log->hard, &log->last_index, &term);
    if (r == 0)
        r = load_image(log, &image, &log->last_index);
    if (r == 0) {
        log->hard.term = MAX(log->hard.term, term) + 1; /* a new reign; durable with its first entry */
        log->next_index = log->last_index + 1;
        r = start_thread(log);
    }
    if (r < 0) {
        meta_image_free(image);
        meta_log_close(log);
        return r;
    }
    *ret = log;
    *ret_image = image;
    return 0;
}

MetaLog *meta_log_close(MetaLog *log)
{
    if (!log)
        return NULL;
    if (log->has_thread) {
        pthread_mutex_lock(&log->lock);
        log->stop = true;
        pthread_cond_signal(&log->wake);
        pthread_mutex_unlock(&log->lock);
        pthread_join(log->thread, NULL);
        pthread_cond_destroy(&log->wake);
        pthread_mutex_destroy(&log->lock);
    }
    batch_deinit(&log->queue);
    for (List *n; (n = list_pop(&log->outcomes));) /* committed, but there is nobody left to tell */
        outcome_free(CONTAINER_OF(n, Outcome, node));
    meta_image_free(log->committed);
    meta_store_close(log->store);
    free(log);
    return NULL;
}
