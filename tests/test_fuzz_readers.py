"""Point-cloud files whose structure is sound and whose numbers are not: each count, size, type and name that a header
has is set to what a hostile one would say. The readers run in a process of their own with little memory, so that one
that ends it, by a signal or without memory, is seen. FUZZ_EXAMPLES=6000 makes it 42,600 in all."""

import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
from limited_memory import limit_memory

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
# What a reader may take beyond what the process has when it starts.
MEMORY = 1 << 30
SECONDS = 20
MAX_POINTS = 1_000_000

NUMBERS = [
    *("-1", "0", "1", "2", "3", "7", "255", "256", "65536", "2147483647", "2147483648", "4294967295", "4294967296"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "-9223372036854775808", "1" * 400),
    *(
        "nan",
        "inf",
        "-inf",
        "1e999",
        "1e308",
        "1e-400",
        "-0",
        "0x10",
        "1_0",
        "\u0661",
        "",
        " ",
        "1.5",
        "+3",
        "--1",
        "1e",
    ),
]
NAMES = ["x", "y", "z", "X", "red", "green", "blue", "rgb", "label", "_", "", "a" * 5000, "a\x00b", "a\x1b[2Jb", "\u202ex", "é",
         "file", "../../x", "x,y", "a\rb", "#", "//", "__proto__", "<script>", "intensity", "COUNT", "vertex"]  # fmt: skip
TYPES = [
    "char",
    "uchar",
    "short",
    "ushort",
    "int",
    "uint",
    "float",
    "double",
    "int8",
    "float64",
    "list",
    "half",
    "",
    "int128",
]


def some(rng, sound, others, chance=0.25):
    """A sound value mostly, else one of others."""
    return rng.choice(others) if rng.random() < chance else sound


def ply(rng):
    form = rng.choice(["ascii", "binary_little_endian", "binary_big_endian"])
    newline = rng.choice(["\n", "\n", "\n", "\r\n", "\r"])
    count = rng.randint(1, 5)
    lines = ["ply", f"format {some(rng, form, TYPES, 0.05)} 1.0"]
    elements = (
        ["vertex"]
        if rng.random() < 0.6
        else rng.sample(["face", "vertex", "edge", "vertex", "a" * 300], rng.randint(1, 3))
    )
    for element in elements:
        lines.append(f"element {element} {some(rng, str(count), NUMBERS, 0.15)}")
        names = [some(rng, name, NAMES, 0.05) for name in "xyz"] + rng.sample(NAMES, some(rng, 0, [1, 3, 20], 0.2))
        for name in names if rng.random() < 0.9 else []:
            kind = some(rng, "float", TYPES, 0.1)
            lines.append(
                f"property list {rng.choice(TYPES)} {kind} {name}" if rng.random() < 0.03 else f"property {kind} {name}"
            )
    if rng.random() < 0.1:
        lines.insert(
            rng.randrange(len(lines)),
            rng.choice(["comment end_header", "obj_info \x07", "comment " + "a" * 10**5, "element"]),
        )
    if rng.random() < 0.1:
        rng.shuffle(lines)
    head = newline.join([*lines, "end_header", ""]).encode("utf-8", "replace")
    return head + (rows(rng, count) if form == "ascii" else rng.randbytes(rng.choice([0, 12 * count, 200, 2000])))


def rows(rng, count, columns=3, delimiter=" "):
    line = lambda: delimiter.join(
        some(rng, f"{rng.random():.3f}", NUMBERS, 0.02) for _ in range(some(rng, columns, [0, 1, 9], 0.05))
    )
    return "\n".join(line() for _ in range(count)).encode() + rng.choice([b"", b"\n", b"\n", b"\n\n", b"\x00"])


