/*
 * A clean stop of many logs. Each costs one ftruncate and up to three small files (D8). On a busy disk every one of these calls
 * waits for the file system's journal, milliseconds each, whatever the bytes: one log after the other, thousands took a
 * minute. So several threads seal logs while the caller shows life; only the caller takes them out of the directory, because
 * the table of open files is its own.
 */

#include "storage/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define THREADS_MAX     16
#define LOGS_A_THREAD   32 /* fewer are not worth one more */
#define LOOK_EVERY_MS   250

typedef struct Closing {
    Plog **logs;
    size_t n, running;    /* threads; under the mutex */
    atomic_size_t next;   /* log that nobody has taken */
    atomic_size_t sealed; /* or failed: plog_close() tries those again */
    pthread_mutex_t mutex;
    pthread_cond_t ended;
} Closing;

static void *seal_some(void *userdata)
{
    Closing *c = userdata;

    for (size_t i; (i = atomic_fetch_add(&c->next, 1)) < c->n;) {
        (void)plog_seal(c->logs[i]);
        atomic_fetch_add(&c->sealed, 1);
    }
    pthread_mutex_lock(&c->mutex);
    if (--c->running == 0)
        pthread_cond_signal(&c->ended);
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

/* Return: how many run; fewer than asked for, or none, when there is no memory for them. */
static size_t start_threads(Closing *c, pthread_t threads[THREADS_MAX])
{
    size_t wanted = MIN((c->n + LOGS_A_THREAD - 1) / LOGS_A_THREAD, (size_t)THREADS_MAX), n = 0;

    pthread_mutex_lock(&c->mutex);
    while (n < wanted && pthread_create(&threads[n], NULL, seal_some, c) == 0)
        n++;
    c->running = n;
    pthread_mutex_unlock(&c->mutex);
    return n;
}

static void wait_for_threads(Closing *c, LogDirClosingFn fn, void *userdata)
{
    pthread_mutex_lock(&c->mutex);
    while (c->running > 0) {
        int64_t until = clock_mono_ns() + LOOK_EVERY_MS * NS_PER_MS;
        struct timespec t = {.tv_sec = until / NS_PER_S, .tv_nsec = until % NS_PER_S};
        (void)pthread_cond_timedwait(&c->ended, &c->mutex, &t);
        pthread_mutex_unlock(&c->mutex);
        fn(userdata, atomic_load(&c->sealed), c->n);
        pthread_mutex_lock(&c->mutex);
    }
    pthread_mutex_unlock(&c->mutex);
}

static void seal_all(Closing *c, LogDirClosingFn fn, void *userdata)
{
    pthread_t threads[THREADS_MAX];
    pthread_condattr_t attr;
    size_t n;

    pthread_mutex_init(&c->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->ended, &attr);
    pthread_condattr_destroy(&attr);
    n = start_threads(c, threads);
    wait_for_threads(c, fn, userdata);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    pthread_cond_destroy(&c->ended);
    pthread_mutex_destroy(&c->mutex);
}

void log_dir_close_logs(LogDir *dir, Plog **logs, size_t n, LogDirClosingFn fn, void *userdata)
{
    Closing c = {.logs = logs, .n = n};
    int64_t shown_ms = clock_mono_ms();

    for (size_t i = 0; i < n; i++) {
        compact_cancel(logs[i]);
        log_dir_want_sync(dir, logs[i]); /* one round for all of them */
    }
    seal_all(&c, fn, userdata);
    for (size_t i = 0; i < n; i++) {
        plog_close(logs[i]);
        if (clock_mono_ms() - shown_ms >= LOOK_EVERY_MS) {
            fn(userdata, i + 1, n);
            shown_ms = clock_mono_ms();
        }
    }
}
