"""A Kafka client that says exactly what it is told: any API in any version, from the schema, with dicts for structs."""
import pathlib
import socket
import struct
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "wire"))
import gen  # noqa: E402

APIS = []
gen.parse_file(str(pathlib.Path(__file__).parents[2] / "wire" / "schema" / "kafka.txt"), APIS, [])
APIS = {a.name: a for a in APIS}
NUMBERS = {"bool": ">?", "i8": ">b", "i16": ">h", "u16": ">H", "i32": ">i", "u32": ">I", "i64": ">q", "f64": ">d"}
CONSTANTS = {"MIN32": -2**31, "MAX64": 2**63 - 1, "true": True, "false": False}


class Writer:
    def __init__(self, version, flexible):
        self.out, self.version, self.flexible = bytearray(), version, flexible

    def uvarint(self, n):
        while n >= 0x80:
            self.out.append(n & 0x7F | 0x80)
            n >>= 7
        self.out.append(n)

    def count(self, n, classic):  # None = null
        if self.flexible:
            self.uvarint(0 if n is None else n + 1)
        else:
            self.out += struct.pack(classic, -1 if n is None else n)

    def one(self, f, value):
        if f.sub:
            self.struct(f.sub, value)
        elif f.type in NUMBERS:
            self.out += struct.pack(NUMBERS[f.type], value)
        elif f.type == "uuid":
            self.out += value
        else:
            data = value.encode() if isinstance(value, str) else value
            self.count(None if data is None else len(data), ">h" if f.type == "str" else ">i")
            self.out += data or b""

    def field(self, f, value):
        if f.array:
            self.count(None if value is None else len(value), ">i")
            for v in value or []:
                self.one(f, v)
        else:
            self.one(f, value)

    def struct(self, s, values):
        unknown = set(values) - {f.name for f in s.fields if f.is_in(self.version)}
        assert not unknown, unknown
        for f in s.fields:
            if f.is_in(self.version) and f.tag < 0:
                self.field(f, values[f.name] if f.name in values else default(f))
        if self.flexible:
            self.uvarint(0)


def default(f):
    if f.default is not None:
        return CONSTANTS[f.default] if f.default in CONSTANTS else int(f.default)
    if f.null_always:
        return None
    if f.array:
        return []
    return {} if f.sub else {"str": "", "bytes": b"", "records": b"", "uuid": bytes(16)}.get(f.type, 0)


class Reader:
    def __init__(self, data, version, flexible):
        self.data, self.at, self.version, self.flexible = data, 0, version, flexible

    def take(self, n):
        assert self.at + n <= len(self.data), "short answer"
        self.at += n
        return self.data[self.at - n:self.at]

    def uvarint(self):
        n = shift = 0
        while True:
            b = self.take(1)[0]
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return n

    def count(self, classic):
        n = self.uvarint() - 1 if self.flexible else struct.unpack(classic, self.take(struct.calcsize(classic)))[0]
        return None if n < 0 else n

    def one(self, f):
        if f.sub:
            return self.struct(f.sub)
        if f.type in NUMBERS:
            return struct.unpack(NUMBERS[f.type], self.take(struct.calcsize(NUMBERS[f.type])))[0]
        if f.type == "uuid":
            return self.take(16)
        n = self.count(">h" if f.type == "str" else ">i")
        data = None if n is None else self.take(n)
        return data.decode() if f.type == "str" and data is not None else data

    def field(self, f):
        if not f.array:
            return self.one(f)
        n = self.count(">i")
        return None if n is None else [self.one(f) for _ in range(n)]

    def struct(self, s):
        values = {f.name: self.field(f) for f in s.fields if f.is_in(self.version) and f.tag < 0}
        for _ in range(self.uvarint() if self.flexible else 0):
            tag, size = self.uvarint(), self.uvarint()
            end = self.at + size
            values.update({f.name: self.field(f) for f in s.fields if f.tag == tag})
            self.at = end
        return values


class Client:
    def __init__(self, address, client_id="rules", timeout=20):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout)
        self.file = self.socket.makefile("rb")
        self.client_id, self.correlation = client_id, 0

    def send(self, name, version, **body):
        api = APIS[name]
        flexible = version >= api.flexible
        self.correlation += 1
        w = Writer(version, flexible)
        w.struct(api.request.struct, body)
        client = self.client_id.encode()
        head = struct.pack(">hhih", api.key, version, self.correlation, len(client)) + client + (b"\0" if flexible else b"")
        self.socket.sendall(struct.pack(">i", len(head) + len(w.out)) + head + w.out)

    def receive(self, name, version):
        size = self.file.read(4)
        assert len(size) == 4, "closed"
        data = self.file.read(struct.unpack(">i", size)[0])
        api = APIS[name]
        flexible = version >= api.flexible
        r = Reader(data, version, flexible)
        assert struct.unpack(">i", r.take(4))[0] == self.correlation
        if flexible and name != "ApiVersions":
            assert r.uvarint() == 0
        answer = r.struct(api.response.struct)
        assert r.at == len(data), f"{len(data) - r.at} bytes too many"
        return answer

    def ask(self, name, version, **body):
        self.send(name, version, **body)
        return self.receive(name, version)

    def is_closed(self):
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


TABLE = []
for i in range(256):
    c = i
    for _ in range(8):
        c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    TABLE.append(c)


def crc32c(data):
    crc = 0xFFFFFFFF
    for b in data:
        crc = crc >> 8 ^ TABLE[(crc ^ b) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(n):
    n = n << 1 ^ n >> 63
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])


def record(delta, key, value, timestamp_delta=0):
    def part(b):
        return varint(-1) if b is None else varint(len(b)) + b
    body = b"\0" + varint(timestamp_delta) + varint(delta) + part(key) + part(value) + varint(0)
    return varint(len(body)) + body


def batch(records, timestamp=None, producer=(-1, -1, -1), attributes=0, base_offset=0, magic=2, **wrong):
    """`records`: [(key, value)] or [(key, value, timestamp_delta)]; `wrong`: header fields that are not as they should be."""
    timestamp = int(time.time() * 1000) if timestamp is None else timestamp
    body = b"".join(record(i, *r) for i, r in enumerate(records))
    newest = timestamp + max((r[2] for r in records if len(r) > 2), default=0)
    tail = struct.pack(">hiqqqhii", wrong.get("attributes", attributes), wrong.get("last_offset_delta", len(records) - 1), timestamp,
                       wrong.get("max_timestamp", newest), *producer, wrong.get("count", len(records))) + body
    return struct.pack(">qiibI", base_offset, len(tail) + 9, -1, magic, wrong.get("crc", crc32c(tail))) + tail
