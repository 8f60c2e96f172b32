#!/usr/bin/env python3
"""Turns wire/schema/*.txt into messages.h and messages.c (see schema/README.md for the notation).

usage: gen.py OUT.h OUT.c SCHEMA...

The text is parsed into Field and Struct objects; everything else is printing. A mistake in a schema stops the build with
file and line. Numbers of APIs and messages, and names, must be unique over all files.
"""
import re
import sys

FOREVER = 32767
NUMBERS = {'MIN32': '(-2147483647 - 1)', 'MAX64': 'INT64_MAX', 'true': 'true', 'false': 'false'}
# schema type -> (C type, table type, C array type, smallest size in bytes when not nullable: classic, flexible)
TYPES = {
    'bool': ('bool', 'KT_BOOL', None, 1, 1),
    'i8': ('int8_t', 'KT_I8', 'KInt8Array', 1, 1),
    'i16': ('int16_t', 'KT_I16', None, 2, 2),
    'u16': ('uint16_t', 'KT_U16', None, 2, 2),
    'i32': ('int32_t', 'KT_I32', 'KInt32Array', 4, 4),
    'u32': ('uint32_t', 'KT_U32', None, 4, 4),
    'i64': ('int64_t', 'KT_I64', 'KInt64Array', 8, 8),
    'f64': ('double', 'KT_F64', None, 8, 8),
    'uuid': ('Uuid', 'KT_UUID', 'KUuidArray', 16, 16),
    'str': ('KStr', 'KT_STR', 'KStrArray', 2, 1),
    'bytes': ('KBytes', 'KT_BYTES', None, 4, 1),
    'records': ('KBytes', 'KT_BYTES', None, 4, 1),
}


class SchemaError(Exception):
    pass


def camel(name):
    return ''.join(part[:1].upper() + part[1:] for part in name.split('_'))


def snake(name):
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()


class Field:
    def __init__(self):
        self.name = self.type = self.default = self.sub = None
        self.array = False
        self.since, self.until = 0, FOREVER
        self.null_since = FOREVER  # first version that allows null; FOREVER = never
        self.null_always = False   # "?" without a version: the default is null
        self.tag = -1

    def is_in(self, version):
        return self.since <= version <= self.until

    @property
    def pointer(self):
        return self.sub is not None and not self.array and self.null_since != FOREVER


class Struct:
    def __init__(self, c_name, fields):
        self.c_name, self.fields = c_name, fields

    @property
    def table(self):
        return 'k_struct_' + snake(self.c_name[1:])

    @property
    def default(self):
        return 'k_default_' + snake(self.c_name[1:])

    def min_size(self, version, flexible):
        size = 1 if flexible else 0
        for f in self.fields:
            if not f.is_in(version) or f.tag >= 0:
                continue
            if f.array:
                size += 1 if flexible else 4
            elif f.pointer:
                size += 1
            elif f.sub:
                size += f.sub.min_size(version, flexible)
            else:
                size += TYPES[f.type][4 if flexible else 3]
        return size

    def min_packed(self, version):
        return 1 + sum(1 for f in self.fields if f.is_in(version))


class Message:
    def __init__(self, name, number, v_min, v_max, flexible, lenient=False, prefixed=False, api=False):
        self.name, self.number, self.v_min, self.v_max, self.flexible = name, number, v_min, v_max, flexible
        self.lenient, self.prefixed, self.api = lenient, prefixed, api
        self.struct = None

    @property
    def table(self):
        return 'k_' + snake(self.name)


class Api:
    def __init__(self, key, name, v_min, v_max, adv_min, adv_max, flexible, request, response):
        self.key, self.name, self.v_min, self.v_max = key, name, v_min, v_max
        self.adv_min, self.adv_max, self.flexible = adv_min, adv_max, flexible
        self.request, self.response = request, response