def pcd(rng):
    count, form = rng.randint(1, 5), rng.choice(["ascii", "binary", "binary_compressed"])
    fields = {
        "VERSION": [".7"], "FIELDS": [some(rng, name, NAMES, 0.1) for name in "xyz"],
        "SIZE": [some(rng, "4", NUMBERS, 0.03) for _ in "xyz"], "TYPE": [some(rng, "F", ["I", "U", "X", ""], 0.05) for _ in "xyz"],
        "COUNT": [some(rng, "1", NUMBERS, 0.05) for _ in "xyz"], "WIDTH": [some(rng, str(count), NUMBERS, 0.1)], "HEIGHT": ["1"],
        "VIEWPOINT": ["0", "0", "0", "1", "0", "0", "0"], "POINTS": [some(rng, str(count), NUMBERS, 0.1)],
    }  # fmt: skip
    if rng.random() < 0.3:
        fields["WIDTH"] = fields["POINTS"]
    if rng.random() < 0.1:
        del fields[rng.choice(list(fields))]
    head = "".join(f"{name} {' '.join(values)}\n" for name, values in fields.items()) + f"DATA {form}\n"
    body = rows(rng, count) if form == "ascii" else rng.randbytes(12 * count)
    if form == "binary_compressed":
        import lzf

        packed = lzf.compress(bytes(12 * count)) if rng.random() < 0.8 and count > 1 else rng.randbytes(30)
        body = (
            struct.pack("<II", *(some(rng, size, [0, 1, 2**31, 2**32 - 1]) for size in (len(packed), 12 * count)))
            + packed
        )
    return head.encode("utf-8", "replace") + body


DESCRIPTIONS = [
    "'<f4'", "'>f8'", "'<f2'", "'|b1'", "'|S0'", "'|S9'", "'|O'", "'<U3'", "'<c16'", "'<M8[s]'", "'|V0'", "'<f16'", "'|V7'",
    "[('x','<f4'),('y','<f4'),('z','<f4')]", "[('x','|S0'),('y','|S0'),('z','|S0')]", "[('x','<f4',(3,)),('y','<f4'),('z','<f4')]",
    "[('x',[('a','<f4')]),('y','<f4'),('z','<f4')]", "[('x','<f4',(0,)),('y','<f4',(0,)),('z','<f4',(0,))]",
    "[('x\\x1b','<f4'),('y','<f4'),('z','<f4')]", "[('','<f4'),('x','<i1')]", "[('x','O')]", "'nonsense'", "7", "[]", "()",
    "[('x','<f4',(1000000000,))]",
]  # fmt: skip


