/*
 * See control.h. nng calls back on its own threads; a callback does nothing but post to the loop. Each of the
 * CONTROL_CALLS_MAX slots is one nng context that receives, is answered, sends, and receives again, so that many requests
 * are in flight and no more: further clients wait in nng until a slot is free.
 *
 * Who may connect is decided when the connection appears, before nng reads a byte from it.
 */

#include "supervisor/control.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>

#include "base/log.h"
#include "supervisor/sockets.h"

#define CONTROL_MODE 0660
#define GROUPS_MAX   256
#define LINGER_NS    50000000

typedef enum SlotState { SLOT_RECEIVING, SLOT_BUSY, SLOT_SENDING } SlotState;

struct ControlCall {
    Control *control;
    nng_ctx ctx;
    nng_aio *aio;
    SlotState state;
};

struct Control {
    Loop *loop;
    ControlFn fn;
    void *userdata;
    nng_socket socket;
    bool open;
    bool closing;
    ControlCall calls[CONTROL_CALLS_MAX];
    size_t n_calls;
};

static bool is_in_admin_group(uid_t uid, gid_t gid)
{
    char text[4096], user_text[4096];
    gid_t groups[GROUPS_MAX];
    struct passwd user, *found_user = NULL;
    struct group group, *found = NULL;
    int n = GROUPS_MAX;

    if (getgrnam_r(GROUP_ADMIN, &group, text, sizeof(text), &found) != 0 || found == NULL)
        return false;
    if (gid == found->gr_gid)
        return true;
    if (getpwuid_r(uid, &user, user_text, sizeof(user_text), &found_user) != 0 ||
        found_user == NULL)
        return false;
    if (getgrouplist(user.pw_name, user.pw_gid, groups, &n) < 0)
        n = GROUPS_MAX;
    for (int i = 0; i < n; i++)
        if (groups[i] == found->gr_gid)
            return true;
    return false;
}

/* On a thread of nng's, before the connection is used. */
static void on_pipe(nng_pipe pipe, nng_pipe_ev event UNUSED, void *userdata UNUSED)
{
    uint64_t uid, gid;

    if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_UID, &uid) != 0 ||
        nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_GID, &gid) != 0) {
        (void)nng_pipe_close(pipe);
        return;
    }
    if (uid == 0 || uid == geteuid() || is_in_admin_group((uid_t)uid, (gid_t)gid))
        return;
    jlog_limited(
        LOG_WARNING,
        "control connection of uid %llu refused: neither root, nor ours, nor in group " GROUP_ADMIN,
        (unsigned long long)uid);
    (void)nng_pipe_close(pipe);
}

static void receive(ControlCall *call)
{
    call->state = SLOT_RECEIVING;
    nng_ctx_recv(call->ctx, call->aio);
}

static void take_request(ControlCall *call, nng_msg *msg)
{
    _cleanup_(arena_deinit) Arena arena = {.limit_bytes = 4 * CONTROL_REQUEST_MAX};
    KControlRequest request;
    int16_t version;
    int r = k_unpack(&k_control_request, nng_msg_body(msg), nng_msg_len(msg), &arena, &request,
                     &version);

    call->state = SLOT_BUSY;
    if (r < 0)
        control_answer(call, 2, "the request cannot be understood: is mqctl of another version?",
                       NULL);
    else
        call->control->fn(call->control->userdata, call, &request);
    nng_msg_free(msg);
}

/* On the loop: the slot's receive or send has ended. */
static void on_slot(void *userdata)
{
    ControlCall *call = userdata;
    int r = nng_aio_result(call->aio);

    if (call->control->closing || r == NNG_ECLOSED || r == NNG_ECANCELED)
        return;
    if (call->state == SLOT_RECEIVING && r == 0) {
        take_request(call, nng_aio_get_msg(call->aio));
        return;
    }
    if (call->state == SLOT_SENDING && r != 0) /* the client went away: the message is still ours */
        nng_msg_free(nng_aio_get_msg(call->aio));
    receive(call);
}

