/*
 * The supervisor's control socket: nng request/reply over ipc, msgpack messages (wire/schema/internal.txt), and the
 * counters file, which needs nobody's cooperation.
 */

#include "mqctl/connect.h"

#include <errno.h>
#include <fcntl.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "mqctl/output.h"
#include "wire/messages.h"

#define CONTROL_MESSAGE_MAX (16u << 20)
#define RETRY_MS            10
#define ANSWER_MARGIN_MS    1000 /* who runs out of time first is the supervisor: it can say what is not done */

static int status_of_nng(int error)
{
    switch (error) {
    case NNG_ECONNREFUSED:
    case NNG_ENOENT:
    case NNG_ECLOSED:
    case NNG_ECONNRESET:
    case NNG_ECONNSHUT:
    case NNG_EUNREACHABLE:
        return MQ_E_UNREACHABLE;
    case NNG_EPERM:
        return MQ_E_DENIED;
    case NNG_ETIMEDOUT:
        return MQ_E_TIMEOUT;
    default:
        return MQ_E_FAILED;
    }
}

static int open_socket(const char *url, int64_t timeout_ms, nng_socket *ret)
{
    nng_duration wait = timeout_ms > INT32_MAX ? NNG_DURATION_INFINITE : (nng_duration)timeout_ms;
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    nng_socket s;
    int e = nng_req0_open(&s);

    if (e != 0)
        return e;
    (void)nng_socket_set_size(s, NNG_OPT_RECVMAXSZ, CONTROL_MESSAGE_MAX);
    (void)nng_socket_set_ms(s, NNG_OPT_RECVTIMEO, wait);
    (void)nng_socket_set_ms(s, NNG_OPT_SENDTIMEO, wait);
    (void)nng_socket_set_ms(s, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE); /* verbs are not idempotent */
    while ((e = nng_dial(s, url, NULL, 0)) == NNG_EAGAIN && clock_mono_ms() < deadline_ms) /* many others ask, too */
        (void)poll(NULL, 0, RETRY_MS);
    if (e != 0)
        nng_close(s);
    else
        *ret = s;
    return e;
}

static int decode(Mq *m, nng_msg *msg, KControlResponse *ret)
{
    size_t size = nng_msg_len(msg);
    void *copy = mq_alloc(m, size + 1);
    int16_t version;

    memcpy(copy, nng_msg_body(msg), size);
    return k_unpack(&k_control_response, copy, size, &m->arena, ret, &version);
}

/* Return: 0, or an nng error. */
static int exchange(Mq *m, const char *url, const Buf *request, int64_t timeout_ms, KControlResponse *ret)
{
    nng_socket s;
    nng_msg *msg = NULL;
    int e = open_socket(url, timeout_ms, &s);

    if (e != 0)
        return e;
    e = nng_send(s, request->data, request->size, 0);
    if (e == 0)
        e = nng_recvmsg(s, &msg, 0);
    if (e == 0) {
        if (decode(m, msg, ret) < 0)
            e = NNG_EPROTO;
        nng_msg_free(msg);
    }
    nng_close(s);
    return e;
}

static int encode(const char *verb, const char *const *args, int n_args, int64_t timeout_ms, Buf *out)
{
    KStr words[16];
    KControlRequest request = {.verb = k_str(verb), .timeout_ms = timeout_ms};

    assert(n_args <= (int)ARRAY_SIZE(words));
    for (int i = 0; i < n_args; i++)
        words[i] = k_str(args[i]);
    request.args.items = words;
    request.args.n = n_args;
    return k_pack(&k_control_request, 0, &request, out);
}

/* It hangs up before a word on whom it does not know, as it does when it ends. Return: true when the former is likely. */
static bool hung_up_on_stranger(const char *path, int error)
{
    struct stat st;

    return error != NNG_ECONNREFUSED && error != NNG_ENOENT && geteuid() != 0 && stat(path, &st) == 0 && st.st_uid != geteuid();
}

