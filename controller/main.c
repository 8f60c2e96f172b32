/* leat-controller: the only writer of the host's metadata. Started by leat-supervisor; server.h says what runs here. */

#include "controller/server.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    Loop *loop = NULL;
    Server *server = NULL;
    int r = loop_new(&loop);
    if (r == 0)
        r = server_new(loop, argc, argv, &server);
    if (r < 0) {
        fprintf(stderr, "leat-controller: cannot start: %s\n", strerror(-r));
        return 1;
    }
    r = loop_run(loop);
    server_free(server);
    loop_free(loop);
    return r < 0 ? 1 : r;
}