/* On a thread of nng's. */
static void on_aio(void *userdata)
{
    ControlCall *call = userdata;

    if (loop_post(call->control->loop, on_slot, call) < 0)
        jlog_limited(LOG_ERR, "out of memory: one slot of the control socket is lost");
}

void control_answer(ControlCall *call, int exit_code, const char *error, const char *body)
{
    KControlResponse m = {.exit_code = exit_code, .error = k_str(error), .body = k_str(body)};
    _cleanup_(buf_deinit) Buf out = BUF_NULL;
    nng_msg *msg = NULL;

    assert(call->state == SLOT_BUSY);
    if (k_pack(&k_control_response, 0, &m, &out) < 0 || nng_msg_alloc(&msg, 0) != 0 ||
        nng_msg_append(msg, out.data, out.size) != 0) {
        jlog(LOG_ERR, "out of memory: a control request stays without an answer");
        if (msg != NULL)
            nng_msg_free(msg);
        receive(call);
        return;
    }
    call->state = SLOT_SENDING;
    nng_aio_set_msg(call->aio, msg);
    nng_ctx_send(call->ctx, call->aio);
}

static int open_listener(Control *c, const char *path)
{
    char url[512];
    nng_listener listener;
    int r;

    (void)snprintf(url, sizeof(url), "ipc://%.400s", path);
    r = nng_pipe_notify(c->socket, NNG_PIPE_EV_ADD_PRE, on_pipe, c);
    if (r == 0)
        r = nng_socket_set_size(c->socket, NNG_OPT_RECVMAXSZ, CONTROL_REQUEST_MAX);
    if (r == 0)
        r = nng_listener_create(&listener, c->socket, url);
    if (r == 0)
        r = nng_listener_set_size(listener, NNG_OPT_RECVMAXSZ, CONTROL_REQUEST_MAX);
    if (r == 0)
        r = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, CONTROL_MODE);
    if (r == 0)
        r = nng_listener_start(listener, 0);
    return r;
}

static int open_slots(Control *c)
{
    for (size_t i = 0; i < CONTROL_CALLS_MAX; i++) {
        ControlCall *call = &c->calls[i];
        int r;

        call->control = c;
        r = nng_aio_alloc(&call->aio, on_aio, call);
        if (r != 0)
            return r;
        c->n_calls = i + 1;
        r = nng_ctx_open(&call->ctx, c->socket);
        if (r != 0)
            return r;
        receive(call);
    }
    return 0;
}

int control_open(Loop *loop,
                 const char *path,
                 ControlFn fn,
                 void *userdata,
                 Control **ret,
                 char *why,
                 size_t why_size)
{
    Control *c = calloc(1, sizeof(*c));
    int r;

    if (c == NULL)
        return -ENOMEM;
    *c = (Control){.loop = loop, .fn = fn, .userdata = userdata};
    r = nng_rep0_open(&c->socket);
    c->open = r == 0;
    if (r == 0)
        r = open_listener(c, path);
    if (r == 0)
        r = open_slots(c);
    if (r != 0) {
        (void)snprintf(why, why_size, "%.300s cannot be opened: %s", path, nng_strerror(r));
        (void)control_close(c);
        return r == NNG_EADDRINUSE ? -EADDRINUSE : r == NNG_ENOMEM ? -ENOMEM : -EIO;
    }
    sockets_give_to_group(path, GROUP_ADMIN);
    *ret = c;
    return 0;
}

Control *control_close(Control *c)
{
    struct timespec linger = {.tv_nsec = LINGER_NS};
    bool sending = false;

    if (c == NULL)
        return NULL;
    c->closing = true;
    for (size_t i = 0; i < c->n_calls; i++)
        sending = sending || c->calls[i].state == SLOT_SENDING;
    if (sending) /* nng says "sent" when it took the message, and drops what it has on close */
        (void)nanosleep(&linger, NULL);
    if (c->open)
        (void)nng_close(c->socket);
    for (size_t i = 0; i < c->n_calls; i++) {
        nng_aio_stop(c->calls[i].aio); /* after it no callback runs, so nothing posts any more */
        nng_aio_free(c->calls[i].aio);
    }
    free(c);
    return NULL;
}
