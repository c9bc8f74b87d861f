"""A process that announces servers that are none, as fast as it is told to, from an address of this machine's own.

Run as a script: the address it sends from, how many packets a second, whether whole records, and for how long.
"""

import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement

GROUP = ("224.0.0.251", 5353)
_PTR, _TXT, _SRV, _A, _IN = 12, 16, 33, 1, 1


class AnnouncementFlood:
    """Started from a test; `close` ends it."""

    def __init__(self, source="127.0.0.66", packets_s=10_000, *, whole=True, seconds=300.0):
        words = [source, str(packets_s), str(int(whole)), str(seconds)]
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        )
        self.process.stdout.readline()

    def close(self):
        self.process.kill()
        self.process.communicate()


def _name(text):
    return b"".join(bytes((len(part),)) + part.encode() for part in text.rstrip(".").split(".")) + b"\0"


def _record(name, kind, data):
    return _name(name) + struct.pack("!HHIH", kind, _IN, 120, len(data)) + data


def packet(number, *, whole):
    """An announcement of one more name: the pointer alone, or all that belongs to it."""
    record = Announcement(f"ghost-{number}", tls=True)
    records = [_record(SERVICE_TYPE, _PTR, _name(record.instance_name))]
    if whole:
        text = b"".join(
            bytes((len(pair),)) + pair for pair in (f"{k}={v}".encode() for k, v in record.to_txt().items())
        )
        host = f"ghost-{number}.local."
        records.append(_record(record.instance_name, _SRV, struct.pack("!HHH", 0, 0, 9) + _name(host)))
        records.append(_record(record.instance_name, _TXT, text))
        records.append(_record(host, _A, bytes((127, 1, number // 250 % 250, number % 250 + 1))))
    return struct.pack("!HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def main():
    source, rate, whole, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1", float(sys.argv[4])
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    out.bind((source, 0))
    packets = [packet(number, whole=whole) for number in range(20_000)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    begin_s, sent = time.monotonic(), 0
    while (spent_s := time.monotonic() - begin_s) < seconds:
        while sent < spent_s * rate:
            out.sendto(packets[sent % len(packets)], GROUP)
            sent += 1
        time.sleep(0.001)


if __name__ == "__main__":
    main()
