/*
 * See sp.h. A peer always has a receive under way: a connection whose bytes were there before nng asked for them is never
 * armed in nng 1.5's poller, and its hang-up would be reported without end.
 */

#include "supervisor/sp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEND_TIMEOUT_MS 10000
#define HELLO_SIZE      8
#define TAG_SIZE        4

static const uint8_t hello_of_rep[HELLO_SIZE] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
static const uint8_t hello_of_req[HELLO_SIZE] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};

/* ---- operations of nng ---- */

/* On a thread of nng's. */
static void on_done(void *userdata)
{
    NngOp *op = userdata;
    uint64_t one = 1;

    if (op->before != NULL)
        op->before(op->userdata, op->aio);
    atomic_store_explicit(&op->is_done, true, memory_order_release);
    (void)!write(op->wake_fd, &one,
                 sizeof(one)); /* EAGAIN: the counter is full, so it is readable */
}

int nng_op_init(NngOp *op)
{
    return nng_aio_alloc(&op->aio, on_done, op);
}

void nng_op_deinit(NngOp *op)
{
    if (op->aio == NULL)
        return;
    nng_aio_stop(op->aio); /* after it no callback runs */
    nng_aio_free(op->aio);
    op->aio = NULL;
}

nng_aio *nng_op_begin(NngOp *op)
{
    assert(!op->is_running);
    op->is_running = true;
    atomic_store_explicit(&op->is_done, false, memory_order_relaxed);
    return op->aio;
}

bool nng_op_has_ended(NngOp *op)
{
    if (!op->is_running || !atomic_load_explicit(&op->is_done, memory_order_acquire))
        return false;
    op->is_running = false;
    return true;
}

/* ---- sending ---- */

static void send_more(SpPeer *p)
{
    nng_iov iov = {.iov_buf = p->out.data + p->sent, .iov_len = p->out.size - p->sent};

    (void)nng_aio_set_iov(p->tx.aio, 1, &iov);
    nng_stream_send(p->stream, nng_op_begin(&p->tx));
}

static void flush(SpPeer *p)
{
    Buf sent = p->out;

    if (p->is_closed || p->tx.is_running || p->next.size == 0)
        return;
    p->out = p->next;
    p->next = sent;
    buf_clear(&p->next);
    p->sent = 0;
    send_more(p);
}

static void on_sent(SpPeer *p)
{
    if (nng_aio_result(p->tx.aio) != 0) {
        sp_close(p);
        return;
    }
    p->sent += nng_aio_count(p->tx.aio);
    if (p->is_closed)
        return;
    if (p->sent < p->out.size)
        send_more(p);
    else
        flush(p);
}

static int put_frame(SpPeer *p, const void *data, size_t data_size)
{
    uint64_t size = p->tags_size + data_size;
    uint8_t head[SP_HEAD_SIZE] = {1};

    for (size_t i = SP_HEAD_SIZE; --i > 0; size >>= 8)
        head[i] = (uint8_t)size;
    return buf_reserve(&p->next, SP_HEAD_SIZE + p->tags_size + data_size) < 0 ||
                   buf_append(&p->next, head, SP_HEAD_SIZE) < 0 ||
                   buf_append(&p->next, p->body, p->tags_size) < 0 ||
                   buf_append(&p->next, data, data_size) < 0
               ? -ENOMEM
               : 0;
}

int sp_answer(SpPeer *p, const void *data, size_t size)
{
    int r;

    assert(p->has_request);
    r = p->is_closed ? 0 : put_frame(p, data, size);
    free(p->body);
    p->body = NULL;
    p->has_request = false;
    flush(p);
    return r;
}

/* ---- receiving ---- */

static void receive_more(SpPeer *p)
{
    nng_iov iov = {.iov_buf = p->into + p->got, .iov_len = p->want - p->got};

    (void)nng_aio_set_iov(p->rx.aio, 1, &iov);
    nng_stream_recv(p->stream, nng_op_begin(&p->rx));
}

