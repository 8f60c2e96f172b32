/* Files, trees and sockets on a real directory. */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/kernel.h"

#define SEAL_EXEC 0x0020 /* F_SEAL_EXEC of Linux 6.3 */

static char dir[64], path[256];

static const char *in_dir(const char *name)
{
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static void setup(void)
{
    strcpy(dir, "/tmp/leat-fs-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
    ck_assert_int_eq(fs_remove_tree(dir), 0);
}

START_TEST(atomic_write_and_read)
{
    Buf b = BUF_NULL;
    struct stat st;

    umask(0077);
    ck_assert_int_eq(fs_write_file_atomic(in_dir("f"), "hello", 5, 0640), 0);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0640);
    ck_assert_int_eq(fs_write_file_atomic(path, "", 0, 0600), 0);
    ck_assert_int_eq(fs_read_file(path, 10, &b), 0);
    ck_assert_uint_eq(b.size, 0);
    ck_assert_int_eq(fs_write_file_atomic(path, "0123456789", 10, 0600), 0);
    ck_assert_int_eq(fs_read_file(path, 9, &b), -EFBIG);
    ck_assert_int_eq(fs_read_file(path, 10, &b), 0);
    ck_assert_uint_eq(b.size, 10);
    ck_assert_str_eq((char *)b.data, "0123456789");
    ck_assert_int_eq(fs_read_file(in_dir("none"), 10, &b), -ENOENT);
    ck_assert_uint_eq(b.size, 10); /* untouched on failure */
    ck_assert_int_eq(fs_read_file("/proc/self/status", 1 << 20, &b), 0);
    ck_assert_uint_gt(b.size, 100);
    buf_deinit(&b);
}
END_TEST

START_TEST(a_failed_write_leaves_the_old_file_and_no_rest)
{
    Buf b = BUF_NULL;

    ck_assert_int_eq(fs_mkdir_p(in_dir("d/full"), 0700), 0);
    ck_assert_int_eq(fs_write_file_atomic(in_dir("d"), "x", 1, 0600), -EISDIR);
    ck_assert_int_eq(fs_read_file(in_dir("d.tmp"), 10, &b), -ENOENT);
    ck_assert_int_eq(symlink("/etc/passwd", in_dir("l.tmp")), 0);
    ck_assert_int_eq(fs_write_file_atomic(in_dir("l"), "x", 1, 0600), -ELOOP);
    buf_deinit(&b);
}
END_TEST

START_TEST(remove_tree_does_not_follow_links)
{
    struct stat st;
    char outside[256];

    ck_assert_int_eq(fs_mkdir_p(in_dir("keep"), 0700), 0);
    ck_assert_int_eq(fs_write_file_atomic(in_dir("keep/file"), "x", 1, 0600), 0);
    ck_assert_int_eq(fs_mkdir_p(in_dir("tree/a/b/c"), 0700), 0);
    ck_assert_int_eq(fs_write_file_atomic(in_dir("tree/a/b/f"), "x", 1, 0600), 0);
    snprintf(outside, sizeof(outside), "%s/keep", dir);
    ck_assert_int_eq(symlink(outside, in_dir("tree/a/link")), 0);
    ck_assert_int_eq(fs_remove_tree(in_dir("tree")), 0);
    ck_assert_int_eq(stat(in_dir("tree"), &st), -1);
    ck_assert_int_eq(stat(in_dir("keep/file"), &st), 0);
    ck_assert_int_eq(fs_remove_tree(in_dir("tree")), 0);
}
END_TEST

START_TEST(mkdir_p_over_a_file)
{
    ck_assert_int_eq(fs_write_file_atomic(in_dir("f"), "x", 1, 0600), 0);
    ck_assert_int_eq(fs_mkdir_p(in_dir("f"), 0700), -ENOTDIR);
    ck_assert_int_eq(fs_mkdir_p(in_dir("f/g"), 0700), -ENOTDIR);
    ck_assert_int_eq(fs_mkdir_p(in_dir("x//y/"), 0700), 0);
    ck_assert_int_eq(fs_mkdir_p("", 0700), -ENOENT);
}
END_TEST

START_TEST(pread_is_short_only_at_the_end)
{
    char buffer[16];
    size_t n;
    int fd = open(in_dir("f"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fs_pwrite_all(fd, "0123456789", 10, 5), 0);
    ck_assert_int_eq(fs_pread_all(fd, buffer, sizeof(buffer), 0, &n), 0);
    ck_assert_uint_eq(n, 15);
    ck_assert_mem_eq(buffer,
                     "\0\0\0\0\0"
                     "0123456789",
                     15);
    close(fd);
    ck_assert_int_eq(fs_pread_all(fd, buffer, 1, 0, &n), -EBADF);
}
END_TEST

START_TEST(stale_sockets_are_replaced_live_ones_are_not)
{
    struct stat st;
    int a = sock_listen_unix(in_dir("s"), SOCK_SEQPACKET, 0660, 8), b;
    char longest[200];

    ck_assert_int_ge(a, 0);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0660);
    ck_assert_int_eq(sock_listen_unix(path, SOCK_SEQPACKET, 0660, 8), -EADDRINUSE);
    ck_assert_int_eq(sock_listen_unix(path, SOCK_STREAM, 0660, 8), -EADDRINUSE);
    close(a);
    b = sock_listen_unix(path, SOCK_SEQPACKET, 0600, 8);
    ck_assert_int_ge(b, 0);
    close(b);
    ck_assert_int_eq(fs_write_file_atomic(in_dir("file"), "x", 1, 0600), 0);
    ck_assert_int_eq(sock_listen_unix(path, SOCK_SEQPACKET, 0600, 8), -EADDRINUSE);
    memset(longest, 'x', sizeof(longest));
    longest[0] = '/';
    longest[108] = '\0';
    ck_assert_int_eq(sock_listen_unix(longest, SOCK_SEQPACKET, 0600, 8), -ENAMETOOLONG);
}
END_TEST

START_TEST(fds_travel_and_truncation_closes_them)
{
    int pair[2], fds[SOCK_FDS_MAX] = {0, 1, 2}, got[SOCK_FDS_MAX];
    size_t n = SOCK_FDS_MAX;
    char buffer[16];
    int before, after;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
                     0);
    ck_assert_int_eq(sock_send_fds(pair[0], "hi", 2, fds, 3), 0);
    ck_assert_int_eq(sock_recv_fds(pair[1], buffer, sizeof(buffer), got, &n), 2);
    ck_assert_uint_eq(n, 3);
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_ne(fcntl(got[i], F_GETFD) & FD_CLOEXEC, 0);
        close(got[i]);
    }
    before = dup(0);
    close(before);
    n = 2; /* room for fewer than sent */
    ck_assert_int_eq(sock_send_fds(pair[0], "hi", 2, fds, 3), 0);
    ck_assert_int_eq(sock_recv_fds(pair[1], buffer, sizeof(buffer), got, &n), -EMSGSIZE);
    n = SOCK_FDS_MAX; /* data cut */
    ck_assert_int_eq(sock_send_fds(pair[0], "0123456789", 10, fds, 3), 0);
    ck_assert_int_eq(sock_recv_fds(pair[1], buffer, 4, got, &n), -EMSGSIZE);
    ck_assert_int_eq(sock_send_fds(pair[0], "hi", 2, fds, 1), 0); /* nobody asked for fds */
    ck_assert_int_eq(sock_recv_fds(pair[1], buffer, 4, NULL, NULL), -EMSGSIZE);
    after = dup(0);
    close(after);
    ck_assert_int_eq(before, after); /* nothing leaked */
    ck_assert_int_eq(sock_recv_fds(pair[1], buffer, 4, NULL, NULL), -EAGAIN);
    close(pair[0]);
    ck_assert_int_eq(sock_recv_fds(pair[1], buffer, 4, NULL, NULL), 0);
    ck_assert_int_eq(sock_send_fds(pair[1], "x", 1, NULL, 0), -EPIPE);
    close(pair[1]);
}
END_TEST

