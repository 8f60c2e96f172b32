/*
 * The loop of loop.h on epoll.
 *
 * Life of a source: an fd source that is freed while a turn runs may still be named by events that epoll returned already,
 * so it is only marked (fn = NULL) and put on the dead list; the outermost turn frees it at its end. Timers are never
 * named by epoll and go at once. The heap holds exactly the armed timers; heap_index tells a timer its place.
 *
 * Posted calls are the one thing other threads touch: a list under a mutex, and an eventfd that is written when the list
 * was empty. The mutex covers the list only, never a system call.
 */

#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"

#define LOOP_EVENTS_MAX 256
#define TIMER_IDLE      SIZE_MAX

struct LoopFd {
    Loop *loop;
    LoopFdFn fn; /* NULL: dead */
    void *userdata;
    int fd;
    uint32_t events;
    List link; /* in loop->fds or loop->dead */
};

struct LoopTimer {
    Loop *loop;
    LoopFn fn;
    void *userdata;
    int64_t deadline_ns;
    size_t heap_index; /* TIMER_IDLE while disarmed */
    List link;
};

typedef struct Post {
    List link;
    LoopFn fn;
    void *userdata;
} Post;

typedef struct Hook {
    LoopFn turn_end;
    LoopBeforeSleepFn before_sleep;
    void *userdata;
} Hook;

typedef struct Hooks {
    Hook *items;
    size_t n;
} Hooks;

struct Loop {
    int epoll_fd, post_fd;
    List fds, dead, timers;
    LoopTimer **heap;
    size_t n_heap, heap_capacity, n_timers;
    Hooks turn_end, before_sleep;
    int64_t now_ns;
    unsigned depth; /* turns in progress: handlers may call loop_turn() */
    bool quit, no_pwait2;
    int quit_code;
    LoopFd *post_source;
    pthread_mutex_t post_lock;
    List posts; /* guarded by post_lock */
};

static void run_posts(void *userdata, uint32_t events UNUSED)
{
    Loop *loop = userdata;
    List batch;
    uint64_t n;

    (void)!read(loop->post_fd, &n, sizeof(n)); /* EAGAIN: an earlier turn took the posts */
    list_init(&batch);
    (void)pthread_mutex_lock(&loop->post_lock);
    for (List *l; (l = list_pop(&loop->posts)) != NULL;)
        list_append(&batch, l);
    (void)pthread_mutex_unlock(&loop->post_lock);
    for (List *l; (l = list_pop(&batch)) != NULL;) {
        Post post = *CONTAINER_OF(l, Post, link);

        free(CONTAINER_OF(l, Post, link));
        post.fn(post.userdata);
    }
}

int loop_post(Loop *loop, LoopFn fn, void *userdata)
{
    Post *post = malloc(sizeof(*post));
    bool was_empty;

    if (post == NULL)
        return -ENOMEM;
    post->fn = fn;
    post->userdata = userdata;
    (void)pthread_mutex_lock(&loop->post_lock);
    was_empty = list_is_empty(&loop->posts);
    list_append(&loop->posts, &post->link);
    (void)pthread_mutex_unlock(&loop->post_lock);
    if (was_empty) {
        uint64_t one = 1;

        (void)!write(loop->post_fd, &one,
                     sizeof(one)); /* EAGAIN: the counter is full, so it is readable */
    }
    return 0;
}

int loop_new(Loop **ret)
{
    Loop *loop = calloc(1, sizeof(*loop));
    int r;

    if (loop == NULL)
        return -ENOMEM;
    list_init(&loop->fds);
    list_init(&loop->dead);
    list_init(&loop->timers);
    list_init(&loop->posts);
    (void)pthread_mutex_init(&loop->post_lock, NULL);
    loop->now_ns = clock_mono_ns();
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->post_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = loop->epoll_fd < 0 || loop->post_fd < 0 ? -errno : 0;
    if (r == 0)
        r = loop_add_fd(loop, loop->post_fd, EPOLLIN, run_posts, loop, &loop->post_source);
    if (r < 0) {
        (void)loop_free(loop);
        return r;
    }
    *ret = loop;
    return 0;
}

static void free_fds(List *head)
{
    for (List *l; (l = list_pop(head)) != NULL;)
        free(CONTAINER_OF(l, LoopFd, link));
}

