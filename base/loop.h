#pragma once

/*
 * The epoll loop of a daemon: one thread, no allocation per event.
 *
 * Each turn: wait (no longer than the nearest timer), run every ready fd handler once, run due timers, then run the
 * `turn_end` hooks once - the place where a daemon flushes what handlers gathered (one write, one doorbell per turn).
 * Handlers may add and remove sources, also themselves. loop_post() is the only function other threads may call.
 */

#include "base/compiler.h"

typedef struct Loop Loop;
typedef struct LoopFd LoopFd;
typedef struct LoopTimer LoopTimer;
typedef void (*LoopFdFn)(void *userdata, uint32_t epoll_events);
typedef void (*LoopFn)(void *userdata);

int loop_new(Loop **ret);
Loop *loop_free(Loop *loop); /* sources must have been removed or die with it */

/* @events: EPOLLIN | EPOLLOUT | EPOLLET ... The fd stays the caller's. */
int loop_add_fd(Loop *loop, int fd, uint32_t events, LoopFdFn fn, void *userdata, LoopFd **ret);
int loop_fd_set_events(LoopFd *source, uint32_t events);
LoopFd *loop_fd_free(LoopFd *source); /* NULL is fine; returns NULL */

/* Timers are one-shot; disarmed when made. deadline_ns is on clock_mono_ns(); arming again moves it. */
int loop_add_timer(Loop *loop, LoopFn fn, void *userdata, LoopTimer **ret);
void loop_timer_set(LoopTimer *timer, int64_t deadline_ns); /* INT64_MAX disarms */
int64_t loop_timer_deadline(const LoopTimer *timer);
LoopTimer *loop_timer_free(LoopTimer *timer);

/* Hooks that run at the end of every turn, in the order added. */
int loop_add_turn_end(Loop *loop, LoopFn fn, void *userdata);
/* Hook asked before sleeping: false = there is work, poll without waiting (used to arm doorbells). */
typedef bool (*LoopBeforeSleepFn)(void *userdata);
int loop_add_before_sleep(Loop *loop, LoopBeforeSleepFn fn, void *userdata);

/* Thread-safe: fn(userdata) runs on the loop's thread. Return: 0 or -ENOMEM. */
int loop_post(Loop *loop, LoopFn fn, void *userdata);

int64_t loop_now_ns(const Loop *loop); /* taken once per turn */
int loop_run(Loop *loop);              /* until loop_quit(); returns its code or a negative errno */
void loop_quit(Loop *loop, int code);
int loop_turn(Loop *loop, int64_t timeout_ns); /* one turn, for tests and nested use */
