/*
 * The command line against the table: options may stand anywhere, before and behind the noun; `--name value`, `--name=value`,
 * `-n value`, `-nvalue` and bundled flags; `--` ends options. Long names may be shortened while they are unique.
 */

#include "mqctl/mqctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

static const struct {
    const char *name;
    OutputFormat format;
} output_names[] = {
    {"table", OUT_TABLE}, {"wide", OUT_WIDE},   {"tsv", OUT_TSV},   {"csv", OUT_CSV},
    {"json", OUT_JSON},   {"jsonl", OUT_JSONL}, {"yaml", OUT_YAML}, {"name", OUT_NAME},
};

bool noun_has_verbs(const char *noun)
{
    for (const Command *c = commands; c->noun != NULL; c++)
        if (strcmp(c->noun, noun) == 0)
            return c->verb != NULL;
    return false;
}

static const char *verb_alias(const char *verb)
{
    if (strcmp(verb, "ls") == 0)
        return "list";
    if (strcmp(verb, "rm") == 0)
        return "delete";
    return verb;
}

static bool noun_matches(const char *noun, const char *word)
{
    size_t n = strlen(noun);

    return strcmp(noun, word) == 0 || (strncmp(noun, word, n) == 0 && strcmp(word + n, "s") == 0); /* topics */
}

const Command *command_find(const char *noun, const char *verb)
{
    for (const Command *c = commands; c->noun != NULL; c++)
        if (noun_matches(c->noun, noun) &&
            (c->verb == NULL || (verb != NULL && strcmp(c->verb, verb_alias(verb)) == 0)))
            return c;
    return NULL;
}

/* ---- looking up options -------------------------------------------------------------------------------------------- */

static const Option *find_letter(const Option *list, char letter)
{
    for (const Option *o = list; o != NULL && o->name != NULL; o++)
        if (o->letter == letter)
            return o;
    return NULL;
}

/* Exact, else the only one that begins so. *ret_many: several do. */
static const Option *find_long(const Option *list, const char *name, size_t size, bool *ret_many, const Option *found)
{
    for (const Option *o = list; o != NULL && o->name != NULL; o++) {
        if (strncmp(o->name, name, size) != 0)
            continue;
        if (o->name[size] == '\0') {
            *ret_many = false;
            return o;
        }
        *ret_many = *ret_many || found != NULL;
        found = o;
    }
    return found;
}

static const Option *option_by_letter(const Mq *m, char letter)
{
    const Option *o = m->command != NULL ? find_letter(m->command->options, letter) : NULL;

    return o != NULL ? o : find_letter(global_options, letter);
}

static const Option *option_by_name(const Mq *m, const char *name, size_t size, bool *ret_many)
{
    const Option *own = m->command != NULL ? m->command->options : NULL, *o;

    *ret_many = false;
    o = find_long(own, name, size, ret_many, NULL);
    if (o != NULL && o->name[size] == '\0')
        return o;
    return find_long(global_options, name, size, ret_many, o);
}

static const char *suggest_option(const Mq *m, const char *name)
{
    const char *names[64];
    size_t n = 0;

    for (const Option *o = m->command != NULL ? m->command->options : NULL; o != NULL && o->name != NULL && n < 40; o++)
        names[n++] = o->name;
    for (const Option *o = global_options; o->name != NULL && n < ARRAY_SIZE(names); o++)
        names[n++] = o->name;
    return text_suggest(name, names, n);
}

/* ---- the walk ------------------------------------------------------------------------------------------------------ */

static int usage(Mq *m, const char *what, const char *word)
{
    return mq_fail(m, MQ_E_USAGE, "%s: %s", word, what);
}