Loop *loop_free(Loop *loop)
{
    if (loop == NULL)
        return NULL;
    assert(loop->depth == 0);
    free_fds(&loop->fds);
    free_fds(&loop->dead);
    for (List *l; (l = list_pop(&loop->timers)) != NULL;)
        free(CONTAINER_OF(l, LoopTimer, link));
    for (List *l; (l = list_pop(&loop->posts)) != NULL;)
        free(CONTAINER_OF(l, Post, link));
    free(loop->heap);
    free(loop->turn_end.items);
    free(loop->before_sleep.items);
    base_closep(&loop->epoll_fd);
    base_closep(&loop->post_fd);
    (void)pthread_mutex_destroy(&loop->post_lock);
    free(loop);
    return NULL;
}

int loop_add_fd(Loop *loop, int fd, uint32_t events, LoopFdFn fn, void *userdata, LoopFd **ret)
{
    LoopFd *source = calloc(1, sizeof(*source));
    struct epoll_event ev = {.events = events};

    assert(fn != NULL);
    if (source == NULL)
        return -ENOMEM;
    *source = (LoopFd){.loop = loop, .fn = fn, .userdata = userdata, .fd = fd, .events = events};
    ev.data.ptr = source;
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        int r = -errno;

        free(source);
        return r;
    }
    list_append(&loop->fds, &source->link);
    *ret = source;
    return 0;
}

int loop_fd_set_events(LoopFd *source, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = source};

    /* an unchanged edge-triggered or one-shot mask still has an effect: it arms again */
    if (events == source->events && (events & (EPOLLET | EPOLLONESHOT)) == 0)
        return 0;
    if (epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &ev) < 0)
        return -errno;
    source->events = events;
    return 0;
}

LoopFd *loop_fd_free(LoopFd *source)
{
    if (source == NULL)
        return NULL;
    assert(source->fn != NULL); /* freed twice otherwise */
    /* EBADF: the caller closed the fd first, and epoll forgot it then */
    (void)epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    list_remove(&source->link);
    source->fn = NULL;
    if (source->loop->depth > 0)
        list_append(&source->loop->dead, &source->link);
    else
        free(source);
    return NULL;
}

static void heap_put(Loop *loop, size_t i, LoopTimer *t)
{
    loop->heap[i] = t;
    t->heap_index = i;
}

static void heap_up(Loop *loop, size_t i)
{
    LoopTimer *t = loop->heap[i];

    while (i > 0 && loop->heap[(i - 1) / 2]->deadline_ns > t->deadline_ns) {
        heap_put(loop, i, loop->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_put(loop, i, t);
}

static void heap_down(Loop *loop, size_t i)
{
    LoopTimer *t = loop->heap[i];

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= loop->n_heap)
            break;
        if (child + 1 < loop->n_heap &&
            loop->heap[child + 1]->deadline_ns < loop->heap[child]->deadline_ns)
            child++;
        if (loop->heap[child]->deadline_ns >= t->deadline_ns)
            break;
        heap_put(loop, i, loop->heap[child]);
        i = child;
    }
    heap_put(loop, i, t);
}

static void heap_remove(Loop *loop, LoopTimer *t)
{
    size_t i = t->heap_index;
    LoopTimer *last;

    if (i == TIMER_IDLE)
        return;
    assert(i < loop->n_heap && loop->heap[i] == t);
    last = loop->heap[--loop->n_heap];
    t->heap_index = TIMER_IDLE;
    if (last == t)
        return;
    heap_put(loop, i, last);
    heap_up(loop, i);
    heap_down(loop, last->heap_index);
}

int loop_add_timer(Loop *loop, LoopFn fn, void *userdata, LoopTimer **ret)
{
    LoopTimer *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return -ENOMEM;
    if (loop->n_timers ==
        loop->heap_capacity) { /* room for all timers, so that arming cannot fail */
        size_t capacity = loop->heap_capacity == 0 ? 16 : loop->heap_capacity * 2;
        LoopTimer **heap =
            realloc(loop->heap, capacity * sizeof(*heap)); /* NOLINT(bugprone-sizeof-expression) */

        if (heap == NULL) {
            free(t);
            return -ENOMEM;
        }
        loop->heap = heap;
        loop->heap_capacity = capacity;
    }
    *t = (LoopTimer){.loop = loop,
                     .fn = fn,
                     .userdata = userdata,
                     .deadline_ns = INT64_MAX,
                     .heap_index = TIMER_IDLE};
    list_append(&loop->timers, &t->link);
    loop->n_timers++;
    *ret = t;
    return 0;
}

void loop_timer_set(LoopTimer *timer, int64_t deadline_ns)
{
    Loop *loop = timer->loop;

    if (timer->heap_index != TIMER_IDLE && deadline_ns != INT64_MAX) {
        timer->deadline_ns = deadline_ns;
        heap_up(loop, timer->heap_index);
        heap_down(loop, timer->heap_index);
        return;
    }
    heap_remove(loop, timer);
    timer->deadline_ns = deadline_ns;
    if (deadline_ns == INT64_MAX)
        return;
    assert(loop->n_heap < loop->heap_capacity);
    heap_put(loop, loop->n_heap++, timer);
    heap_up(loop, timer->heap_index);
}