static int explain(Mq *m, const Target *t, const char *path, int error, char **ret_error)
{
    int status = status_of_nng(error);

    if (status == MQ_E_UNREACHABLE && hung_up_on_stranger(path, error)) {
        *ret_error = mq_printf(m, "%s: refused for uid %u (its administrators are members of group leat-admin; a new member logs in again)",
                               path, (unsigned)geteuid());
        return MQ_E_DENIED;
    }
    *ret_error = status == MQ_E_UNREACHABLE ? mq_printf(m, "%s is not running (%s: nobody listens)", t->name, path)
                 : status == MQ_E_TIMEOUT   ? mq_printf(m, "the supervisor of %s does not answer", t->name)
                                            : mq_printf(m, "supervisor of %s: %s", t->name, nng_strerror(error));
    return status;
}

int control_try(Mq *m, const Target *t, const char *verb, const char *const *args, int n_args, int64_t timeout_ms,
                json_t **ret_body, char **ret_error)
{
    const char *path = target_socket(m, t, "control.sock");
    _cleanup_(buf_deinit) Buf request = BUF_NULL;
    KControlResponse response;
    int e;

    *ret_body = NULL;
    /* Only errno says "denied"; nng would not. */
    if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) < 0) {
        e = errno;
        *ret_error = e == EACCES ? mq_printf(m, "%s: %s (its administrators are members of group leat-admin)", path, strerror(e))
                                 : mq_printf(m, "%s is not running (%s: %s)", t->name, path, strerror(e));
        return e == EACCES ? MQ_E_DENIED : MQ_E_UNREACHABLE;
    }
    if (encode(verb, args, n_args, timeout_ms, &request) < 0) {
        *ret_error = mq_printf(m, "out of memory");
        return MQ_E_FAILED;
    }
    e = exchange(m, mq_printf(m, "ipc://%s", path), &request, timeout_ms + ANSWER_MARGIN_MS, &response);
    if (e != 0)
        return explain(m, t, path, e, ret_error);
    if (response.body.len > 0)
        *ret_body = json_loadb(response.body.ptr, (size_t)response.body.len, JSON_DECODE_ANY, NULL);
    if (response.exit_code != 0)
        *ret_error = response.error.len > 0 ? mq_printf(m, "%.*s", response.error.len, response.error.ptr)
                                            : mq_printf(m, "the supervisor refused '%s'", verb);
    return response.exit_code;
}

int control_call(Mq *m, const Target *t, const char *verb, const char *const *args, int n_args, int64_t timeout_ms,
                 json_t **ret_body)
{
    char *error = NULL;
    int r = control_try(m, t, verb, args, n_args, timeout_ms, ret_body, &error);

    if (r != 0)
        mq_fail(m, r, "%s", error);
    return r;
}

static const char *const role_names[ROW_COUNT] = {
    [ROW_SUPERVISOR] = "supervisor",
    [ROW_CONTROLLER] = "controller",
    [ROW_BROKER] = "broker",
    [ROW_COORDINATOR] = "consumer-coord",
};

json_t *counters_read(Mq *m, const Target *t)
{
    Counters *c;
    json_t *doc;

    if (counters_open(target_socket(m, t, "counters"), ROW_COUNT, &c) < 0)
        return NULL;
    doc = json_object();
    for (int role = 0; role < ROW_COUNT; role++) {
        const CountersRow *row = counters_row(c, (CountersRole)role);
        json_t *values = json_object();

        doc_set(values, "pid", json_integer(atomic_load_explicit(&row->pid, memory_order_relaxed)));
        for (int i = 0; i < COUNTER_COUNT; i++)
            doc_set(values, counter_name((CounterId)i), json_integer((json_int_t)counter_get(row, (CounterId)i)));
        doc_set(doc, role_names[role], values);
    }
    counters_close(c);
    return doc;
}
