#pragma once

/*
 * Ensure: topics that must exist before a request goes on are created through the controller, then awaited in this host's
 * own image with their logs open. It ends by time, too, and says nothing about success: the caller looks.
 */

#include "broker/api/api.h"
#include "broker/apply.h"
#include "broker/daemon.h"

typedef struct Ensure Ensure;

struct Ensure { /* inside the caller's state; nothing of it may move */
    Broker *broker;
    const KStr *names;
    int32_t count;
    const Principal *who;
    void (*done)(Ensure *e); /* may run before ensure_topics() returns */
    DaemonCall *call;
    ApplyWait wait;
    bool waiting;
    int64_t until_ns;
};

/* @who: NULL = the broker itself, which may create internal topics. */
void ensure_topics(Broker *b, Ensure *e, const KStr *names, int32_t count, const Principal *who, int64_t timeout_ms,
                   void (*done)(Ensure *e));
void ensure_cancel(Ensure *e);
/* Topic in the image and every log of it open here. */
bool ensure_is_there(const Broker *b, KStr name);