def npy(rng):
    count = rng.randint(1, 5)
    shape = [some(rng, str(size), NUMBERS, 0.1) for size in (count, 3)[: rng.choice([0, 1, 1, 2, 2, 2])]] + [
        "1"
    ] * some(rng, 0, [1, 60], 0.1)
    content = {
        "descr": some(rng, "'<f4'", DESCRIPTIONS, 0.5), "fortran_order": some(rng, "False", ["True", "1", "None"], 0.1),
        "shape": f"({','.join(shape)}{',' * (len(shape) == 1)})",
    }  # fmt: skip
    text = "{" + ", ".join(f"'{key}': {value}" for key, value in content.items()) + "}"
    text = some(rng, text, ["{" * 500, "-" * 9000 + "1", "'a' * 10**9", text + " " * 70000], 0.05) + "\n"
    version = rng.choice([1, 1, 2, 3])
    raw = text.encode()
    length = some(rng, len(raw), [0, 1, 2**16 - 1, 2**32 - 1], 0.1)
    size = struct.pack("<H", length & 0xFFFF) if version == 1 else struct.pack("<I", length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw + bytes(rng.choice([0, 12 * count, 24 * count, 4096]))


def npz(rng):
    names = rng.choice(
        [
            ["xyz.npy"],
            ["x.npy", "y.npy", "z.npy"],
            ["xyz.npy", "rgb.npy"],
            [f"{i}.npy" for i in range(some(rng, 4, [1500], 0.02))],
        ]
    )
    names = [some(rng, name, [*(f"{name}.npy" for name in NAMES), "a.txt"], 0.05) for name in names]
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((5, 3) if len(names) < 3 else 5, np.float32))
    sound, buffer = buffer.getvalue(), io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    ) as archive:
        for name in names:
            content = some(rng, sound, [npy(rng)], 0.2) + bytes(some(rng, 0, [10**6], 0.05) if len(names) < 9 else 0)
            archive.writestr(zipfile.ZipInfo(name or "a"), content, archive.compression)
    content = bytearray(buffer.getvalue())
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        at = max(len(content) - rng.choice([22, 80, 300]) + rng.randrange(22), 0)
        content[at : at + 4] = rng.choice(
            [b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x00\x00\x00\x00", b"PK\x06\x07"]
        )
    return bytes(content)


def las(rng, compress=False):
    import laspy

    header = laspy.LasHeader(point_format=rng.choice([0, 3, 6, 7]), version="1.4")
    header.vlrs.append(laspy.VLR("someone", 7, "a note", b"abc"))
    points = laspy.LasData(header)
    points.x = points.y = points.z = np.arange(20.0)
    points.add_extra_dim(laspy.ExtraBytesParams("more", rng.choice(["u1", "3f8", "f4"])))
    points.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("someone", 8, "a note", b"def")])
    buffer = io.BytesIO()
    points.write(buffer, do_compress=compress)
    content = bytearray(buffer.getvalue())
    start, length = struct.unpack_from("<I", content, 96)[0], struct.unpack_from("<H", content, 94)[0]
    places = [(94, "H"), (96, "I"), (100, "I"), (104, "B"), (105, "H"), (107, "I"), (235, "Q"), (243, "I"), (247, "Q"), (24, "B"),
              (25, "B"), *((131 + 8 * i, "d") for i in range(6))]  # fmt: skip
    at = length
    while at + 54 <= start:
        size = struct.unpack_from("<H", content, at + 20)[0]
        # Of extra bytes, the type and its options; of LAZ, the kind, the chunks' size and the items.
        places += [
            (at + 20, "H"),
            (at + 18, "H"),
            *((at + 54 + i, "B") for i in (2, 3, 4, 40)),
            *((at + 54 + i, "H") for i in (0, 2, 32, 34, 36, 38)),
        ]
        places += [(at + 54 + 12, "I"), (at + 54 + 16, "Q")] * 3
        at += 54 + size
    places += [(start, "Q"), (start + 8, "I"), (len(content) - 43, "Q")]
    table = struct.unpack_from("<Q", content, start)[0] if compress else 0
    places += [(table, "I"), (table + 4, "I"), (table + 8, "I")] * bool(compress)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, kind = rng.choice(places)
        if at + struct.calcsize(kind) > len(content):
            continue
        most = 256 ** struct.calcsize(kind)
        number = rng.choice([float("nan"), float("inf"), 0.0, 1e308, -1.0, 1e-320]) if kind == "d" else rng.choice(
            [0, 1, 2, most - 1, most // 2, most // 2 - 1, rng.randrange(most), 12_000_000 % most, 20, 255])  # fmt: skip
        struct.pack_into(f"<{kind}", content, at, number)
    return bytes(content[: some(rng, len(content), [0, 100, start, start + 9, len(content) - 70], 0.1)])


def txt(rng):
    delimiter, columns = rng.choice(" ,;\t"), rng.choice([3, 3, 3, 4, 4, 6, 6, 7, 7, 1, 500, 3000])
    names = rng.choice(["", "", "", delimiter.join(rng.choices(NAMES, k=columns)) + "\n"])
    top = rng.choice(
        [
            b"",
            b"",
            b"",
            b"",
            b"",
            b"# a\n" * 3000,
            b"//x y z\n",
            b"\n" * 50,
            b"\xef\xbb\xbf",
            b"#" * 2_000_000,
            b"1" * 2_000_000,
            b"\xff\xfe",
        ]
    )
    return top + names.encode("utf-8", "replace") + rows(rng, rng.randint(0, 6), columns, delimiter)


def pts(rng):
    blocks = []
    for count in rng.choices([0, 1, 3], k=rng.randint(1, 4)):
        claimed = some(rng, str(count), NUMBERS, 0.1)
        blocks.append(f"{claimed}\n".encode() + rows(rng, count, rng.choice([3, 3, 4, 7])).rstrip(b"\n") + b"\n")
    return b"".join(blocks)


def ptx(rng):
    header = [["2"], ["2"], ["0"] * 3, ["1", "0", "0"], ["0", "1", "0"], ["0", "0", "1"]]
    header += [["1", "0", "0", "0"], ["0", "1", "0", "0"], ["0", "0", "1", "0"], ["5", "6", "7", "1"]]
    blocks = []
    for _ in range(rng.randint(1, 3)):
        lines = [" ".join(some(rng, number, NUMBERS, 0.01) for number in line) for line in header]
        if rng.random() < 0.1:
            lines.insert(rng.randrange(10), lines.pop(rng.randrange(10)))
        points = [" ".join(["0.25", "2", "3", "0.5", *some(rng, [], [["1", "2", "3"], ["1"]], 0.1)]) for _ in range(4)]
        points[0] = " ".join(some(rng, "0", NUMBERS, 0.05) for _ in points[0].split())
        if rng.random() < 0.3:
            colors = rng.choice(["1 2 3", "0.5 0 1", "1.5 2 3", "0 0 nan"])
            points = [points[0], "0 0 0 0.5", *(f"{line} {colors}" for line in points[2:])]
        blocks.append("\n".join([*lines, *points, ""]))
    content = "".join(blocks).replace("\n", some(rng, "\n", ["\r\n", "\r"], 0.2)).encode()
    return content[: some(rng, len(content), [rng.randrange(len(content))], 0.1)]


def annotation(rng):
    odd = [
        b"1 " * 5,
        b"1" * 3000 + b"x 1 1 1 1 1",
        b"\x00" * 50,
        b"1 2 3 4 5 nan",
        b"1e999 0 0 0 0 0",
        b"1 2 3 4 5 6 7",
        b"",
        b"\r",
    ]
    lines = [some(rng, b"%d.5 -2.25 0.125 %d 20 255" % (i, i), odd, 0.1) for i in range(20)]
    return rng.choice([b"\n", b"\n", b"\r\n", b"\r"]).join(lines)


MAKERS = {
    "ply": ply, "pcd": pcd, "npy": npy, "npz": npz, "las": las, "laz": lambda rng: las(rng, compress=True), "txt": txt,
    "pts": pts, "ptx": ptx, "annotation": annotation,
}  # fmt: skip


def feed(kind, seed, examples, folder):
    """Read made files; each result is one clear error or points, and what is read can be written, or says why not."""
    from deepgcn_seg.data.annotation_file import read_points
    from deepgcn_seg.data.scans.files import read_scan, write_scan
    from deepgcn_seg.errors import UserError

    def late(*_):
        raise RuntimeError(f"not read after {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    limit_memory(MEMORY)
    rng = random.Random(seed)
    path, read = folder / f"a.{'txt' if kind == 'annotation' else kind}", 0
    for _ in range(examples):
        path.write_bytes(MAKERS[kind](rng))
        signal.alarm(SECONDS)
        try:
            if kind == "annotation":
                assert np.isfinite(read_points(path, [])).all()
            else:
                scan = read_scan(path, max_points=MAX_POINTS)
                assert np.isfinite(scan.xyz).any() and len(scan.xyz) == len(scan) <= MAX_POINTS
                assert scan.rgb is None or scan.rgb.shape == (len(scan), 3)
                assert all(name.isprintable() and 0 < len(name) <= 64 for name in scan.fields)
                other = (
                    folder
                    / f"b.{rng.choice(['ply', 'las', 'pcd', 'npy', 'npz', 'txt', 'csv', 'pts' if kind == 'ptx' else kind])}"
                )
                write_scan(other, scan, {"label": np.zeros(len(scan), np.uint8)}, ["classes: a"])
                assert len(read_scan(other)) == len(scan)
            read += 1
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 1000, repr(str(error))  # noqa: PT017
        except BaseException:
            traceback.print_exc()
            sys.exit(f"in {path}")
        finally:
            signal.alarm(0)
    print(json.dumps({"examples": examples, "read": read}))


@pytest.mark.parametrize("kind", MAKERS)
def test_hostile_headers_are_an_error_or_sound_data(tmp_path, kind):
    # A LAZ file is decoded in a process of its own, which takes a tenth of a second.
    examples = max(EXAMPLES // 10, 10) if kind == "laz" else EXAMPLES
    seed = int(os.environ.get("FUZZ_SEED", "0"))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_fuzz_readers as t; from pathlib import Path; "
    code += "t.feed(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), kind, str(seed), str(examples), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + examples)
    assert done.returncode == 0, f"status {done.returncode}, input {tmp_path}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    # Enough of them are sound, or nothing behind the header is tried.
    assert found["examples"] == examples and found["read"] > examples / 50
    print(kind, found)
