/* The configuration format: what parses to what, and where each error points. */

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/fs.h"

static int parse(Conf *c, const char *text, ConfError *e)
{
    return conf_parse_buffer(c, "f", text, strlen(text), e);
}

START_TEST(values)
{
    static const char text[] = "\xef\xbb\xbf# a server.properties\r\n"
                               "node.id=1\r\n"
                               "  listeners = PLAINTEXT://:9092,\\\n"
                               "     SSL://[::]:9093  \n"
                               "! Java's other comment \\\n"
                               "; ours\n"
                               "path: /a b/c=d # not a comment\n"
                               "empty =\n"
                               "back = a\\\\\n"
                               "[process.net]\n"
                               "count = auto\n"
                               "[]\n"
                               "list += a\n"
                               "list += b\n"
                               "last = \xc3\xa4";
    Conf c = {0};
    ConfError e;

    ck_assert_msg(parse(&c, text, &e) == 0, "%s", e.text);
    ck_assert_str_eq(conf_get(&c, "node.id", ""), "1");
    ck_assert_str_eq(conf_get(&c, "listeners", ""), "PLAINTEXT://:9092,SSL://[::]:9093");
    ck_assert_int_eq(conf_find(&c, "listeners")->line, 3);
    ck_assert_str_eq(conf_get(&c, "path", ""), "/a b/c=d # not a comment");
    ck_assert_int_eq(conf_find(&c, "path")->line, 7);
    ck_assert_str_eq(conf_get(&c, "empty", "x"), "");
    ck_assert_str_eq(conf_get(&c, "back", ""), "a\\\\");
    ck_assert_str_eq(conf_get(&c, "process.net.count", ""), "auto");
    ck_assert_str_eq(conf_get(&c, "list", ""), "a,b");
    ck_assert_str_eq(conf_get(&c, "last", ""), "\xc3\xa4");
    ck_assert_ptr_null(conf_find(&c, "count"));
    ck_assert_uint_eq(c.n, 8);
    conf_deinit(&c);
}
END_TEST

static const struct {
    const char *text;
    const char *error;
} bad[] = {
    {"a = 1\nb\n",                "f:2:2: error: expected '=' behind 'b'"                         },
    {"a = 1\n  b c = 2\n",        "f:2:5: error: 'b' is followed by neither '=' nor '+='"         },
    {"= 1\n",                     "f:1:1: error: a key is missing"                                },
    {"a = 1\n\n a = 2\n",         "f:3:2: error: 'a' is set a second time; the first is in line 1"},
    {"a += 1\na = 2\n",           "f:2:1: error: 'a' is set a second time"                        },
    {"[s]\na = 1\n[]\ns.a = 2\n", "f:4:1: error: 's.a' is set a second time"                      },
    {"[a b]\n",                   "f:1:3: error: a section is"                                    },
    {"[a\n",                      "f:1:3: error: a section is"                                    },
    {"[a] x\n",                   "f:1:5: error: text behind"                                     },
    {"a = 1\\",                   "f:1:6: error: '\\' at the end of the file"                     },
    {"a = \x01\n",                "f:1:5: error: control character 0x01"                          },
    {"x=1\na = \xff\n",           "f:2:1: error: not UTF-8"                                       },
    {"a$b = 1\n",                 "f:1:2: error: 'a' is followed by"                              },
};

START_TEST(errors_point_at_the_place)
{
    Conf c = {0};
    ConfError e = {""};

    ck_assert_int_eq(parse(&c, bad[_i].text, &e), -EBADMSG);
    ck_assert_msg(strncmp(e.text, bad[_i].error, strlen(bad[_i].error)) == 0, "got: %s", e.text);
    conf_deinit(&c);
}
END_TEST

START_TEST(nul_bytes_are_refused)
{
    Conf c = {0};
    ConfError e;

    ck_assert_int_eq(conf_parse_buffer(&c, "f", "a=1\0b=2\n", 8, &e), -EBADMSG);
    ck_assert_uint_eq(c.n, 0);
    ck_assert_int_eq(conf_parse_buffer(&c, "f", NULL, 0, &e), 0);
    conf_deinit(&c);
}
END_TEST

START_TEST(later_files_win)
{
    Conf c = {0};
    ConfError e;

    ck_assert_int_eq(conf_parse_buffer(&c, "one", "a=1\nb=2\nl=x\n", 12, &e), 0);
    ck_assert_int_eq(conf_parse_buffer(&c, "two", "\na=3\nl+=y\n", 10, &e), 0);
    ck_assert_str_eq(conf_get(&c, "a", ""), "3");
    ck_assert_str_eq(conf_find(&c, "a")->file, "two");
    ck_assert_int_eq(conf_find(&c, "a")->line, 2);
    ck_assert_str_eq(conf_get(&c, "b", ""), "2");
    ck_assert_str_eq(conf_get(&c, "l", ""), "x,y");
    ck_assert_uint_eq(c.n, 3);
    conf_deinit(&c);
}
END_TEST