static void receive(SpPeer *p, SpStage stage, uint8_t *into, size_t size)
{
    p->stage = stage;
    p->into = into;
    p->want = size;
    p->got = 0;
    receive_more(p);
}

static bool take_hello(SpPeer *p)
{
    if (memcmp(p->head, hello_of_req, HELLO_SIZE) != 0)
        return false;
    receive(p, SP_HEAD, p->head, SP_HEAD_SIZE);
    return true;
}

/* The head of a frame is here. A client that asks again before it has its answer is none of ours. */
static bool take_head(SpPeer *p)
{
    uint64_t size = 0;

    for (size_t i = 1; i < SP_HEAD_SIZE; i++)
        size = size << 8 | p->head[i];
    if (p->head[0] != 1 || size < TAG_SIZE || size > SP_REQUEST_MAX || p->has_request ||
        p->next.size != 0)
        return false;
    p->body = malloc((size_t)size);
    if (p->body == NULL)
        return false;
    p->body_size = (size_t)size;
    receive(p, SP_BODY, p->body, p->body_size);
    return true;
}

/* The words before the request: the way the answer goes back; the last one has its highest bit set. */
static bool take_body(SpPeer *p)
{
    size_t i = 0;

    while (i + TAG_SIZE <= p->body_size && (p->body[i] & 0x80) == 0)
        i += TAG_SIZE;
    if (i + TAG_SIZE > p->body_size)
        return false;
    p->tags_size = i + TAG_SIZE;
    p->has_request = true;
    receive(p, SP_HEAD, p->head, SP_HEAD_SIZE);
    return true;
}

static bool take(SpPeer *p)
{
    switch (p->stage) {
    case SP_HELLO:
        return take_hello(p);
    case SP_HEAD:
        return take_head(p);
    case SP_BODY:
        return take_body(p);
    }
    return false;
}

/* Return: true when that completed a request. */
static bool on_received(SpPeer *p)
{
    bool had_request = p->has_request;

    if (p->is_closed)
        return false;
    if (nng_aio_result(p->rx.aio) != 0) {
        sp_close(p);
        return false;
    }
    p->got += nng_aio_count(p->rx.aio);
    if (p->got < p->want)
        receive_more(p);
    else if (!take(p))
        sp_close(p);
    return !had_request && p->has_request;
}

/* ---- a peer's life ---- */

int sp_init(SpPeer *p, nng_stream *take_stream, int wake_fd)
{
    *p = (SpPeer){.rx = {.wake_fd = wake_fd}, .tx = {.wake_fd = wake_fd}};
    if (nng_op_init(&p->rx) != 0 || nng_op_init(&p->tx) != 0 ||
        buf_append(&p->next, hello_of_rep, HELLO_SIZE) < 0) {
        sp_deinit(p);
        return -ENOMEM;
    }
    p->stream = take_stream;
    nng_aio_set_timeout(p->rx.aio, NNG_DURATION_INFINITE);
    nng_aio_set_timeout(p->tx.aio, SEND_TIMEOUT_MS);
    receive(p, SP_HELLO, p->head, HELLO_SIZE);
    flush(p);
    return 0;
}

void sp_deinit(SpPeer *p)
{
    sp_close(p);
    nng_op_deinit(&p->rx);
    nng_op_deinit(&p->tx);
    if (p->stream != NULL)
        nng_stream_free(p->stream);
    free(p->body);
    buf_deinit(&p->out);
    buf_deinit(&p->next);
}

bool sp_step(SpPeer *p)
{
    if (nng_op_has_ended(&p->tx))
        on_sent(p);
    return nng_op_has_ended(&p->rx) && on_received(p);
}

void sp_close(SpPeer *p)
{
    if (!p->is_closed && p->stream != NULL)
        nng_stream_close(p->stream);
    p->is_closed = true;
}