START_TEST(peer_is_known)
{
    int l = sock_listen_unix(in_dir("s"), SOCK_SEQPACKET, 0600, 8), c, s;
    PeerCred cred;

    c = sock_connect_unix(path, SOCK_SEQPACKET);
    ck_assert_int_ge(c, 0);
    s = accept(l, NULL, NULL);
    ck_assert_int_ge(s, 0);
    ck_assert_int_eq(setenv("LEAT_OLD_KERNEL", _i == 1 ? "1" : "0", 1), 0); /* every test is a process */
    ck_assert_int_eq(sock_peer_cred(s, &cred), 0);
    ck_assert_int_eq(cred.pid, getpid());
    ck_assert_uint_eq(cred.uid, getuid());
    ck_assert_int_ge(cred.pidfd, 0);
    ck_assert_int_ne(fcntl(cred.pidfd, F_GETFD) & FD_CLOEXEC, 0);
    close(cred.pidfd);
    close(c);
    close(s);
    close(l);
    ck_assert_int_eq(sock_connect_unix(path, SOCK_SEQPACKET), -ECONNREFUSED);
}
END_TEST

/* The promise is made only where the switch does not hide it; a kernel before 6.3 makes it never. */
START_TEST(old_kernel_has_no_noexec_seal)
{
    int fd, seals;

    ck_assert_int_eq(setenv("LEAT_OLD_KERNEL", "1", 1), 0);
    fd = kernel_memfd("old");
    ck_assert_int_eq(fcntl(fd, F_GET_SEALS), 0);
    close(fd);
    ck_assert_int_eq(unsetenv("LEAT_OLD_KERNEL"), 0);
    fd = kernel_memfd("new");
    seals = fcntl(fd, F_GET_SEALS);
    ck_assert_msg(seals == 0 || seals == SEAL_EXEC, "seals %#x", (unsigned)seals);
    ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    close(fd);
}
END_TEST