class Parser:
    """Recursive descent over one Q:/R:/F: line."""

    def __init__(self, text, c_name):
        self.text, self.at, self.c_name = text, 0, c_name

    def fail(self, why):
        raise SchemaError('%s at ...%s' % (why, self.text[self.at:self.at + 40]))

    def skip(self):
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def peek(self, what):
        return self.text.startswith(what, self.at)

    def take(self, what):
        if not self.peek(what):
            return False
        self.at += len(what)
        return True

    def expect(self, what):
        if not self.take(what):
            self.fail('expected %r' % what)

    def match(self, pattern):
        m = re.compile(pattern).match(self.text, self.at)
        if not m:
            self.fail('expected %s' % pattern)
        self.at = m.end()
        return m

    def fields(self, c_name, end):
        out = []
        self.skip()
        while self.at < len(self.text) and not self.peek(end or '\0'):
            if self.take('<'):
                tag = int(self.match(r'(\d+)\s+').group(1))
                f = self.field(c_name)
                f.tag = tag
                self.skip()
                self.expect('>')
            else:
                f = self.field(c_name)
            if any(o.name == f.name for o in out):
                self.fail('field %s twice' % f.name)
            out.append(f)
            self.skip()
        return out

    def field(self, c_name):
        f = Field()
        f.name = self.match(r'[a-z][a-z0-9_]*').group(0)
        if self.take(':'):
            f.array = self.take('[')
            f.type = self.match(r'[a-z0-9]+').group(0)
            if f.type not in TYPES:
                self.fail('unknown type %s' % f.type)
            if f.array:
                self.expect(']')
                if TYPES[f.type][2] is None:
                    self.fail('no array of %s' % f.type)
        elif self.take('[]'):
            f.array = True
        while True:
            if self.take('?>='):
                f.null_since = int(self.match(r'\d+').group(0))
            elif self.take('?'):
                f.null_since, f.null_always = 0, True
            elif self.take('='):
                f.default = self.match(r'-?[0-9A-Za-z]+').group(0)
            elif self.take('{'):
                m = self.match(r'(\d+)(\+|-(\d+))?\}')
                f.since = int(m.group(1))
                f.until = f.since if m.group(2) is None else FOREVER if m.group(2) == '+' else int(m.group(3))
            else:
                break
        if f.type is None:
            self.expect('(')
            sub_name = c_name + camel(f.name)
            f.sub = Struct(sub_name, self.fields(sub_name, ')'))
            self.expect(')')
        return f


def parse_struct(text, c_name):
    p = Parser(text, c_name)
    s = Struct(c_name, p.fields(c_name, None))
    tags = [f.tag for f in s.fields if f.tag >= 0]
    if tags != sorted(set(tags)):
        raise SchemaError('tags not ascending')
    return s


def parse_range(text):
    if text == 'none':
        return 0, -1
    a, b = text.split('-')
    return int(a), int(b)


def options(words, names):
    """{'versions': '0-3', 'lenient': True} out of the words behind a block's name."""
    out, i = {}, 0
    while i < len(words):
        if words[i] not in names:
            raise SchemaError('unknown word %s' % words[i])
        if names[words[i]]:
            out[words[i]] = words[i + 1]
            i += 2
        else:
            out[words[i]] = True
            i += 1
    return out


def read_blocks(path):
    """Yields (line number, heading words, {'Q': text, ...})."""
    heading, lines, where, part = None, {}, 0, None
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            line = line.rstrip()
            if not line or line.startswith('#'):
                continue
            if line.startswith(('api ', 'message ')):
                if heading:
                    yield where, heading, lines
                heading, lines, where, part = line.split(), {}, number, None
            elif re.match(r'[QRF]: ', line):
                part = line[0]
                lines[part] = line[3:]
            elif line[0].isspace() and part:
                lines[part] += ' ' + line.strip()
            else:
                raise SchemaError('%s:%d: what is this line?' % (path, number))
    if heading:
        yield where, heading, lines


def parse_file(path, apis, messages):
    for where, words, lines in read_blocks(path):
        try:
            number, name = int(words[1]), words[2]
            if words[0] == 'api':
                o = options(words[3:], {'versions': 1, 'advertise': 1, 'flexible': 1})
                flexible = int(o.get('flexible', FOREVER))
                v = parse_range(o['versions'])
                pair = []
                for part, kind in (('Q', 'Request'), ('R', 'Response')):
                    # librdkafka puts three bytes behind Metadata v9+ (it keeps its placeholder for a count): Kafka reads on
                    m = Message(name + kind, number, v[0], v[1], flexible, lenient=kind == 'Request', api=True)
                    m.struct = parse_struct(lines[part], 'K' + m.name)
                    pair.append(m)
                apis.append(Api(number, name, *v, *parse_range(o['advertise']), flexible, *pair))
                messages.extend(pair)
            else:
                o = options(words[3:], {'versions': 1, 'flexible': 1, 'lenient': 0, 'prefixed': 0})
                m = Message(name, number, *parse_range(o['versions']), int(o.get('flexible', FOREVER)),
                            'lenient' in o, 'prefixed' in o)
                m.struct = parse_struct(lines['F'], 'K' + name)
                messages.append(m)
        except (SchemaError, KeyError, ValueError, IndexError) as e:
            raise SchemaError('%s:%d: %s' % (path, where, e))


def walk(struct):
    """Inner structs first."""
    for f in struct.fields:
        if f.sub:
            yield from walk(f.sub)
    yield struct


def c_type(f):
    if f.sub:
        if f.array:
            return None
        return 'struct %s *' % f.sub.c_name if f.pointer else 'struct %s ' % f.sub.c_name
    return (TYPES[f.type][2] if f.array else TYPES[f.type][0]) + ' '


def print_struct(s, out):
    out.append('typedef struct %s {' % s.c_name)
    for f in s.fields:
        if f.sub and f.array:
            out.append('    struct {\n        struct %s *items;\n        int32_t n;\n    } %s;' % (f.sub.c_name, f.name))
        else:
            out.append('    %s%s;' % (c_type(f), f.name))
    out.append('} %s;\n' % s.c_name)