static int set_output(Mq *m, const char *value)
{
    const char *names[ARRAY_SIZE(output_names)], *near;

    for (size_t i = 0; i < ARRAY_SIZE(output_names); i++) {
        names[i] = output_names[i].name;
        if (strcmp(value, output_names[i].name) == 0) {
            m->output = output_names[i].format;
            return 0;
        }
    }
    if (m->command != NULL && m->command->run == consume_run)
        return mq_fail(m, MQ_E_USAGE, "-o is the output format; did you mean -r %s?", value);
    near = text_suggest(value, names, ARRAY_SIZE(names));
    return mq_fail(m, MQ_E_USAGE, "unknown output format '%s'%s%s%s", value, near ? " (did you mean " : "", near ? near : "",
                   near ? "?)" : "");
}

static bool option_is_global(const Option *option)
{
    for (const Option *o = global_options; o->name != NULL; o++)
        if (o == option)
            return true;
    return false;
}

static int add_option(Mq *m, const Option *o, const char *value)
{
    int64_t ms;

    if (m->n_options == MQ_OPTIONS_MAX)
        return mq_fail(m, MQ_E_USAGE, "more than %d options", MQ_OPTIONS_MAX);
    m->options[m->n_options].option = o;
    m->options[m->n_options++].value = value != NULL ? value : "";
    if (!option_is_global(o))
        return 0;
    if (strcmp(o->name, "output") == 0)
        return set_output(m, value);
    if (strcmp(o->name, "timeout") == 0) {
        if (parse_duration(value, 1000, &ms) < 0 || ms < 0)
            return mq_fail(m, MQ_E_USAGE, "--timeout: '%s' is no duration (10s, 250ms, 2min)", value);
        m->timeout_ms = ms;
    }
    m->quiet |= strcmp(o->name, "quiet") == 0;
    m->verbose |= strcmp(o->name, "verbose") == 0;
    m->no_header |= strcmp(o->name, "no-header") == 0;
    m->dry_run |= strcmp(o->name, "dry-run") == 0;
    m->yes |= strcmp(o->name, "yes") == 0;
    return 0;
}

static int parse_long(Mq *m, char **argv, int *inout_i, int argc)
{
    const char *word = argv[*inout_i], *name = word + 2, *equal = strchr(name, '=');
    size_t size = equal != NULL ? (size_t)(equal - name) : strlen(name);
    bool many;
    const Option *o = option_by_name(m, name, size, &many);

    if (many)
        return usage(m, "ambiguous option", word);
    if (o == NULL) {
        const char *near = suggest_option(m, name);
        return mq_fail(m, MQ_E_USAGE, "unknown option %s%s%s%s", word, near ? " (did you mean --" : "", near ? near : "",
                       near ? "?)" : "");
    }
    if (o->value == NULL)
        return equal != NULL ? usage(m, "takes no value", word) : add_option(m, o, NULL);
    if (equal != NULL)
        return add_option(m, o, equal + 1);
    if (*inout_i + 1 >= argc)
        return mq_fail(m, MQ_E_USAGE, "%s needs a value: %s", word, o->value);
    return add_option(m, o, argv[++*inout_i]);
}

static int parse_letters(Mq *m, char **argv, int *inout_i, int argc)
{
    const char *word = argv[*inout_i];

    for (const char *p = word + 1; *p != '\0'; p++) {
        const Option *o = option_by_letter(m, *p);
        int r;

        if (o == NULL)
            return mq_fail(m, MQ_E_USAGE, "unknown option -%c", *p);
        if (o->value != NULL) {
            if (p[1] == '\0' && *inout_i + 1 >= argc)
                return mq_fail(m, MQ_E_USAGE, "-%c needs a value: %s", *p, o->value);
            return add_option(m, o, p[1] != '\0' ? p + 1 : argv[++*inout_i]);
        }
        r = add_option(m, o, NULL);
        if (r != 0)
            return r;
    }
    return 0;
}

/* A person may type as much of a noun or verb as is unique; a script may not, since the next version may have another one.
 * @noun NULL: the word is a noun. Return: the whole word, or the word itself. */