START_TEST(serialized_text_parses_to_the_same)
{
    static const char text[] = "a = x \\\n   y\n[s]\nb =\nc = # ; [ ] = : \\\\\nd = \t;\n";
    Conf c = {0}, back = {0};
    Buf out = BUF_NULL;
    ConfError e;

    ck_assert_int_eq(parse(&c, text, &e), 0);
    ck_assert_int_eq(conf_set(&c, "set", "  padded ", "--set", 0), 0);
    ck_assert_int_eq(conf_set(&c, "set2", "line\nbreak", "--set", 0), -EINVAL);
    ck_assert_int_eq(conf_set(&c, "set2", "odd\\", "--set", 0), -EINVAL);
    ck_assert_int_eq(conf_set(&c, "a b", "x", "--set", 0), -EINVAL);
    ck_assert_int_eq(conf_set(&c, "", "x", "--set", 0), -EINVAL);
    ck_assert_int_eq(conf_serialize(&c, &out), 0);
    ck_assert_int_eq(conf_parse_buffer(&back, "f", (char *)out.data, out.size, &e), 0);
    ck_assert_uint_eq(c.n, back.n);
    for (size_t i = 0; i < c.n; i++) {
        ck_assert_str_eq(c.entries[i].key, back.entries[i].key);
        ck_assert_str_eq(c.entries[i].value, back.entries[i].value);
    }
    buf_deinit(&out);
    conf_deinit(&c);
    conf_deinit(&back);
}
END_TEST

START_TEST(long_lines_and_many_keys)
{
    Conf c = {0};
    Buf text = BUF_NULL;
    ConfError e;

    ck_assert_int_eq(buf_printf(&text, "long = %0100000d\n", 7), 0);
    ck_assert_int_eq(conf_parse_buffer(&c, "f", (char *)text.data, text.size, &e), 0);
    ck_assert_uint_eq(strlen(conf_get(&c, "long", "")), 100000);
    buf_clear(&text);
    for (int i = 0; i < 5000; i++)
        ck_assert_int_eq(buf_printf(&text, "k%d=\n", i), 0);
    ck_assert_int_eq(conf_parse_buffer(&c, "f", (char *)text.data, text.size, &e), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(e.text, "more than 4096 keys"));
    buf_clear(&text);
    ck_assert_int_eq(buf_printf(&text, "%0300d = 1\n", 1), 0);
    ck_assert_int_eq(conf_parse_buffer(&c, "f", (char *)text.data, text.size, &e), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(e.text, "key longer than 255"));
    buf_deinit(&text);
    conf_deinit(&c);
}
END_TEST

START_TEST(tree_of_drop_ins)
{
    char dir[] = "/tmp/leat-conf-XXXXXX", path[256], sub[256];
    static const struct {
        const char *name, *text;
    } files[] = {
        {"leat.conf",            "a=main\nb=main\nc=main\n"},
        {"conf.d/20-x.conf",     "a=20\nb=20\n"            },
        {"conf.d/10-x.conf",     "a=10\nd=10\n"            },
        {"conf.d/30-x.conf.bak", "a=bak\n"                 },
        {"conf.d/.40.conf",      "a=hidden\n"              }
    };
    Conf c = {0};
    ConfError e;

    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/leat.conf", dir);
    ck_assert_int_eq(conf_parse_tree(&c, path, &e), -ENOENT);
    ck_assert_ptr_nonnull(strstr(e.text, "leat.conf:1:1: error: cannot be read"));
    snprintf(sub, sizeof(sub), "%s/conf.d", dir);
    ck_assert_int_eq(fs_mkdir_p(sub, 0700), 0);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        snprintf(sub, sizeof(sub), "%s/%s", dir, files[i].name);
        ck_assert_int_eq(fs_write_file_atomic(sub, files[i].text, strlen(files[i].text), 0600), 0);
    }
    ck_assert_int_eq(conf_parse_tree(&c, path, &e), 0);
    ck_assert_str_eq(conf_get(&c, "a", ""), "20");
    ck_assert_str_eq(conf_get(&c, "b", ""), "20");
    ck_assert_str_eq(conf_get(&c, "c", ""), "main");
    ck_assert_str_eq(conf_get(&c, "d", ""), "10");
    conf_deinit(&c);
    ck_assert_int_eq(fs_remove_tree(dir), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("conf");
    TCase *t = tcase_create("conf");
    SRunner *r = srunner_create(s);
    int failed;

    suite_add_tcase(s, t);
    tcase_add_test(t, values);
    tcase_add_loop_test(t, errors_point_at_the_place, 0, (int)ARRAY_SIZE(bad));
    tcase_add_test(t, nul_bytes_are_refused);
    tcase_add_test(t, later_files_win);
    tcase_add_test(t, serialized_text_parses_to_the_same);
    tcase_add_test(t, long_lines_and_many_keys);
    tcase_add_test(t, tree_of_drop_ins);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