START_TEST(tcp_on_a_free_port)
{
    uint16_t port = 0;
    int l = sock_listen_tcp("127.0.0.1", 0, 8, &port), c;

    ck_assert_int_ge(l, 0);
    ck_assert_uint_ne(port, 0);
    ck_assert_int_eq(sock_listen_tcp("127.0.0.1", port, 8, NULL), -EADDRINUSE);
    c = sock_connect_tcp("127.0.0.1", port, 1000);
    ck_assert_int_ge(c, 0);
    ck_assert_int_eq(fcntl(c, F_GETFL) & O_NONBLOCK, 0);
    close(c);
    close(l);
    l = sock_listen_tcp("127.0.0.1", 0, 8, NULL);
    ck_assert_int_ge(l, 0);
    close(l);
    ck_assert_int_eq(sock_connect_tcp("127.0.0.1", port, 1000), -ECONNREFUSED);
    ck_assert_int_lt(sock_listen_tcp("no such host", 0, 8, &port), 0);
}
END_TEST

START_TEST(the_last_eighth_of_descriptors_is_not_for_clients)
{
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = 1024};

    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0); /* each test is a process of its own */
    ck_assert(!sock_is_in_reserve(895));
    ck_assert(sock_is_in_reserve(896));
    limit.rlim_cur = 100;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert(!sock_is_in_reserve(67));
    ck_assert(sock_is_in_reserve(68));
    limit.rlim_cur = 40;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert(!sock_is_in_reserve(19));
    ck_assert(sock_is_in_reserve(20));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fs");
    TCase *t = tcase_create("fs");
    SRunner *r = srunner_create(s);
    int failed;

    suite_add_tcase(s, t);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, atomic_write_and_read);
    tcase_add_test(t, a_failed_write_leaves_the_old_file_and_no_rest);
    tcase_add_test(t, remove_tree_does_not_follow_links);
    tcase_add_test(t, mkdir_p_over_a_file);
    tcase_add_test(t, pread_is_short_only_at_the_end);
    tcase_add_test(t, stale_sockets_are_replaced_live_ones_are_not);
    tcase_add_test(t, fds_travel_and_truncation_closes_them);
    tcase_add_test(t, old_kernel_has_no_noexec_seal);
    tcase_add_loop_test(t, peer_is_known, 0, 2); /* newer and older kernel */
    tcase_add_test(t, tcp_on_a_free_port);
    tcase_add_test(t, the_last_eighth_of_descriptors_is_not_for_clients);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