static const char *complete_word(const char *noun, const char *word)
{
    const char *found = word;
    size_t n = strlen(word);
    int count = 0;

    for (const Command *c = commands; c->noun != NULL; c++) {
        const char *whole = noun == NULL ? c->noun : noun_matches(c->noun, noun) && c->verb != NULL ? c->verb : "";

        if (c->hidden || strncmp(whole, word, n) != 0)
            continue;
        if (whole[n] == '\0')
            return word;
        count += strcmp(whole, found) != 0;
        found = whole;
    }
    return count == 1 ? found : word;
}

/* Finds noun and verb first, so that an option in front of them is looked up in the command's own list too. An option's
 * value is skipped only where every reading agrees that the option has one. */
static const Command *find_command(const Mq *m, int argc, char **argv, const char **ret_noun, const char **ret_verb)
{
    const char *words[2] = {NULL, NULL};
    int n = 0;

    for (int i = 1; i < argc && n < 2; i++) {
        const char *w = argv[i];

        if (strcmp(w, "--") == 0)
            break;
        if (w[0] == '-' && w[1] != '\0') {
            bool many = false;
            const Option *o = w[1] == '-' ? find_long(global_options, w + 2, strcspn(w + 2, "="), &many, NULL)
                                          : find_letter(global_options, w[1]);
            if (o != NULL && o->value != NULL && strchr(w, '=') == NULL && (w[1] == '-' || w[2] == '\0'))
                i++;
            continue;
        }
        words[n] = m->stdout_tty ? complete_word(n > 0 ? words[0] : NULL, w) : w;
        n++;
        if (n == 1 && command_find(words[0], NULL) != NULL)
            break; /* a noun that is the command */
    }
    *ret_noun = words[0];
    *ret_verb = words[1];
    return words[0] != NULL ? command_find(words[0], words[1]) : NULL;
}

