/* One thread, one queue, one mutex that is held for pointer moves only. See worker.h. */

#include "broker/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct Worker {
    Loop *loop;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t some;
    WorkerJob *first, *last; /* guarded by lock */
    bool stop;
};

static void on_loop(void *userdata)
{
    WorkerJob *job = userdata;
    job->done(job);
}

static void *work(void *userdata)
{
    Worker *w = userdata;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->first && !w->stop)
            pthread_cond_wait(&w->some, &w->lock);
        WorkerJob *job = w->first;
        if (!job)
            break;
        w->first = job->next;
        if (!w->first)
            w->last = NULL;
        pthread_mutex_unlock(&w->lock);
        job->run(job);
        while (loop_post(w->loop, on_loop, job) < 0) {
            /* Out of memory for a notice of a few bytes: a result may not be lost, so wait for memory. */
            struct timespec pause = {.tv_nsec = 10000000};
            nanosleep(&pause, NULL);
        }
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int worker_new(Loop *loop, Worker **ret)
{
    Worker *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->loop = loop;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->some, NULL);

    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old); /* signals belong to the main thread */
    int r = -pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r < 0) {
        free(w);
        return r;
    }
    *ret = w;
    return 0;
}

Worker *worker_free(Worker *w)
{
    if (!w)
        return NULL;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->some);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->some);
    pthread_mutex_destroy(&w->lock);
    free(w);
    return NULL;
}

void worker_submit(Worker *w, WorkerJob *job)
{
    job->next = NULL;
    job->worker = w;
    pthread_mutex_lock(&w->lock);
    if (w->last)
        w->last->next = job;
    else
        w->first = job;
    w->last = job;
    pthread_cond_signal(&w->some);
    pthread_mutex_unlock(&w->lock);
}
