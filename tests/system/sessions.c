/* sessions: opens N libleat clients in one process, prints N, and holds them until standard input ends. */

#include <leat/leat.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 64;
    int n = atoi(argv[2]);
    leat_client **clients = calloc((size_t)n, sizeof *clients);
    leat_conf *conf = leat_conf_new();
    leat_conf_set(conf, "bootstrap.servers", argv[1]);
    for (int i = 0; clients && i < n; i++) {
        int r = leat_client_new(conf, &clients[i]);
        for (int k = 0; r == 0 && k < 100 && !leat_is_connected(clients[i]); k++)
            r = leat_wait(clients[i], 20);
        if (r < 0 || !leat_is_connected(clients[i])) {
            fprintf(stderr, "session %d: %s: %s\n", i + 1, leat_strerror(r), leat_error_text(clients[i]));
            return 1;
        }
    }
    printf("%d\n", n);
    fflush(stdout);
    char c;
    while (read(0, &c, 1) > 0)
        ;
    return 0;
}