static int unknown_command(Mq *m, const char *noun, const char *verb)
{
    const char *names[64], *near;
    size_t n = 0;
    bool known = false;

    for (const Noun *x = nouns; x->name != NULL; x++)
        known |= noun_matches(x->name, noun);
    for (const Command *c = commands; c->noun != NULL && n < ARRAY_SIZE(names); c++)
        if (known ? noun_matches(c->noun, noun) : n == 0 || strcmp(names[n - 1], c->noun) != 0)
            names[n++] = known ? c->verb : c->noun;
    if (known && verb == NULL) {
        help_print(m, stderr, noun, NULL); /* nobody asked for it */
        return MQ_E_USAGE;
    }
    near = text_suggest(known ? verb : noun, names, n);
    return mq_fail(m, MQ_E_USAGE, "unknown command '%s%s%s'%s%s%s; `mqctl help` lists them", noun, known ? " " : "",
                   known ? verb : "", near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

/* "TOPIC... [FILE]": least and most words. */
static void args_bounds(const char *text, int *ret_min, int *ret_max)
{
    bool many = strstr(text, "...") != NULL;

    *ret_min = *ret_max = 0;
    for (const char *p = text; *p != '\0';) {
        size_t n = strcspn(p, " ");
        ++*ret_max;
        *ret_min += *p != '[' && text[0] != '[';
        p += n + strspn(p + n, " ");
    }
    if (many)
        *ret_max = MQ_ARGS_MAX;
}

static int check_arguments(Mq *m)
{
    const Command *c = m->command;
    int least, most;

    args_bounds(c->args, &least, &most);
    if (m->n_args < least || m->n_args > most)
        return mq_fail(m, MQ_E_USAGE, "%s: usage: mqctl %s%s%s %s", m->n_args < least ? "too few words" : "too many words",
                       c->noun, c->verb ? " " : "", c->verb ? c->verb : "", c->args);
    return 0;
}

int args_parse(Mq *m, int argc, char **argv)
{
    const char *noun, *verb;
    int to_skip, r = 0;
    bool options = true;

    m->command = find_command(m, argc, argv, &noun, &verb);
    to_skip = m->command == NULL ? 0 : m->command->verb != NULL ? 2 : 1;
    if (m->command == NULL && noun != NULL) {
        if (noun_has_verbs(noun) && verb == NULL && argc > 2) /* mqctl topic --help */
            to_skip = 1;
        else
            return unknown_command(m, noun, verb);
    }
    for (int i = 1; i < argc && r == 0; i++) {
        char *w = argv[i];

        if (options && strcmp(w, "--") == 0)
            options = false;
        else if (options && w[0] == '-' && w[1] == '-')
            r = parse_long(m, argv, &i, argc);
        else if (options && w[0] == '-' && w[1] != '\0')
            r = parse_letters(m, argv, &i, argc);
        else if (to_skip > 0)
            to_skip--;
        else if (m->n_args == MQ_ARGS_MAX)
            r = mq_fail(m, MQ_E_USAGE, "more than %d words", MQ_ARGS_MAX);
        else
            m->args[m->n_args++] = w;
    }
    if (r != 0 || opt_has(m, "help") || opt_has(m, "version"))
        return r;
    if (m->command == NULL)
        return noun != NULL ? unknown_command(m, noun, NULL) : 0;
    return check_arguments(m);
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

const char *opt(const Mq *m, const char *name)
{
    for (size_t i = m->n_options; i-- > 0;)
        if (strcmp(m->options[i].option->name, name) == 0)
            return m->options[i].value;
    return NULL;
}

const char *opt_nth(const Mq *m, const char *name, size_t nth)
{
    for (size_t i = 0; i < m->n_options; i++)
        if (strcmp(m->options[i].option->name, name) == 0 && nth-- == 0)
            return m->options[i].value;
    return NULL;
}

bool opt_has(const Mq *m, const char *name)
{
    return opt(m, name) != NULL;
}

static int bad_value(Mq *m, const char *name, const char *text, const char *what)
{
    return mq_fail(m, MQ_E_USAGE, "--%s: '%s' is not %s", name, text, what);
}

int opt_i64(Mq *m, const char *name, int64_t min, int64_t max, int64_t *ret)
{
    const char *text = opt(m, name);
    int64_t v;

    if (text == NULL)
        return 0;
    if (parse_i64(text, &v) < 0)
        return bad_value(m, name, text, "a number");
    if (v < min || v > max)
        return mq_fail(m, MQ_E_USAGE, "--%s: %s is not between %lld and %lld", name, text, (long long)min, (long long)max);
    *ret = v;
    return 0;
}

int opt_size(Mq *m, const char *name, int64_t min, int64_t *ret_bytes)
{
    const char *text = opt(m, name);
    int64_t v;

    if (text == NULL)
        return 0;
    if (parse_size(text, &v) < 0 || v < min)
        return bad_value(m, name, text, "a size (100, 64K, 1MiB)");
    *ret_bytes = v;
    return 0;
}

int opt_duration(Mq *m, const char *name, int64_t default_unit_ms, int64_t *ret_ms)
{
    const char *text = opt(m, name);
    int64_t v;

    if (text == NULL)
        return 0;
    if (parse_duration(text, default_unit_ms, &v) < 0 || v < 0)
        return bad_value(m, name, text, "a duration (250ms, 10s, 7d)");
    *ret_ms = v;
    return 0;
}

int opt_count(Mq *m, const char *name, int64_t min, int64_t *ret)
{
    const char *text = opt(m, name);
    char *end;
    double v;

    if (text == NULL)
        return 0;
    errno = 0;
    v = strtod(text, &end);
    if (end != text && *end != '\0') {
        v *= *end == 'k' || *end == 'K' ? 1e3 : *end == 'M' ? 1e6 : *end == 'G' ? 1e9 : -1;
        end++;
    }
    if (end == text || *end != '\0' || errno != 0 || !(v >= (double)min && v < 1e18))
        return bad_value(m, name, text, "a count (1000, 50k, 10M)");
    *ret = (int64_t)v;
    return 0;
}
