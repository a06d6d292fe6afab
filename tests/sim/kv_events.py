"""Binds a SUB socket of libzmq, says on which port, then prints each message it gets as a line of JSON.

kv_events.py [PORT]; without a port any free one. Ends when its input does.
"""

import json
import sys
import threading

import msgpack
import zmq

socket = zmq.Context.instance().socket(zmq.SUB)
socket.setsockopt(zmq.SUBSCRIBE, b"kv@")
port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
if port:
    socket.bind(f"tcp://127.0.0.1:{port}")
else:
    port = socket.bind_to_random_port("tcp://127.0.0.1")
print(port, flush=True)


def read() -> None:
    while True:
        topic, sequence, payload = socket.recv_multipart()
        time, events, rank = msgpack.unpackb(payload, strict_map_key=False)
        message = {
            "topic": topic.decode(),
            "sequence": int.from_bytes(sequence, "big"),
            "sequence_bytes": len(sequence),
            "time_is_float": isinstance(time, float),
            "events": events,
            "rank": rank,
        }
        print(json.dumps(message), flush=True)


threading.Thread(target=read, daemon=True).start()
sys.stdin.read()
