/* control_call SOCKET VERB [ARG...]: one request to the control socket; prints exit code, error and body, a line each. */

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>

#include "wire/messages.h"

int main(int argc, char **argv)
{
    KStr args[16];
    KControlRequest request = {
        .timeout_ms = 20000, .args = {args, 0}
    };
    KControlResponse response;
    const char *timeout = getenv("CONTROL_TIMEOUT_MS");
    Buf out = BUF_NULL;
    Arena arena = ARENA_NULL;
    nng_socket s;
    nng_msg *msg;
    int16_t version;
    char url[512];
    int e;

    if (argc < 3 || argc > 16)
        return 64;
    if (timeout != NULL)
        request.timeout_ms = atoi(timeout);
    request.verb = k_str(argv[2]);
    for (int i = 3; i < argc; i++)
        args[request.args.n++] = k_str(argv[i]);
    snprintf(url, sizeof(url), "ipc://%s", argv[1]);
    if (k_pack(&k_control_request, 0, &request, &out) < 0)
        return 70;
    e = nng_req0_open(&s);
    while (e == 0 && (e = nng_dial(s, url, NULL, 0)) == NNG_EAGAIN) { /* its backlog is full */
        (void)poll(NULL, 0, 10);
        e = 0;
    }
    if (e != 0 || (e = nng_socket_set_ms(s, NNG_OPT_RECVTIMEO, 60000)) != 0 || (e = nng_send(s, out.data, out.size, 0)) != 0 ||
        (e = nng_recvmsg(s, &msg, 0)) != 0) {
        fprintf(stderr, "%s: %s\n", url, nng_strerror(e));
        return 3;
    }
    if (k_unpack(&k_control_response, nng_msg_body(msg), nng_msg_len(msg), &arena, &response,
                 &version) < 0)
        return 65;
    printf("%d\n%.*s\n%.*s\n", response.exit_code, response.error.len < 0 ? 0 : response.error.len,
           response.error.ptr, response.body.len < 0 ? 0 : response.body.len, response.body.ptr);
    nng_msg_free(msg);
    nng_close(s);
    arena_deinit(&arena);
    buf_deinit(&out);
    return 0;
}