def initializers(s):
    """Members whose default is not zero."""
    for f in s.fields:
        if f.array:
            if f.null_always:
                yield '.%s = {NULL, -1}' % f.name
        elif f.sub:
            if not f.pointer:
                inner = ', '.join(initializers(f.sub))
                if inner:
                    yield '.%s = {%s}' % (f.name, inner)
        elif f.type in ('str', 'bytes', 'records'):
            if f.null_always:
                yield '.%s = {NULL, -1}' % f.name
        elif f.default is not None:
            yield '.%s = %s' % (f.name, NUMBERS.get(f.default, f.default))


def print_table(s, message, out):
    inner = ', '.join(initializers(s))
    if inner:
        out.append('static const struct %s %s = {%s};' % (s.c_name, s.default, inner))
    else:
        out.append('static const struct %s %s;' % (s.c_name, s.default))
    name = s.table
    out.append('static const KField %s_fields[] = {' % name)
    for f in s.fields:
        size = 'sizeof(struct %s)' % f.sub.c_name if f.sub else 'sizeof(%s)' % TYPES[f.type][0]
        shape = 'KS_ARRAY' if f.array else 'KS_POINTER' if f.pointer else 'KS_ONE'
        out.append('    {"%s", %s, offsetof(struct %s, %s), %s, %s, %s, %d, %d, %d, %d},' % (
            f.name, '&' + f.sub.table if f.sub else 'NULL', s.c_name, f.name, size,
            'KT_STRUCT' if f.sub else TYPES[f.type][1], shape, f.tag, f.since, f.until, f.null_since))
    out.append('};')
    versions = range(message.v_min, message.v_max + 1)
    out.append('static const KStructTable %s = {&%s, %s_fields, sizeof(struct %s), %d, %d, %d, %d};\n' % (
        name, s.default, name, s.c_name, len(s.fields), sum(1 for f in s.fields if f.tag >= 0),
        max(1, min(s.min_size(v, v >= message.flexible) for v in versions)),
        min(s.min_packed(v) for v in versions)))


def print_header(apis, messages):
    out = ['#pragma once', '', '/* Generated by wire/gen.py from wire/schema/. */', '', '#include "wire/codec.h"', '']
    out.append('enum { /* API keys */')
    out += ['    K_API_%s = %d,' % (snake(a.name).upper(), a.key) for a in apis]
    out.append('};\n\nenum { /* numbers of messages that are no API */')
    out += ['    K_TYPE_%s = %d,' % (snake(m.name).upper(), m.number) for m in messages if not m.api]
    out.append('};\n')
    for m in messages:
        for s in walk(m.struct):
            print_struct(s, out)
        out.append('extern const KMessage %s;\n' % m.table)
    return '\n'.join(out)


def print_source(apis, messages):
    out = ['/* Generated by wire/gen.py from wire/schema/. */', '', '#include "wire/messages.h"', '#include "wire/tables.h"', '']
    for m in messages:
        for s in walk(m.struct):
            print_table(s, m, out)
        out.append('const KMessage %s = {"%s", &%s, %d, %d, %d, %d, %s, %s};\n' % (
            m.table, m.name, m.struct.table, m.number, m.v_min, m.v_max, m.flexible,
            'true' if m.prefixed else 'false', 'true' if m.lenient else 'false'))
    out.append('const KApi k_api_table[] = {')
    for a in apis:
        out.append('    {%d, "%s", %d, %d, %d, %d, %d, &%s, &%s},' % (
            a.key, a.name, a.v_min, a.v_max, a.adv_min, a.adv_max, a.flexible, a.request.table, a.response.table))
    out.append('};\nconst size_t k_api_table_size = sizeof(k_api_table) / sizeof(k_api_table[0]);\n')
    out.append('const KMessage *const k_message_table[] = {')
    out += ['    &%s,' % m.table for m in messages if not m.api]
    out.append('};\nconst size_t k_message_table_size = sizeof(k_message_table) / sizeof(k_message_table[0]);\n')
    return '\n'.join(out)


def check_unique(things, what):
    seen = set()
    for t in things:
        if t in seen:
            raise SchemaError('%s %s twice' % (what, t))
        seen.add(t)


def main(argv):
    apis, messages = [], []
    for path in argv[3:]:
        parse_file(path, apis, messages)
    check_unique((a.key for a in apis), 'api')
    check_unique((m.number for m in messages if not m.api), 'message')
    check_unique((s.c_name for m in messages for s in walk(m.struct)), 'struct')
    apis.sort(key=lambda a: a.key)
    with open(argv[1], 'w', encoding='utf-8') as f:
        f.write(print_header(apis, messages))
    with open(argv[2], 'w', encoding='utf-8') as f:
        f.write(print_source(apis, messages))


if __name__ == '__main__':
    try:
        main(sys.argv)
    except SchemaError as e:
        sys.exit('gen.py: %s' % e)