int64_t loop_timer_deadline(const LoopTimer *timer)
{
    return timer->deadline_ns;
}

LoopTimer *loop_timer_free(LoopTimer *timer)
{
    if (timer == NULL)
        return NULL;
    heap_remove(timer->loop, timer);
    list_remove(&timer->link);
    timer->loop->n_timers--;
    free(timer);
    return NULL;
}

static int hooks_add(Hooks *hooks, Hook hook)
{
    Hook *items = realloc(hooks->items, (hooks->n + 1) * sizeof(*items));

    if (items == NULL)
        return -ENOMEM;
    hooks->items = items;
    hooks->items[hooks->n++] = hook;
    return 0;
}

int loop_add_turn_end(Loop *loop, LoopFn fn, void *userdata)
{
    return hooks_add(&loop->turn_end, (Hook){.turn_end = fn, .userdata = userdata});
}

int loop_add_before_sleep(Loop *loop, LoopBeforeSleepFn fn, void *userdata)
{
    return hooks_add(&loop->before_sleep, (Hook){.before_sleep = fn, .userdata = userdata});
}

int64_t loop_now_ns(const Loop *loop)
{
    return loop->now_ns;
}

static int64_t sleep_ns(Loop *loop, int64_t timeout_ns)
{
    int64_t left = timeout_ns;

    if (loop->n_heap > 0) {
        int64_t due = loop->heap[0]->deadline_ns, now = clock_mono_ns();
        int64_t wait = due <= now ? 0 : due - now;

        left = left < 0 ? wait : MIN(left, wait);
    }
    /* one hook that has work is enough; hooks armed before it see at most one needless wake-up */
    for (size_t i = 0; left != 0 && i < loop->before_sleep.n; i++)
        if (!loop->before_sleep.items[i].before_sleep(loop->before_sleep.items[i].userdata))
            left = 0;
    return left;
}

static int wait_events(Loop *loop, struct epoll_event *events, int64_t timeout_ns)
{
    struct timespec t = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};
    int n;

    if (timeout_ns > 0 && !loop->no_pwait2) {
        n = epoll_pwait2(loop->epoll_fd, events, LOOP_EVENTS_MAX, &t, NULL);
        if (n >= 0 || errno != ENOSYS)
            return n;
        loop->no_pwait2 = true;
    }
    if (timeout_ns > 0) /* rounded up: waking early would spin until the timer is due */
        timeout_ns = MIN((timeout_ns + NS_PER_MS - 1) / NS_PER_MS, (int64_t)INT32_MAX);
    return epoll_wait(loop->epoll_fd, events, LOOP_EVENTS_MAX, (int)timeout_ns);
}

static void run_timers(Loop *loop)
{
    /* a handler may arm its timer in the past again; the budget leaves that for the next turn */
    for (size_t budget = loop->n_heap; budget > 0 && loop->n_heap > 0; budget--) {
        LoopTimer *t = loop->heap[0];

        if (t->deadline_ns > loop->now_ns)
            break;
        heap_remove(loop, t);
        t->deadline_ns = INT64_MAX;
        t->fn(t->userdata);
    }
}

int loop_turn(Loop *loop, int64_t timeout_ns)
{
    struct epoll_event events[LOOP_EVENTS_MAX];
    int n = wait_events(loop, events, sleep_ns(loop, timeout_ns));

    if (n < 0 && errno != EINTR)
        return -errno;
    loop->now_ns = clock_mono_ns();
    loop->depth++;
    for (int i = 0; i < n; i++) {
        LoopFd *source = events[i].data.ptr;

        if (source->fn != NULL)
            source->fn(source->userdata, events[i].events);
    }
    run_timers(loop);
    for (size_t i = 0; i < loop->turn_end.n; i++)
        loop->turn_end.items[i].turn_end(loop->turn_end.items[i].userdata);
    if (--loop->depth == 0)
        free_fds(&loop->dead);
    return 0;
}

int loop_run(Loop *loop)
{
    while (!loop->quit) {
        int r = loop_turn(loop, -1);

        if (r < 0)
            return r;
    }
    loop->quit = false; /* a loop may run again, in tests */
    return loop->quit_code;
}

void loop_quit(Loop *loop, int code)
{
    loop->quit = true;
    loop->quit_code = code;
}
